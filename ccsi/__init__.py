"""Data-free class-incremental learning: CCSI and its rivals on one protocol (see README.md).

import ccsi

model = ccsi.fit("images_2025")  # a folder with one sub-folder a class
model = model.extend("images_2026")  # new classes, without the old images
model.save("model_2026")
print(ccsi.load("model_2026").evaluate("labelled"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccsi.errors import UserError
    from ccsi.model import Model, fit, load

__all__ = ["Model", "UserError", "fit", "load"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is used: PyTorch takes seconds, and `ccsi --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("ccsi.errors" if name == "UserError" else "ccsi.model"), name)
