"""A reader of images without labels, in batches of a network's input, in memory that does not grow with their number.

Files are decoded by threads, some batches ahead of the network.
"""

import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccsi.checks import PositiveInt
from ccsi.data.dataset import SPLITS
from ccsi.data.decode import SUFFIXES
from ccsi.data.fit import rows_at_a_time
from ccsi.data.input import InputFormat
from ccsi.data.npz import Rows, member_of, name_of, open_archive
from ccsi.data.parts import SMALL, THREADS, Batch, Chunk, Part, array_parts, file_parts, in_order, joined
from ccsi.data.walk import Walk
from ccsi.errors import UserError
from ccsi.io.paths import expand
from ccsi.io.text import printable

__all__ = ["Batch", "ImageStream", "open_images"]
AHEAD = 2
"""Batches that may be ready, or being read, before they are asked for."""
SOURCES = "expected a folder of images, an image file, or an .npz file"


class ImageStream:
    """Images in batches of one size, but for the last. It may be iterated again, and is then read anew.

    An iteration that is left early (by `break`, an exception, Ctrl-C) waits for the files that are being decoded, one
    for each thread, and leaves no thread. What image libraries warn of is not printed from then on.

    Attributes:
        total: the number of images; of a folder, when it was opened.
        skipped: how many files and folders of a folder were passed over, by reason: in the last whole iteration, and
            before one at the opening.

    Raises:
        UserError: while it is iterated, that the source cannot be read any more (a damaged .npz file, a folder that is
            no longer there).
    """

    def __init__(
        self,
        parts: Callable[[Counter[str]], Iterator[Part]],
        batch: int,
        total: int,
        skipped: Mapping[str, int] | None = None,
        threads: int = THREADS,
    ) -> None:
        """parts: what is to be read, no part across the end of a batch; it adds what it passes over to the counter."""
        self.parts = parts
        self.batch = batch
        self.total = total
        self.threads = threads
        self.skipped: Mapping[str, int] = skipped or {}

    def __iter__(self) -> Iterator[Batch]:
        # `decode.noted` is not for threads: what it changes while it records is of the whole process
        warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
        skipped, ready, n = Counter[str](), list[Batch](), 0
        with closing(in_order(self.parts(skipped), AHEAD * self.batch, self.threads)) as read:
            for part in read:
                ready.append(part)
                n += len(part.names)
                if n == self.batch:
                    batch, ready, n = joined(ready), [], 0
                    yield batch
        self.skipped = skipped
        if ready:
            yield joined(ready)


def open_images(
    source: str | Path | npt.NDArray[np.uint8] | Tensor,
    form: InputFormat,
    batch: PositiveInt = 256,
    split: str | None = None,
) -> ImageStream:
    """A stream of all images of a source.

    Args:
        source: a folder, whose image files are found at any depth, in natural order; an image file; an .npz file in
            MedMNIST's layout (its splits in the order train, val, test), or with one array `images`; an array, uint8
            [N, H, W] or [N, H, W, C]; a tensor, uint8 [N, C, H, W], or of floating point in [0, 1], which is multiplied
            by 255 and rounded to uint8. C is 1 or 3.
        form: what the images become.
        split: the split of an .npz file to read; None: all that it has.

    Raises:
        UserError: no such file or folder, no image in it, or arrays of another type or shape.
    """
    if batch < 1:
        raise UserError(f"batch={batch}: expected a whole number of at least 1.")
    is_npz = isinstance(source, str | Path) and str(source).lower().endswith(".npz")
    if split is not None and not is_npz:
        raise UserError(f"split={split}: only an .npz file has splits.")
    if isinstance(source, Tensor):
        return open_tensor(source, form, batch)
    if isinstance(source, np.ndarray):
        return open_array(source, form, batch)
    path = expand(source, "images")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); {SOURCES}.") from error
    if stat.S_ISDIR(mode):
        return open_folder(path, form, batch)
    if not stat.S_ISREG(mode):
        raise UserError(f"{printable(path)} is no regular file; {SOURCES}.")
    if is_npz:
        return open_npz(path, form, batch, split)
    return ImageStream(lambda _: file_parts(path.parent, [path.name], form, batch), batch, total=1)


def open_folder(root: Path, form: InputFormat, batch: int) -> ImageStream:
    """See `open_images`. The folder is walked through once to count its images, and again by each iteration."""

    def parts(skipped: Counter[str]) -> Iterator[Part]:
        walk = Walk(root)
        yield from file_parts(root, walk.files(), form, batch)
        skipped.update(walk.skipped)

    walk = Walk(root)
    files = walk.files()
    first = next(files, None)
    total = (first is not None) + sum(1 for _ in files)
    if not total:
        passed = ", ".join(f"{n:,} × {why}" for why, n in walk.skipped.items())
        there = f" (it has {passed})" if passed else ""
        raise UserError(f"{printable(root)} has no image{there}; expected at least one file ({', '.join(SUFFIXES)}).")
    with suppress(OSError):  # it may be gone by now
        if first is not None and (root / first).stat().st_size < SMALL:
            return ImageStream(parts, batch, total, walk.skipped, threads=1)
    return ImageStream(parts, batch, total, walk.skipped)


def open_npz(path: Path, form: InputFormat, batch: int, split: str | None) -> ImageStream:
    """See `open_images`."""
    where, keys = printable(path), {f"{name}_images": name for name in SPLITS} | {"images": ""}
    if split is not None:
        if split not in SPLITS:
            raise UserError(f"split={split}: expected one of {', '.join(SPLITS)}.")
        keys = {f"{split}_images": split}
    with open_archive(path) as archive:
        found = [key for key in keys if name_of(archive, key) is not None]
        found = found[:-1] if found[-1:] == ["images"] and len(found) > 1 else found
        if not found:
            raise UserError(f"{where} has no array {' or '.join(keys)}; expected at least one of these.")
        members = {keys[key]: member_of(archive, path, key) for key in found}
    for name, member in members.items():
        form.convert_arrays(np.empty((0, *member.shape[1:]), np.uint8), f"{where}: {name or 'images'}")
    total = sum(member.shape[0] for member in members.values())
    if not total:
        raise UserError(f"{where} has no image; expected at least one.")

    def chunks() -> Iterator[Chunk]:
        for name, member in members.items():
            start = 0
            for images in Rows(member, np.arange(member.shape[0]), 1 if len(member.shape) == 3 else 3).chunks():
                yield Chunk(name, start, images)
                start += len(images)

    return ImageStream(lambda _: array_parts(chunks(), form, batch), batch, total)


def open_array(images: npt.NDArray[np.uint8], form: InputFormat, batch: int) -> ImageStream:
    """See `open_images`."""
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    form.convert_arrays(images[:0], "the array")
    if not len(images):
        raise UserError("the array has no image; expected at least one.")
    step = rows_at_a_time(images[:1].nbytes)

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(images), step):
            yield Chunk("", start, np.array(images[start : start + step]))  # a copy: torch takes no read-only array

    return ImageStream(lambda _: array_parts(chunks(), form, batch), batch, len(images))


def open_tensor(images: Tensor, form: InputFormat, batch: int) -> ImageStream:
    """See `open_images`."""
    is_float = images.dtype.is_floating_point
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not (is_float or images.dtype == torch.uint8):
        found = f"{images.dtype} of shape {tuple(images.shape)}".removeprefix("torch.")
        raise UserError(
            f"the tensor is {found}; expected uint8, or floating point in [0, 1], of shape (N, 1 or 3, H, W)."
        )
    form.convert_arrays(as_rows(images[:0]), "the tensor")
    if not len(images):
        raise UserError("the tensor has no image; expected at least one.")
    step = rows_at_a_time(images[0].numel() * images.element_size())
    starts = range(0, len(images), step)
    for start in starts if is_float else ():
        some = images[start : start + step].flatten(1)
        wrong = ~((some >= 0) & (some <= 1)).all(dim=1)  # NaN is no number in [0, 1], either
        if wrong.any():
            number = start + int(wrong.nonzero()[0])
            raise UserError(f"the tensor has values that are not in [0, 1] in image {number}; expected only such.")

    def chunks() -> Iterator[Chunk]:
        for start in starts:
            yield Chunk("", start, as_rows(images[start : start + step]))

    return ImageStream(lambda _: array_parts(chunks(), form, batch), batch, len(images))


def as_rows(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images, uint8 [N, C, H, W], or of floating point in [0, 1], as uint8 [N, H, W] or [N, H, W, 3]."""
    if images.dtype.is_floating_point:
        images = (images.float() * 255).round().to(torch.uint8)
    rows = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    return np.ascontiguousarray(rows.detach().cpu().numpy())
