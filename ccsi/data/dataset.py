"""What every source gives: uint8 images in three splits, and the classes' names."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccsi.checks import PositiveInt
from ccsi.data.fit import fit_images
from ccsi.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Raw:
    """One split as a source read it.

    images: uint8 [N, H, W] or [N, H, W, 3]; labels: int64 [N], values in [0, number of classes).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Images at the model's input size with labels.

    images: uint8 [N, C, S, S]; labels: int64 [N]. Both on one device.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: Tensor) -> Tensor:
        """The images at the positions `chosen` (int64, on the CPU, ascending, none twice), in memory of their own."""
        return self.images[chosen]

    def to(self, device: torch.device) -> "Labelled":
        """The same on `device`."""
        return Labelled(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set ready for use: three splits at the input size (on the CPU), names, and a checksum.

    `checksum` is the SHA-256 of all images and labels as they are used (after pad, resize, limits).
    """

    name: str
    class_names: tuple[str, ...]
    train: Labelled
    val: Labelled
    test: Labelled
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where images come from, and how they are brought to the model's input size.

    Args:
        name: what tables and plots call the data set.
        size: side of the square model input, in pixels.
        fit: `pad` puts the image in the middle of zeros (it must not be larger than `size`);
            `resize` scales it (bilinear, antialiased).
        channels: 1 or 3; None keeps what the images have. Grey becomes RGB by repetition, RGB becomes
            grey by ITU-R 601 luma.
        max_per_class: keep at most so many training images of each class, the first ones of a
            permutation seeded with 0 (None: all). Val and test are never cut.
    """

    name: str
    size: PositiveInt = 32
    fit: Literal["pad", "resize"] = "pad"
    channels: Literal[1, 3] | None = None
    max_per_class: PositiveInt | None = None

    @abstractmethod
    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        """The three splits by name ("train", "val", "test"), and the class names in label order.

        Raises:
            UserError: data missing, damaged, or not what this source expects.
        """

    def stamp(self) -> str:
        """What tells one state of the files behind this source from another; "" where its settings pin them."""
        return ""

    def load(self) -> Dataset:
        """Read, check, and bring everything to the input size.

        Raises:
            UserError: see `read`; also labels out of range, an empty class, images that do not fit.
        """
        splits, class_names = self.read()
        ready = {}
        for split in SPLITS:
            raw = splits.pop(split)  # read and ready are never both there for all splits
            check_labels(raw, split, class_names, self.name)
            if split == "train" and self.max_per_class is not None:
                raw = first_of_each_class(raw, self.max_per_class)
            images = fit_images(raw.images, self.size, self.fit, self.channels, where=f"{self.name} ({split})")
            ready[split] = Labelled(images, torch.from_numpy(raw.labels))
        if len({part.images.shape[1] for part in ready.values()}) > 1:
            raise UserError(
                f"{self.name}: some splits are grey and some RGB; expected one kind, or dataset.channels set."
            )
        digest = hashlib.sha256()
        for part in ready.values():
            digest.update(part.images.numpy().data)
            digest.update(part.labels.numpy().data)
        return Dataset(self.name, class_names, ready["train"], ready["val"], ready["test"], digest.hexdigest())


def state_of(path: Path) -> str:
    """A file's place, size and time of change; "" if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


def check_labels(raw: Raw, split: str, class_names: tuple[str, ...], where: str) -> None:
    """Every label in range and every class present, or UserError."""
    n = len(class_names)
    if len(raw.images) != len(raw.labels):
        raise UserError(
            f"{where}: {split} has {len(raw.images)} images but {len(raw.labels)} labels; expected as many."
        )
    if len(raw.labels) == 0:
        raise UserError(f"{where}: {split} is empty; expected images of {n} classes.")
    low, high = int(raw.labels.min()), int(raw.labels.max())
    if low < 0 or high >= n:
        bad = low if low < 0 else high
        raise UserError(f"{where}: {split} has label {bad}; expected whole numbers from 0 to {n - 1}.")
    counts = np.bincount(raw.labels, minlength=n)
    if (counts == 0).any():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise UserError(f"{where}: {split} has no image of class {empty} ({class_names[empty]}); each class needs one.")


def first_of_each_class(raw: Raw, limit: int) -> Raw:
    """At most `limit` images of each class, chosen by a permutation seeded with 0, in the original order."""
    order = np.random.default_rng(0).permutation(len(raw.labels))
    keep = np.zeros(len(raw.labels), dtype=bool)
    for label in np.unique(raw.labels):
        keep[order[raw.labels[order] == label][:limit]] = True
    return Raw(raw.images[keep], raw.labels[keep])
