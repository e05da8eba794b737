"""A first model, from a folder of images.

A first model from a folder of images with one sub-folder a class, from an .npz
file, or from a data set that ccsi knows by name.

  ccsi fit blood_2025 out=model_2025       two or more classes of images
  ccsi fit cells.npz out=m learner=ccsi    another method (see ccsi run --help)
  ccsi fit bloodmnist out=m 'classes=[basophil,eosinophil]'

The model is a folder: model.json, MODEL_CARD.md, tensors. It is written whole
or not at all. The same command resumes what was interrupted. FOLDER may hold
train, val and test; else a seeded share of each class is for val and for test.

Options:
  --help            this text
  --show            print the resolved configuration and stop
  --config-dir DIR  a folder of configs beside the package's own

Groups (choose with group=name):
{groups}

Common settings (key=value):
  out=MODEL                           the new folder; it must not exist
  classes=[cat,dog]                   only these classes of FOLDER
  dataset.size=32  dataset.nested=true  dataset.val_share=0.2
  training.epochs=N  training.first_epochs=N  training.lr=X
  device=auto|cpu|cuda  threads=N  seed=N  workers=N  resources.gpu=1
All settings: add --show.
"""

from ccsi.cli._learning import learn
from ccsi.cli._paths import split_paths
from ccsi.cli.help import print_text

RESUME = "the same command resumes it"
CONFIG = "fit"
EXPECTED = "FOLDER and key=value"


def main(arguments: list[str], show: bool = False) -> None:
    """Fit with `arguments`, or only show the configuration."""
    from ccsi.config import to_yaml
    from ccsi.model.compose import fit_config

    paths, typed = split_paths(arguments, ["FOLDER"], "ccsi fit FOLDER out=MODEL", optional=1)
    composed = fit_config(paths[0] if paths else None, typed)
    if show:
        print_text(to_yaml(composed).rstrip())
    else:
        learn(composed, None)
