"""The user's images: a folder with one sub-folder a class."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ccsi.checks import NonNegativeInt
from ccsi.data.dataset import SPLITS, Raw, Source, state_of
from ccsi.data.fit import fit_images
from ccsi.data.split import OpenShare, stratified
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
    split_seed: NonNegativeInt = 0

    def stamp(self) -> str:
        """See `Source.stamp`."""
        root = Path(self.path).expanduser()
        tops = [root / split for split in SPLITS if (root / split).is_dir()] or [root]
        try:
            kinds = [top / name for top in tops for name in class_folders(top)]
            return "\n".join(state_of(file) for kind in kinds for file in image_files(kind))
        except UserError:  # `read` raises it too
            return ""

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        """See `Source.read`."""
        if self.val_share + self.test_share >= 1:
            raise UserError(
                f"dataset.val_share={self.val_share} and dataset.test_share={self.test_share} leave nothing to train "
                "on; expected a sum below 1."
            )
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; expected one with a sub-folder for each class.")
        named = [split for split in SPLITS if (root / split).is_dir()]
        if not named:
            everything, names = self.read_classes(root)
            parts = stratified(everything.labels, (self.val_share, self.test_share), self.split_seed)
            cut = [Raw(everything.images[i], everything.labels[i]) for i in parts]
            return dict(zip(SPLITS, cut, strict=True)), names
        if len(named) < len(SPLITS):
            raise UserError(
                f"{root} has a folder {named[0]} but not all of train, val and test; expected these three, "
                "or only a folder for each class."
            )
        classes = {split: class_folders(root / split) for split in SPLITS}
        for split in SPLITS:
            if odd := set(classes["train"]) ^ set(classes[split]):
                raise UserError(f"{root}: train and {split} do not have the same classes: {min(odd)} is in one only.")
        read = {split: self.read_classes(root / split)[0] for split in SPLITS}
        if any(raw.images.ndim == 4 for raw in read.values()):
            read = {
                split: raw if raw.images.ndim == 4 else Raw(as_rgb(raw.images), raw.labels)
                for split, raw in read.items()
            }
        return read, tuple(classes["train"])

    def read_classes(self, folder: Path) -> tuple[Raw, tuple[str, ...]]:
        """All images of `folder`/<class>/ at `size`, and the class names."""
        names = class_folders(folder)
        files = [(file, label) for label, name in enumerate(names) for file in image_files(folder / name)]
        images = [self.read_fitted(file) for file, _ in files]
        if any(image.ndim == 3 for image in images):
            images = [image if image.ndim == 3 else as_rgb(image) for image in images]
        return Raw(np.stack(images), np.array([label for _, label in files], dtype=np.int64)), names

    def read_fitted(self, file: Path) -> npt.NDArray[np.uint8]:
        """One image at `size`: uint8 [S, S] or [S, S, 3]."""
        fitted = fit_images(read_image(file)[None], self.size, self.fit, self.channels, where=str(file))[0]
        return (fitted[0] if len(fitted) == 1 else fitted.permute(1, 2, 0)).numpy()


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, in alphabetical order."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); expected a folder for each class.") from error
    if not names:
        raise UserError(f"{folder} has no sub-folders; expected one for each class.")
    return tuple(names)


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
    """One image of any mode: uint8 [H, W] if it is grey, else [H, W, 3].

    Raises:
        UserError: the file is broken, or its pixels are no 8- or 16-bit grey levels or colours.
    """
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode.startswith("I"):
                deep = np.asarray(image)
                if deep.min() < 0 or deep.max() > 0xFFFF:
                    raise ValueError("more than 16 bits a pixel")
                return (deep >> 8).astype(np.uint8)
            if image.mode == "F":
                raise ValueError("floating-point pixels")
            if "A" in image.getbands() or "transparency" in image.info:
                grey = image.mode in ("L", "LA", "La")
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                flat = Image.alpha_composite(black, image.convert("RGBA"))
                return np.array(flat.convert("L" if grey else "RGB"))
            return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(f"{file} cannot be read as an image ({reason}); expected a whole picture file.") from error


def as_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[..., H, W] to [..., H, W, 3] by repetition."""
    return np.repeat(grey[..., None], 3, axis=-1)
