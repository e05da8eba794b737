"""One copy of the images for all runs of a machine: files that each of them maps, so that they share pages."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ccsi.data.dataset import SPLITS, Dataset, Labelled, Source
from ccsi.data.download import turn_in
from ccsi.errors import UserError

STALE = 3600.0
"""Seconds after which nobody writes any more to a part of a file."""
CHUNK = 128
"""Images copied at a time: a file is written without a second copy of it in memory."""


@dataclass(frozen=True)
class Mapped(Labelled):
    """A split whose images are a file in memory; written to, a page becomes this process's own.

    file: the .npy that `images` maps.
    """

    file: Path

    def subset(self, chosen: Tensor) -> Tensor:
        """See `Labelled.subset`: a file and a mapping of its own, that runs share which choose the same images.

        A mapping knows no path, and no page of it is another image's.
        """
        path = self.file
        if len(chosen) < len(self):
            path = path.with_name(f"{path.stem}-{hashlib.sha256(chosen.numpy().data).hexdigest()[:16]}.npy")
        shape = (len(chosen), *self.images.shape[1:])
        with usable(path.parent):
            images = mapped(path)
            if images is None or images.shape != shape:
                with turn_in(path.parent, None):
                    images = mapped(path)
                    if images is None or images.shape != shape:
                        write_images(path, shape, (self.images[part] for part in chosen.split(CHUNK)))
                        images = mapped(path)
        assert images is not None
        return images


def opened(source: Source, folder: Path | None) -> Dataset:
    """The source's data, read and checked once for all processes that name the same `folder`.

    The first to ask writes the images, as they are used, to a sub-folder named by the source's settings and the
    state of its files (`Source.stamp`); those that ask meanwhile wait. The others map them: nothing is decoded or
    hashed again. Files that are damaged, as far as their sizes tell, are written anew.

    Args:
        folder: absolute, made if need be; None: a private copy, as `Source.load` gives it.

    Raises:
        UserError: as `Source.load`; also a folder that cannot be written.
    """
    if folder is None:
        return source.load()
    key = f"{type(source).__module__} {source!r} {source.stamp()} torch {torch.__version__}"  # torch: of `resize`
    home = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    with usable(folder):
        data = found_in(home)
        if data is None:
            home.mkdir(parents=True, exist_ok=True)
            with turn_in(home, None) as alone:
                data = found_in(home)
                if data is None:
                    if alone:  # a killed process's
                        for left in home.glob(".*.part"):
                            if time.time() - left.stat().st_mtime > STALE:
                                left.unlink()
                    fill(home, source.load())
                    data = found_in(home)
    assert data is not None
    return data


def fill(home: Path, data: Dataset) -> None:
    """Write what `found_in` finds; about.json last."""
    parts = {split: getattr(data, split) for split in SPLITS}
    for split, part in parts.items():
        write_images(home / f"{split}.npy", part.images.shape, part.images.split(CHUNK))
    about = {
        "name": data.name,
        "class_names": data.class_names,
        "checksum": data.checksum,
        "labels": {split: part.labels.tolist() for split, part in parts.items()},
    }
    with whole(home / "about.json") as file:
        file.write(json.dumps(about).encode())


def found_in(home: Path) -> Dataset | None:
    """The data set that lies in `home`; None if there is none, or not all of it."""
    try:
        about = json.loads((home / "about.json").read_bytes())
        parts = []
        for split in SPLITS:
            images, labels = mapped(home / f"{split}.npy"), torch.tensor(about["labels"][split])
            if images is None or len(images) != len(labels):
                return None
            parts.append(Mapped(images, labels, home / f"{split}.npy"))
        return Dataset(about["name"], tuple(about["class_names"]), parts[0], parts[1], parts[2], about["checksum"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def mapped(path: Path) -> Tensor | None:
    """The array in a .npy file, as memory that is read from it when it is touched; None if it is not whole."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return torch.from_numpy(array)


def write_images(path: Path, shape: Iterable[int], parts: Iterable[Tensor]) -> None:
    """A .npy file of uint8 images `shape`, given in `parts`."""
    with whole(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.contiguous().numpy().data)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Say what to do when a folder cannot be used."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"share_data={folder} cannot be used ({error.strerror or error}); make room, or choose another folder."
        ) from error
