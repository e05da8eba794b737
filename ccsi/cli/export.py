"""A model as ONNX, or as a torch.export program.

A model for programs without ccsi: image, float32 [N, C, S, S] in [0, 1], to
probabilities, [N, classes]. The file is checked against the model itself on
random images, and the largest difference is printed.

  ccsi export model_2026 out=model.onnx     for onnxruntime and many others
  ccsi export model_2026 out=model.pt2      for torch.export.load
  ccsi export other_model out=other.onnx

The class names and how an image becomes the input are in the ONNX file's
metadata. It needs pip install 'ccsi[onnx]'.

Options:
  --help            this text
  --config-dir DIR  where a learner of your own is named, if the model has one
"""

from ccsi.cli._paths import call_with_paths

CONFIG = "export"
EXPECTED = "MODEL and out=FILE"


def main(arguments: list[str]) -> None:
    """Export as `arguments` say."""
    call_with_paths(CONFIG, {"model_folder": "MODEL"}, "ccsi export MODEL out=FILE.onnx", arguments)
