"""Any file in MedMNIST's layout: one .npz with {train,val,test}_{images,labels}."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ccsi.data.dataset import SPLITS, Raw, Source, state_of
from ccsi.errors import UserError
from ccsi.io.paths import expand

LAYOUT: dict[str, tuple[type[np.generic], str, str]] = {
    "images": (np.uint8, "uint8 grey levels from 0 to 255", "(N, H, W) or (N, H, W, 3)"),
    "labels": (np.integer, "whole numbers (an integer type)", "one label an image: (N,) or (N, 1)"),
}
"""Type and shape of the arrays `<split>_images` and `<split>_labels`, the last two for messages."""
KEYS = [f"{split}_{kind}" for split in SPLITS for kind in LAYOUT]


@dataclass(frozen=True, kw_only=True)
class Npz(Source):
    """A .npz file in MedMNIST's layout, without pickled objects.

    Its six arrays are, for each of train, val and test: `<split>_images`, uint8 [N, H, W] or [N, H, W, 3], and
    `<split>_labels`, whole numbers from 0, [N] or [N, 1].

    Args:
        path: the file; `~` is the home folder.
        class_names: in label order; None: "0", "1", … up to the largest training label.
    """

    path: str
    class_names: list[str] | None = None

    def stamp(self) -> str:
        return state_of(expand(self.path, "dataset.path"))

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        return read_npz(expand(self.path, "dataset.path"), self.class_names)


def read_npz(path: Path, class_names: list[str] | None) -> tuple[dict[str, Raw], tuple[str, ...]]:
    """The splits and class names of a .npz file, checked to be as `Npz` says."""
    try:
        archive = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected an .npz file in MedMNIST's layout.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .npz file; expected one in MedMNIST's layout.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{path} holds a single array; expected an .npz file in MedMNIST's layout.")
    with archive:
        arrays = {key: read_array(archive, key, path) for key in KEYS}
    splits = {split: Raw(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in SPLITS}
    if class_names is None:
        train = splits["train"].labels
        largest = int(train.max(initial=-1))
        if largest >= max(1, len(train)):
            raise UserError(f"{path}: train_labels has label {largest} but only {len(train)} images; expected 0, 1, ….")
        class_names = [str(label) for label in range(largest + 1)]
    return splits, tuple(class_names)


def read_array(archive: Any, key: str, path: Path) -> npt.NDArray[Any]:
    """Images, uint8 [N, H, W] or [N, H, W, 3], or labels, int64 [N]."""
    if key not in archive.files:
        raise UserError(f"{path} has no array {key}; expected {', '.join(KEYS)}.")
    try:
        array: npt.NDArray[Any] = archive[key]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise UserError(
                f"{path}: {key} holds pickled objects, which are never loaded; expected numbers."
            ) from error
        raise UserError(f"{path} is damaged: {key} cannot be read; expected a complete .npz file.") from error
    kind = key.partition("_")[2]
    dtype, expected, shapes = LAYOUT[kind]
    if not np.issubdtype(array.dtype, dtype):
        has_nan = np.issubdtype(array.dtype, np.inexact) and bool(np.isnan(array).any())
        raise UserError(f"{path}: {key} is {array.dtype}{' with NaN in it' * has_nan}; expected {expected}.")
    if kind == "images":
        fits = array.ndim in (3, 4) and array.shape[3:] in ((), (3,)) and 0 not in array.shape[1:]
    else:
        fits = array.ndim > 0 and array.shape[1:] in ((), (1,))
    if not fits:
        raise UserError(f"{path}: {key} has shape {array.shape}; expected {shapes}.")
    return array if kind == "images" else array.reshape(len(array)).astype(np.int64)
