"""Sources of data: uint8 images in three splits, with class names."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ccsi.checks import Pixels, PositiveInt
from ccsi.data.fit import StoredImages, channels_of, chunks_of, fit_into
from ccsi.errors import UserError
from ccsi.io.text import printable

SPLITS = ("train", "val", "test")
Draw = Literal["by_class", "together"]
OpenShare = Annotated[float, Gt(0), Lt(1)]
"""A fraction of each class: (0, 1)."""
NAMED = 5
"""Files that a message names before it only counts them."""


@dataclass(frozen=True)
class Raw:
    """One split as a source finds it: labels int64 [N] from 0, and images that are read already or when needed.

    Arrays of images are uint8 [N, H, W] or [N, H, W, 3]. groups: the patient, or other group, of each image.
    """

    images: npt.NDArray[np.uint8] | StoredImages
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_] | None = None

    def __getitem__(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Raw":
        """The images and labels at some ascending positions, or where a mask is true."""
        return Raw(self.images[which], self.labels[which], None if self.groups is None else self.groups[which])


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
        path: the file or folder; "" where there is none (a data set of a package).
        files: for each split the path of each of its images, relative to `path`, in their order; empty where the
            images are not files of their own. Bytes that are not UTF-8 are escaped (`printable`).
        positions: for each split the position that each of its images had in the source, where that is another one
            and the images are not files of their own.
        groups: for each split the group of each of its images; empty where there are no groups.
        drawn: splits whose images were drawn from train's by a seed.
        left_out: training images that `Source.max_per_class` leaves out.
        channels: of the images as stored, 1 or 3; 0 if unknown.
        shapes: the smallest and the largest (height, width) before fitting; None if unknown.
        depth: of the pixels as stored, and how they became 8 bit: "8 bit", "16 bit, 0 to 4095 scaled to 0 to 255".
        ranges: by the kind of pixels ("16 bit"), the values that became 0 and 255; empty if all were 8 bit.
        skipped: for each reason the paths, relative to `path`, that were not read; those of folders end with a slash.
        warnings: whole sentences about what was read but looks wrong (constant images, …).
    """

    path: str = ""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    left_out: int = 0
    channels: int = 0
    shapes: tuple[tuple[int, int], tuple[int, int]] | None = None
    depth: str = "8 bit"
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Contents(NamedTuple):
    """What a source finds: the splits "train", "val" and "test", the class names in label order, and their origin."""

    splits: dict[str, Raw]
    class_names: tuple[str, ...]
    origin: Origin = Origin()


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
        draw: of the images for `max_per_class` and for seeded splits: `by_class`, so that a class's images, and their
            order, do not depend on which other classes there are (a model that is extended gets those of a run on all
            classes): they then come class by class. `together`: one draw over all, in the source's order, as in files
            of versions that did not have this key.
    """

    name: str
    size: Pixels = 32
    fit: Literal["pad", "resize"] = "pad"
    channels: Literal[1, 3] | None = None
    max_per_class: PositiveInt | None = None
    draw: Draw = "together"

    @abstractmethod
    def read(self) -> Contents | tuple[dict[str, Raw], tuple[str, ...]]:
        """The splits "train", "val" and "test", the class names in label order, and an Origin if there is more to say.

        Raises:
            UserError: data missing, damaged, or not what this source expects.
        """

    def stamp(self) -> str:
        """A text that differs between states of the source's files; "" if the configuration determines them."""
        return ""

    def prepare(self, contents: Contents) -> Contents:
        """`contents` after `max_per_class`, with what has to be known of all images before the first is converted."""
        return contents

    def load(self, optional: Collection[str] = ()) -> Dataset:
        """Check all splits, then read them and convert them to the input size.

        Each split's tensor is allocated once and filled piece by piece, so the peak of memory is little above the size
        of the images returned.

        optional: splits that may lack images of some or all classes.

        Raises:
            UserError: see `read`; also labels out of range, an empty class, images that do not fit or need more memory
                than the machine has.
        """
        contents = Contents(*self.read())
        for split in SPLITS:
            check_labels(contents.splits[split], split, contents.class_names, self.name, split in optional)
        seen, train = Seen(), contents.splits["train"]
        if not any(len(raw.labels) for raw in contents.splits.values()):
            raise UserError(f"{self.name} has no image; expected some of each class.")
        if self.max_per_class is not None:
            contents.splits["train"] = first_of_each_class(train, self.max_per_class, self.draw)
            seen.left_out = len(train.labels) - len(contents.splits["train"].labels)
        splits, class_names, origin = self.prepare(contents)
        stored = {channels_of(raw.images) for raw in splits.values()}
        channels = {self.channels or one for one in stored}
        if len(channels) > 1:
            raise UserError(
                f"{self.name}: some splits are grey and some RGB; expected one kind, or dataset.channels set."
            )
        shape = (channels.pop(), self.size, self.size)
        check_memory(sum(len(raw.labels) for raw in splits.values()) * math.prod(shape), self.name)
        ready, digest = {}, hashlib.sha256()
        for split in SPLITS:
            raw = splits.pop(split)  # one split's images at a time are held as the source has them
            order = np.argsort(raw.labels, kind="stable") if self.draw == "by_class" else np.arange(len(raw.labels))
            images, labels = self.converted(raw, split, shape, order, seen), raw.labels[order]
            ready[split] = Labelled(images, torch.from_numpy(labels))
            digest.update(images.numpy().data)
            digest.update(labels.data)
        names = tuple(map(printable, class_names))  # a folder's name need not be UTF-8
        origin = replace(seen.added_to(origin), channels=max(stored))
        return Dataset(printable(self.name), names, **ready, checksum=digest.hexdigest(), origin=origin)

    def converted(
        self, raw: Raw, split: str, shape: tuple[int, int, int], order: npt.NDArray[np.int64], seen: "Seen"
    ) -> Tensor:
        """The images of `raw` at the model's input size, uint8 [N, *shape]; what they looked like goes to `seen`.

        order: the positions in `raw`, in the order that the images are to have.
        """
        images, at = torch.empty(len(raw.labels), *shape, dtype=torch.uint8), 0
        is_sorted = bool((order[:-1] < order[1:]).all())
        places = torch.from_numpy(np.argsort(order))
        names = raw.images.names if isinstance(raw.images, StoredImages) else ()
        for chunk in chunks_of(raw.images):
            fitted = images[at : at + len(chunk)] if is_sorted else images.new_empty(len(chunk), *shape)
            fit_into(fitted, chunk, self.fit, names[at] if names else f"{self.name} ({split})")
            if not is_sorted:
                images[places[at : at + len(chunk)]] = fitted
            seen.shapes.add((chunk.shape[1], chunk.shape[2]))
            pixels = chunk.reshape(len(chunk), chunk.shape[1] * chunk.shape[2], -1)
            for i in np.flatnonzero((pixels == pixels[:, :1]).all(axis=(1, 2))).tolist():
                seen.constant.append(names[at + i] if names else f"{split} {at + i}")
            at += len(chunk)
        if names:
            seen.files[split] = tuple(names[i] for i in order.tolist())
        elif not is_sorted:
            seen.positions[split] = tuple(order.tolist())
        if raw.groups is not None:
            seen.groups[split] = tuple(raw.groups[order].tolist())
        if isinstance(raw.images, StoredImages):
            seen.warnings += raw.images.warnings()
        return images


@dataclass
class Seen:
    """What is known of images only when they are read; see `Origin`. constant: names of images of one value."""

    shapes: set[tuple[int, int]] = field(default_factory=set)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    positions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: int = 0
    constant: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def added_to(self, origin: Origin) -> Origin:
        """`origin` with this."""
        warnings = [*origin.warnings, *self.warnings]
        if self.constant:
            n = counted(len(self.constant), "image has", "images have")
            warnings.append(f"{n} the same value in all pixels: {listed(self.constant)}.")
        by_area = sorted(self.shapes, key=lambda shape: (shape[0] * shape[1], shape))
        shapes = (by_area[0], by_area[-1])
        return replace(
            origin,
            files=self.files,
            positions=self.positions,
            groups=self.groups,
            left_out=self.left_out,
            shapes=shapes,
            warnings=tuple(warnings),
        )


def counted(n: int, one: str, several: str) -> str:
    """`1 image has`, `2 images have`."""
    return f"{n:,} {one if n == 1 else several}"


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(printable, names[:NAMED])) + more


def state_of(path: Path) -> str:
    """A file's path, size and time of change; "" if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


def check_memory(size: int, where: str) -> None:
    """Raise UserError if `size` bytes are more than this machine's memory (unknown on some systems: no check)."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return
    if size > memory > 0:
        raise UserError(
            f"{where}: {size / 2**30:,.1f} GiB are needed in memory, but this machine has {memory / 2**30:,.1f} GiB; "
            "expected a smaller dataset.size or dataset.max_per_class."
        )


def check_labels(
    raw: Raw, split: str, class_names: tuple[str, ...], where: str, may_lack_classes: bool = False
) -> None:
    """Raise UserError unless every label is in range and every class present, if it must be."""
    n, where = len(class_names), f"{where}: {split}"
    if len(raw.images) != len(raw.labels):
        raise UserError(f"{where} has {len(raw.images)} images but {len(raw.labels)} labels; expected as many.")
    if not len(raw.labels) and not may_lack_classes:
        raise UserError(f"{where} is empty; expected images of {n} classes.")
    outside = raw.labels[(raw.labels < 0) | (raw.labels >= n)]
    if len(outside):
        raise UserError(f"{where} has label {outside[0]}; expected whole numbers from 0 to {n - 1}.")
    empty = np.setdiff1d(np.arange(n), raw.labels)
    if len(empty) and not may_lack_classes:
        raise UserError(f"{where} has no image of class {empty[0]} ({class_names[empty[0]]}); each class needs one.")


def first_of_each_class(raw: Raw, limit: int, draw: Draw) -> Raw:
    """At most `limit` images of each class, the first of a permutation seeded with 0, in the original order."""
    if draw == "by_class":
        keep = [members[:limit] for members in shuffled_classes(raw.labels, 0, draw)]
    else:
        order = np.random.default_rng(0).permutation(len(raw.labels))
        keep = [order[raw.labels[order] == label][:limit] for label in np.unique(raw.labels)]
    return raw[np.sort(np.concatenate([np.arange(0), *keep]))]


def shuffled_classes(labels: npt.NDArray[np.int64], seed: int, draw: Draw) -> Iterator[npt.NDArray[np.int64]]:
    """The positions of each class's images, in a seeded order; see `Source.draw`."""
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        if draw == "by_class":
            generator = np.random.default_rng(seed)
        yield generator.permutation(np.flatnonzero(labels == label))


def stratified(raw: Raw, shares: Sequence[float], seed: int, draw: Draw) -> list[Raw]:
    """The parts of `stratified_parts`, each in the original order."""
    part = stratified_parts(raw.labels, shares, seed, draw)
    return [raw[part == number] for number in range(1 + len(shares))]


def stratified_parts(
    labels: npt.NDArray[np.int64], shares: Sequence[float], seed: int, draw: Draw
) -> npt.NDArray[np.int64]:
    """Each image's part in a seeded split: 0 for the remainder, then 1, 2, … for each of the `shares`.

    A share in (0, 1) gets round(share · n) of a class's n images, but at least one as long as one is left for the
    remainder, which gets the others.
    """
    number = np.zeros(len(labels), dtype=np.int64)
    for left in shuffled_classes(labels, seed, draw):
        wanted = [max(1, round(share * len(left))) for share in shares]
        for part, size in enumerate(wanted, start=1):
            size = min(size, len(left) - 1)
            number[left[:size]], left = part, left[size:]
    return number
