"""How well a model does on labelled images, by task.

A model on labelled images of classes that it knows: accuracy, mean recall, AUC
and calibration error by task, and the confusion matrix.

  ccsi evaluate model_2026 labelled
  ccsi evaluate model_2026 cells.npz split=val
  ccsi evaluate model_2026 labelled out=figures.json

FOLDER has one sub-folder for each class, called as in the model, or the split
folders train, val and test, of which test is used.

Options:
  --help            this text
  --config-dir DIR  where a learner of your own is named, if the model has one

Settings (key=value):
  split=train|val|test|all  default: test where there are splits, else all
  out=FILE.json             the figures for machines
  device=auto|cpu|cuda      threads=N (default: all CPUs)
"""

from ccsi.cli._paths import call_with_paths

CONFIG = "evaluate"
EXPECTED = "MODEL, FOLDER and key=value"


def main(arguments: list[str]) -> None:
    """Evaluate as `arguments` say."""
    call_with_paths(CONFIG, {"model_folder": "MODEL", "images": "FOLDER"}, "ccsi evaluate MODEL FOLDER", arguments)
