"""The user's images: a folder with one sub-folder a class."""

from collections import deque
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ccsi.checks import Seed
from ccsi.data.dataset import SPLITS, OpenShare, Raw, Source, fit_images, state_of, stratified
from ccsi.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """Images in `path`/{train,val,test}/<class>/, or in `path`/<class>/ with a seeded split.

    Classes are numbered in the alphabetical order of their folders' names. Images of any size and mode are converted
    to `size` one by one as they are read: 16-bit grey keeps its upper byte, transparent parts become black, a palette
    becomes RGB, and of several frames the first is used; if any image is in colour, all become RGB. Hidden files and
    files without an image's suffix are ignored.

    Args:
        path: the folder; `~` is the home folder.
        val_share: fraction of each class for val; only without train/val/test folders.
        test_share: fraction of each class for test; only without train/val/test folders.
        split_seed: which image goes to which split.
    """

    name: str = "folder"
    path: str
    fit: Literal["pad", "resize"] = "resize"
    val_share: OpenShare = 0.2
    test_share: OpenShare = 0.2
    split_seed: Seed = 0

    def stamp(self) -> str:
        return "\n".join(state_of(file) for _, _, file in self.files()[1])

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        if self.val_share + self.test_share >= 1:
            raise UserError(
                f"dataset.val_share={self.val_share} and dataset.test_share={self.test_share} leave nothing to train "
                "on; expected a sum below 1."
            )
        class_names, files = self.files()
        images = deque(self.read_fitted(file) for _, _, file in files)
        shape = max((image.shape for image in images), key=len)  # if one is in colour, all become RGB
        parts = []
        for _, own in groupby(files, key=itemgetter(0)):
            labels = np.array([label for _, label, _ in own], dtype=np.int64)
            parts.append(Raw(np.empty((len(labels), *shape), dtype=np.uint8), labels))
            for row in parts[-1].images:
                row.T[:] = images.popleft().T  # grey fills all channels; each image is freed as it is copied
        if len(parts) == 1:
            parts = stratified(parts.pop(), (self.val_share, self.test_share), self.split_seed)
        return dict(zip(SPLITS, parts, strict=True)), tuple(class_names)

    def files(self) -> tuple[list[str], list[tuple[str, int, Path]]]:
        """The class names, and of each image its split (or "", if there are no folders for them), label and file."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; expected one with a sub-folder for each class.")
        splits = [split for split in SPLITS if (root / split).is_dir()]
        if splits and len(splits) < len(SPLITS):
            raise UserError(
                f"{root} has a folder {splits[0]} but not all of train, val and test; expected these three, "
                "or only a folder for each class."
            )
        names = class_folders(root / "train" if splits else root)
        for split in splits:
            if odd := set(names) ^ set(class_folders(root / split)):
                raise UserError(f"{root}: train and {split} do not have the same classes: {min(odd)} is in one only.")
        folders = [(split, label, root / split / name) for split in splits or [""] for label, name in enumerate(names)]
        return names, [(split, label, file) for split, label, folder in folders for file in image_files(folder)]

    def read_fitted(self, file: Path) -> npt.NDArray[np.uint8]:
        """One image at `size`: uint8 [S, S] or [S, S, 3]."""
        fitted = fit_images(read_image(file)[None], self.size, self.fit, self.channels, where=str(file))[0]
        return (fitted[0] if len(fitted) == 1 else fitted.permute(1, 2, 0)).numpy()


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders, in alphabetical order."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); expected a folder for each class.") from error
    if not names:
        raise UserError(f"{folder} has no sub-folders; expected one for each class.")
    return names


def image_files(folder: Path) -> list[Path]:
    """All image files in and below a class's folder, in alphabetical order; at least one."""
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not found:
        raise UserError(f"{folder} has no image; expected at least one file ({', '.join(SUFFIXES)}).")
    return found


def read_image(file: Path) -> npt.NDArray[np.uint8]:
    """One image of any mode, uint8 [H, W] if it is grey, else [H, W, 3]; UserError if it cannot be read."""
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith("I"):
                levels = np.asarray(image)
                if levels.min() < 0 or levels.max() > 0xFFFF:
                    raise ValueError("more than 16 bits a pixel")
                return (levels >> 8).astype(np.uint8)
            if image.mode == "F":
                raise ValueError("floating-point pixels")
            mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
            if "A" not in image.getbands() and "transparency" not in image.info:
                return np.array(image.convert(mode))
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert(mode))
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{file} cannot be read as an image ({reason}); expected a whole picture file.") from error
