"""Sources of data: uint8 images in three splits, with class names."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import Pixels, PositiveInt
from ccsi.errors import UserError

SPLITS = ("train", "val", "test")
OpenShare = Annotated[float, Gt(0), Lt(1)]
"""A fraction of each class: (0, 1)."""
CHUNK = 1024
"""Images converted at a time, which limits the memory of intermediate results."""


@dataclass(frozen=True)
class Raw:
    """One split as a source reads it: images uint8 [N, H, W] or [N, H, W, 3], labels int64 [N] from 0."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __getitem__(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Raw":
        """The images and labels at some positions, or where a mask is true."""
        return Raw(self.images[which], self.labels[which])


@dataclass(frozen=True)
class Labelled:
    """Images at the model's input size, uint8 [N, C, S, S], with labels, int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Tensor:
        """A copy of the images at `indices` (int64, on the CPU, ascending, each once)."""
        return self.images[indices]


@dataclass(frozen=True)
class Origin:
    """Where the images of a data set come from, and how they were read: what a summary says of it.

    Attributes:
        place: the file or folder; "" where there is none (a data set of a package).
        files: for each split the path of each of its images, relative to `place`, in their order; empty where the
            images are not files of their own.
        shapes: the smallest and the largest (height, width) before fitting; None if unknown.
        depth: of the pixels as stored, and how they became 8 bit: "8 bit", "16 bit, 0 to 4095 scaled to 0 to 255".
        skipped: for each reason the paths, relative to `place`, that were not read.
        warnings: whole sentences about what was read but looks wrong (constant images, …).
    """

    place: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shapes: tuple[tuple[int, int], tuple[int, int]] | None = None
    depth: str = "8 bit"
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set ready for use: three splits at the input size, on the CPU.

    Attributes:
        class_names: in label order.
        checksum: SHA-256 of all images and labels after padding, resizing and limits.
        origin: where the images come from.
    """

    name: str
    class_names: tuple[str, ...]
    train: Labelled
    val: Labelled
    test: Labelled
    checksum: str
    origin: Origin = Origin()


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A source of images, which converts them to the model's input size.

    Args:
        name: of the data set, in tables and plots.
        size: side of the square model input, in pixels.
        fit: `pad` centres the image in zeros (it must not be larger than `size`); `resize` scales it (bilinear,
            antialiased).
        channels: 1 or 3; null: those of the images. Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601
            luma.
        max_per_class: training images of each class, the first of a permutation seeded with 0; null: all. Val and
            test are never cut.
    """

    name: str
    size: Pixels = 32
    fit: Literal["pad", "resize"] = "pad"
    channels: Literal[1, 3] | None = None
    max_per_class: PositiveInt | None = None

    @abstractmethod
    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        """The splits "train", "val" and "test", and the class names in label order.

        Raises:
            UserError: data missing, damaged, or not what this source expects.
        """

    def stamp(self) -> str:
        """A text that differs between states of the source's files; "" if the configuration determines them."""
        return ""

    def load(self) -> Dataset:
        """Read and check all splits, and convert them to the input size.

        Raises:
            UserError: see `read`; also labels out of range, an empty class, images that do not fit.
        """
        splits, class_names = self.read()
        ready, digest = {}, hashlib.sha256()
        for split in SPLITS:
            raw = splits.pop(split)  # the raw and the converted images of all splits are never in memory at once
            check_labels(raw, split, class_names, self.name)
            if split == "train" and self.max_per_class is not None:
                raw = first_of_each_class(raw, self.max_per_class)
            images = fit_images(raw.images, self.size, self.fit, self.channels, where=f"{self.name} ({split})")
            ready[split] = Labelled(images, torch.from_numpy(raw.labels))
            digest.update(images.numpy().data)
            digest.update(raw.labels.data)
        if len({part.images.shape[1] for part in ready.values()}) > 1:
            raise UserError(
                f"{self.name}: some splits are grey and some RGB; expected one kind, or dataset.channels set."
            )
        return Dataset(self.name, class_names, **ready, checksum=digest.hexdigest())


def state_of(path: Path) -> str:
    """A file's path, size and time of change; "" if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


def check_labels(raw: Raw, split: str, class_names: tuple[str, ...], where: str) -> None:
    """Raise UserError unless every label is in range and every class present."""
    n, where = len(class_names), f"{where}: {split}"
    if len(raw.images) != len(raw.labels):
        raise UserError(f"{where} has {len(raw.images)} images but {len(raw.labels)} labels; expected as many.")
    if not len(raw.labels):
        raise UserError(f"{where} is empty; expected images of {n} classes.")
    outside = raw.labels[(raw.labels < 0) | (raw.labels >= n)]
    if len(outside):
        raise UserError(f"{where} has label {outside[0]}; expected whole numbers from 0 to {n - 1}.")
    empty = np.setdiff1d(np.arange(n), raw.labels)
    if len(empty):
        raise UserError(f"{where} has no image of class {empty[0]} ({class_names[empty[0]]}); each class needs one.")


def first_of_each_class(raw: Raw, limit: int) -> Raw:
    """At most `limit` images of each class, the first of a permutation seeded with 0, in the original order."""
    order = np.random.default_rng(0).permutation(len(raw.labels))
    keep = [order[raw.labels[order] == label][:limit] for label in np.unique(raw.labels)]
    return raw[np.sort(np.concatenate(keep))]


def stratified(raw: Raw, shares: Sequence[float], seed: int) -> list[Raw]:
    """A seeded split into the remainder and then each of the `shares`, each in the original order.

    A share in (0, 1) gets round(share · n) of a class's n images, but at least one; the remainder gets the others.
    """
    draw = np.random.default_rng(seed)
    number = np.zeros(len(raw.labels), dtype=np.int64)  # of each image's part
    for label in np.unique(raw.labels):
        members = draw.permutation(np.flatnonzero(raw.labels == label))
        sizes = [max(1, round(share * len(members))) for share in shares]
        for part, indices in enumerate(np.split(members, np.cumsum(sizes))[:-1], start=1):
            number[indices] = part
    return [raw[number == part] for part in range(1 + len(shares))]


def fit_images(
    images: npt.NDArray[np.uint8], size: int, fit: Literal["pad", "resize"], channels: int | None, where: str
) -> Tensor:
    """The images at the model's input size: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB) to [N, C, size, size].

    Args:
        fit: `pad` (zeros on all sides, the odd pixel right and below) or `resize` (bilinear, antialiased).
        channels: 1, 3, or None to keep those of the images.
        where: name of the data, for messages.

    Raises:
        UserError: `pad` with an image larger than `size`.
    """
    n, (height, width) = len(images), images.shape[1:3]
    if fit == "pad" and max(height, width) > size:
        raise UserError(
            f"{where}: images of {height}x{width} pixels do not fit into dataset.size={size} by padding; "
            f"use dataset.fit=resize or a dataset.size of at least {max(height, width)}."
        )
    fitted = torch.empty(n, channels or (1 if images.ndim == 3 else 3), size, size, dtype=torch.uint8)
    for at in range(0, n, CHUNK):
        x = torch.from_numpy(np.ascontiguousarray(images[at : at + CHUNK]))
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        if channels == 1 and x.shape[1] == 3:
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).round()
        if fit == "pad":
            left, top = (size - width) // 2, (size - height) // 2
            x = F.pad(x, (left, size - width - left, top, size - height - top))
        elif (height, width) != (size, size):
            x = F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
            x = x.round().clamp(0, 255)
        fitted[at : at + CHUNK] = x  # grey fills all channels
    return fitted
