"""New classes for a model, without old images.

The next task of a model: the classes in FOLDER that it does not know, learned
without any image of the old ones. The old model is not changed.

  ccsi extend model_2025 blood_2026 out=model_2026
  ccsi extend old new out=next evaluate.data=labelled   old and new accuracy,
                                         before and after, on images to show
  ccsi extend old all out=next new_images=ignore        only the new classes

The method and its settings are the old model's; learner.… and training.… may be
changed. The same command resumes what was interrupted. Beside the new model are
pictures of what the method dreamt of the old classes, and of its training.

Options:
  --help            this text
  --show            print the resolved configuration and stop
  --config-dir DIR  a folder of configs beside the package's own

Common settings (key=value):
  out=MODEL                           the new folder; it must not exist
  classes=[cat,dog]                   only these classes of FOLDER
  new_images=refuse|ignore            of classes that the model knows already
  evaluate.data=FOLDER                labelled images, old classes too
  dataset.nested=true  dataset.val_share=0.2
  training.epochs=N  training.lr=X
  device=auto|cpu|cuda  threads=N  workers=N  resources.gpu=1
All settings: add --show.
"""

from ccsi.cli._learning import learn
from ccsi.cli._paths import split_paths
from ccsi.cli.help import print_text

RESUME = "the same command resumes it"
CONFIG = "extend"
EXPECTED = "OLD, FOLDER and key=value"


def main(arguments: list[str], show: bool = False) -> None:
    """Extend with `arguments`, or only show the configuration."""
    from ccsi.config import to_yaml
    from ccsi.model.compose import extend_config
    from ccsi.model.folder import read_record

    (old, *images), typed = split_paths(arguments, ["OLD", "FOLDER"], "ccsi extend OLD FOLDER out=NEW", optional=1)
    composed = extend_config(images[0] if images else None, typed, read_record(old))
    if show:
        print_text(to_yaml(composed).rstrip())
    else:
        learn(composed, old)
