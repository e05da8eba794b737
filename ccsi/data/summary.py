"""What a user should know of a data set before it is trained on: sizes, what was skipped, duplicates."""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ccsi.data.dataset import SPLITS, Dataset, counted
from ccsi.io.text import printable

MOST_CLASSES = 20  # in a table; of more the figures are condensed
FEW = 3  # names given as examples
WIDEST = 40  # characters of a class's name in the table
CHUNK = 1024  # images made contiguous at a time


@dataclass(frozen=True)
class Duplicates:
    """Images whose pixels at the model's size are those of an earlier image of the same split, or of another split.

    Attributes:
        counts: how many; keys are a split ("train": within it) or two ("test in train").
        relabelled: those of them whose earlier image is of another class.
        examples: for each key the first few pairs of names, `earlier = later`.
    """

    counts: Mapping[str, int]
    relabelled: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Summary:
    """Of a data set. lines: to print; warnings: whole sentences, not among the lines; record: figures without names."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def all_lines(self) -> list[str]:
        """The lines, and the warnings, marked as such."""
        return [*self.lines, *(f"warning: {text}" for text in self.warnings)]


def summarize(data: Dataset) -> Summary:
    """The summary of a data set; reads every image once, to hash it."""
    origin, duplicates = data.origin, find_duplicates(data)
    sizes = {split: len(getattr(data, split)) for split in SPLITS}
    shape, n = tuple(data.train.images.shape[1:]), sum(sizes.values())
    source = f"{printable(data.name)}{f' from {printable(origin.path)}' if origin.path else ''}"
    stored = f", stored as {size_range(origin.shapes)} pixels (height x width)" if origin.shapes else ""
    channels = {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]} channels")
    lines = [
        f"data: {source}: {counted(n, 'image', 'images')} of {len(data.class_names)} classes, "
        + ", ".join(f"{split} {size:,}" for split, size in sizes.items()),
        f"input: {' x '.join(map(str, shape))} ({channels}){stored}; {printable(origin.depth)}",
        *class_lines(data),
    ]
    for reason, paths in origin.skipped.items():
        folders = sum(path.endswith("/") for path in paths)
        kinds = (len(paths) - folders, "file", "files"), (folders, "folder", "folders")
        both = " and ".join(counted(*kind) for kind in kinds if kind[0])
        lines.append(f"skipped: {both}, {printable(reason)}: {few(map(printable, paths))}")
    if origin.groups:
        each = ", ".join(f"{split} {len({*groups}):,}" for split, groups in origin.groups.items())
        lines.append(f"groups: {len({*chain(*origin.groups.values())}):,}, {each}")
    if origin.left_out:
        lines.append(f"left out: {counted(origin.left_out, 'image', 'images')} of train (dataset.max_per_class)")
    warnings = [printable(text) for text in origin.warnings]
    for key, found in duplicates.counts.items():
        examples = few([printable(one) for one in duplicates.examples[key]], found)
        other = f", {duplicates.relabelled[key]:,} of them with another class" if duplicates.relabelled[key] else ""
        if not found:
            continue
        if key in SPLITS:
            lines.append(
                f"duplicates: {counted(found, 'image', 'images')} of {key} repeat an earlier one{other}: {examples}"
            )
        else:
            later, _, earlier = key.partition(" in ")
            copies = f"{found:,} of {sizes[later]:,} images of {later} are also in {earlier}, pixel by pixel{other}"
            warnings.append(f"{copies}: {examples}.")
    if not any(duplicates.counts.values()):
        lines.append("duplicates: none")
    record = {
        "shape": list(shape),
        "stored_shapes": origin.shapes and [list(one) for one in origin.shapes],
        "depth": origin.depth,
        "skipped": {reason: len(paths) for reason, paths in origin.skipped.items()},
        "duplicates": dict(duplicates.counts),
    }
    return Summary(tuple(lines), tuple(warnings), record)


def class_lines(data: Dataset) -> list[str]:
    """How many images each class has in each split: a table, or what is said of more than `MOST_CLASSES`."""
    names = [printable(name) for name in data.class_names]
    counts = {
        split: np.bincount(getattr(data, split).labels.numpy(), minlength=len(names)).tolist() for split in SPLITS
    }
    if len(names) > MOST_CLASSES:
        lines = []
        for split, own in counts.items():
            smallest = sorted(range(len(names)), key=own.__getitem__)[:FEW]
            middle = f"{median(own):,.1f}".removesuffix(".0")
            least = ", ".join(f"{clipped(names[c])} {own[c]:,}" for c in smallest)
            lines.append(
                f"images of a class in {split}: {min(own):,} to {max(own):,}, median {middle}; fewest: {least}"
            )
        return lines
    width = max(len("class"), *(len(clipped(name)) for name in names))
    widths = {split: max(len(split), *(len(f"{n:,}") for n in own)) for split, own in counts.items()}
    lines = [f"{'class':<{width}}" + "".join(f"  {split:>{widths[split]}}" for split in SPLITS)]
    for label, name in enumerate(names):
        numbers = "".join(f"  {counts[split][label]:>{widths[split]},}" for split in SPLITS)
        lines.append(f"{clipped(name):<{width}}{numbers}")
    return lines


def find_duplicates(data: Dataset) -> Duplicates:
    """Those of a data set; an image's copies are found by 64 bits of a hash of its pixels."""
    hashes = {split: hashes_of(getattr(data, split).images) for split in SPLITS}
    counts, relabelled, examples = dict[str, int](), dict[str, int](), dict[str, tuple[str, ...]]()
    firsts = {split: np.unique(own, return_index=True) for split, own in hashes.items()}
    pairs = [(split, split) for split in SPLITS] + list(combinations(SPLITS, 2))
    for earlier, later in pairs:
        key = later if earlier == later else f"{later} in {earlier}"
        values, first = firsts[earlier]
        at = np.minimum(np.searchsorted(values, hashes[later]), len(values) - 1)
        partner = first[at]  # the earliest image of `earlier` with this hash, if there is one
        same = values[at] == hashes[later]
        if earlier == later:
            same &= partner != np.arange(len(same))
        positions = np.flatnonzero(same)
        labels = [getattr(data, split).labels.numpy() for split in (earlier, later)]
        counts[key] = len(positions)
        relabelled[key] = int((labels[0][partner[positions]] != labels[1][positions]).sum())
        examples[key] = tuple(
            f"{name_of(data, earlier, int(partner[i]))} = {name_of(data, later, int(i))}" for i in positions[:FEW]
        )
    return Duplicates(counts, relabelled, examples)


def hashes_of(images: Tensor) -> npt.NDArray[np.uint64]:
    """64 bits of the SHA-256 of each image's pixels: uint8 [N, C, S, S] to uint64 [N]."""
    digests = bytearray()
    for chunk in images.split(CHUNK):
        for image in chunk.contiguous().numpy().reshape(len(chunk), -1):
            digests += hashlib.sha256(image).digest()[:8]
    return np.frombuffer(bytes(digests), dtype=np.uint64)


def name_of(data: Dataset, split: str, index: int) -> str:
    """An image's file, or where it has none its split and index."""
    files = data.origin.files.get(split, ())
    return files[index] if files else f"{split}[{position_of(data, split, index)}]"


def position_of(data: Dataset, split: str, index: int) -> int:
    """An image's position in its source's split, before images were put in order by class."""
    positions = data.origin.positions.get(split, ())
    return positions[index] if positions else index


def split_rows(data: Dataset) -> Iterator[tuple[str | int, ...]]:
    """A head, then for each image its split, index in it, file, class number, class name and group.

    File and group are empty where there are none.
    """
    yield "split", "index", "file", "label", "class", "group"
    for split in SPLITS:
        files, groups = data.origin.files.get(split, ()), data.origin.groups.get(split, ())
        for index, label in enumerate(getattr(data, split).labels.tolist()):
            file, group = files[index] if files else "", groups[index] if groups else ""
            yield split, position_of(data, split, index), file, label, data.class_names[label], group


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    r"""Rows as the content of a CSV file in UTF-8; what UTF-8 cannot write is escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


def clipped(name: str) -> str:
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…"


def few(names: Iterable[str], total: int | None = None) -> str:
    """The first few names; `total`: how many there are in all."""
    names = list(names)
    more = (len(names) if total is None else total) > min(FEW, len(names))
    return ", ".join([*names[:FEW], *(["…"] if more else [])])


def size_range(shapes: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """`28x28`, or `24x30 to 640x480`."""
    texts = [f"{height}x{width}" for height, width in shapes]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)
