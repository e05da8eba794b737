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
        """See `Source.stamp`."""
        return state_of(Path(self.path).expanduser())

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        """See `Source.read`."""
        return read_npz(Path(self.path).expanduser(), self.class_names)


def read_npz(path: Path, class_names: list[str] | None) -> tuple[dict[str, Raw], tuple[str, ...]]:
    """The splits and class names of a .npz file.

    Raises:
        UserError: the file is missing or damaged, lacks an array, or an array is not as `Npz` says.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected an .npz file in MedMNIST's layout.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .npz file; expected one in MedMNIST's layout.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{path} holds a single array; expected an .npz file in MedMNIST's layout.")
    with archive:
        splits = {split: Raw(read_images(archive, split, path), read_labels(archive, split, path)) for split in SPLITS}
    if class_names is None:
        train = splits["train"].labels
        largest = int(train.max(initial=-1))
        if largest >= max(1, len(train)):
            raise UserError(f"{path}: train_labels has label {largest} but only {len(train)} images; expected 0, 1, ….")
        class_names = [str(label) for label in range(largest + 1)]
    return splits, tuple(class_names)


def read_images(archive: Any, split: str, path: Path) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W] or [N, H, W, 3]."""
    key = f"{split}_images"
    array = read_array(archive, key, path)
    if array.dtype != np.uint8:
        raise UserError(f"{path}: {key} is {dtype_of(array)}; expected uint8 grey levels from 0 to 255.")
    if array.ndim not in (3, 4) or 0 in array.shape[1:] or (array.ndim == 4 and array.shape[3] != 3):
        raise UserError(f"{path}: {key} has shape {array.shape}; expected (N, H, W) or (N, H, W, 3).")
    return array


def read_labels(archive: Any, split: str, path: Path) -> npt.NDArray[np.int64]:
    """int64 [N]."""
    key = f"{split}_labels"
    array = read_array(archive, key, path)
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{path}: {key} is {dtype_of(array)}; expected whole numbers (an integer type).")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{path}: {key} has shape {array.shape}; expected one label an image: (N,) or (N, 1).")
    return array.astype(np.int64)


def read_array(archive: Any, key: str, path: Path) -> npt.NDArray[Any]:
    """One array of the archive."""
    if key not in archive.files:
        raise UserError(f"{path} has no array {key}; expected {', '.join(ALL_KEYS)}.")
    try:
        array: npt.NDArray[Any] = archive[key]
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            raise UserError(
                f"{path}: {key} holds pickled objects, which are never loaded; expected numbers."
            ) from error
        raise UserError(f"{path} is damaged: {key} cannot be read; expected a complete .npz file.") from error
    return array


ALL_KEYS = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]


def dtype_of(array: npt.NDArray[Any]) -> str:
    """The array's type in words, and whether it has a NaN."""
    has_nan = np.issubdtype(array.dtype, np.inexact) and bool(np.isnan(array).any())
    return f"{array.dtype} with NaN in it" if has_nan else str(array.dtype)
