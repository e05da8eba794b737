"""Images without labels in small parts, which threads read in order: files, and arrays."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccsi.data.decode import decoded, problem
from ccsi.data.input import InputFormat, UnfitError
from ccsi.io.text import printable

FILES = 8
"""Files that a thread decodes at a time; more are no faster."""
THREADS = 2
"""With images of 224 pixels 1.7 times as fast as one."""
SMALL = 16_384
"""Bytes of a file below which a second thread only waits for Python's lock, as with images of 28 pixels."""


@dataclass(frozen=True)
class Batch:
    """Some images, in the source's order.

    Attributes:
        names: of all images of the batch, printable: the path relative to the folder (with `/`), "train[3]" in an .npz
            file, "3" in an array.
        images: uint8 [n, C, S, S] of those that could be read, in their order.
        errors: by the position in `names`, why an image could not be read: a sentence to be put behind the name.
        converted: for each change (see `input.GREY_TO_RGB` and those behind it) the number of images.
    """

    names: tuple[str, ...]
    images: Tensor
    errors: Mapping[int, str] = field(default_factory=dict)
    converted: Mapping[str, int] = field(default_factory=dict)


class Part(NamedTuple):
    """A part of a batch that is still to be read.

    Attributes:
        weight: the memory it needs, in images of the network's input.
        read: reads it; what it returns when the event is set meanwhile is not used.
    """

    weight: int
    read: Callable[[Event], Batch]


class Chunk(NamedTuple):
    """Images of an array, uint8 [n, H, W] or [n, H, W, 3]; `start` is the first one's index in its split, if any."""

    split: str
    start: int
    images: npt.NDArray[np.uint8]


def in_order(parts: Iterator[Part], limit: int, threads: int = THREADS) -> Generator[Batch, None, None]:
    """What some threads read of some parts, in the parts' order.

    Parts of the weight `limit` at most, or one part, are read and kept before they are asked for. When the generator is
    closed, each thread ends after the image that it is decoding.
    """
    pending, weight, stop = deque[tuple[int, Future[Batch]]](), 0, Event()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="ccsi-images")
    try:
        for part in parts:
            pending.append((part.weight, executor.submit(part.read, stop)))
            weight += part.weight
            while weight >= limit and pending:
                first, future = pending.popleft()
                weight -= first
                yield future.result()
        while pending:
            yield pending.popleft()[1].result()
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def joined(parts: list[Batch]) -> Batch:
    """Several parts as one batch."""
    if len(parts) == 1:
        return parts[0]
    names, errors, converted = list[str](), dict[int, str](), Counter[str]()
    for part in parts:
        errors |= {len(names) + position: error for position, error in part.errors.items()}
        names += part.names
        converted.update(part.converted)
    return Batch(tuple(names), torch.cat([part.images for part in parts]), errors, converted)


def file_parts(root: Path, files: Iterable[str], form: InputFormat, batch: int) -> Iterator[Part]:
    """Image files, by their paths relative to `root`, in parts that do not cross the end of a batch."""
    files, done = iter(files), 0
    while some := list(islice(files, min(FILES, batch - done % batch))):
        done += len(some)
        yield Part(len(some), partial(read_files, root, some, form))


def read_files(root: Path, files: list[str], form: InputFormat, stop: Event) -> Batch:
    """The images of some files; what goes wrong with one is among the batch's errors.

    stop: once it is set, no other file is opened, and what is returned is not of use.
    """
    fitted, n, errors, converted = form.empty(len(files)), 0, dict[int, str](), Counter[str]()
    for position, file in enumerate(files):
        if stop.is_set():
            break
        path = root / file
        try:
            pixels = decoded(path, one_frame=True)
        except Exception as error:  # decoders raise almost anything on broken files
            errors[position] = problem(path, error)
            continue
        try:
            converted.update(form.write(pixels, fitted[n : n + 1]))
            n += 1
        except UnfitError as error:
            errors[position] = str(error)
    return Batch(tuple(map(printable, files)), fitted[:n], errors, converted)


def array_parts(chunks: Iterable[Chunk], form: InputFormat, batch: int) -> Iterator[Part]:
    """Images of arrays, in parts that do not cross the end of a batch."""
    done, size_of_input = 0, form.empty(1).numel()
    for split, start, images in chunks:
        at = 0
        while at < len(images):
            some = images[at : at + batch - done % batch]
            numbers = range(start + at, start + at + len(some))
            names = tuple(f"{split}[{number}]" if split else f"{number}" for number in numbers)
            at, done = at + len(some), done + len(some)
            yield Part(max(len(some), some.nbytes // size_of_input), partial(read_array, names, some, form))


def read_array(names: tuple[str, ...], images: npt.NDArray[np.uint8], form: InputFormat, _: Event) -> Batch:
    """Some images of one size, which is known to fit: too few to stop between them."""
    fitted = form.empty(len(images))
    return Batch(names, fitted, converted=dict.fromkeys(form.write_arrays(images, fitted), len(images)))
