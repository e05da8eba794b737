"""What a model says of each image in a folder.

What a model says of each image in a folder, of any depth, as a table: file,
class, probability, familiarity, and the next best classes. An image that cannot
be read has a row that says why, and does not stop the others.

  ccsi predict model_2026 new_slides out=slides.csv
  ccsi predict model_2026 cells.npz out=cells.csv top=1
  ccsi predict model_2026 one.png out=one.csv

familiarity is the percentile of the image among val images of the class that it
is most like. Values below 5 for many images say that they are like nothing that
the model knows: then it is time to extend it. Of one image they say little.

Options:
  --help            this text
  --config-dir DIR  where a learner of your own is named, if the model has one

Settings (key=value):
  out=FILE.csv          the table; it must not exist
  top=3                 classes in a row
  batch=256             images at a time, for each thread
  device=auto|cpu|cuda  threads=N (default: all CPUs)
"""

from ccsi.cli._paths import call_with_paths

CONFIG = "predict"
EXPECTED = "MODEL, FOLDER and key=value"


def main(arguments: list[str]) -> None:
    """Predict as `arguments` say."""
    call_with_paths(
        CONFIG, {"model_folder": "MODEL", "images": "FOLDER"}, "ccsi predict MODEL FOLDER out=FILE.csv", arguments
    )
