"""One copy of the images for all runs of a machine: files that each run maps, so that they share pages."""

import hashlib
import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccsi.data.dataset import SPLITS, Dataset, Labelled, Source
from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.locks import locked

STALE = 3600.0
"""Age in seconds from which a part of a file counts as left over."""
CHUNK = 128
"""Images copied at a time, so that writing a file takes no second copy in memory."""


@dataclass(frozen=True)
class Mapped(Labelled):
    """A split whose images map a file, copy-on-write.

    Attributes:
        file: the .npy that `images` maps.
    """

    file: Path

    def subset(self, chosen: Tensor) -> Tensor:
        """See `Labelled.subset`: a separate file and mapping, shared by runs that choose the same images.

        The mapping does not refer to its path, and its pages hold no other image.
        """
        path = self.file
        if len(chosen) < len(self):
            path = path.with_name(f"{path.stem}-{hashlib.sha256(chosen.numpy().data).hexdigest()[:16]}.npy")
        shape = (len(chosen), *self.images.shape[1:])
        with usable(path.parent):
            images = mapped(path)
            if images is None or images.shape != shape:
                with locked(path.parent / ".lock", math.inf):
                    images = mapped(path)
                    if images is None or images.shape != shape:
                        write_images(path, shape, (self.images[part] for part in chosen.split(CHUNK)))
                        images = mapped(path)
        assert images is not None
        return images


def opened(source: Source, folder: Path | None) -> Dataset:
    """The source's data, read and checked once for all processes that use the same `folder`.

    The first process writes the images at their input size to a sub-folder named by the source's configuration and
    the state of its files (`Source.stamp`), while others wait. Later ones map the files: nothing is decoded or hashed
    again. Files with a wrong size are written again.

    Args:
        folder: absolute, created if needed; None: a private copy from `Source.load`.

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
            with locked(home / ".lock", math.inf) as held:
                data = found_in(home)
                if data is None:
                    if held:  # of killed processes
                        for left in home.glob(".*.part"):
                            if time.time() - left.stat().st_mtime > STALE:
                                left.unlink()
                    fill(home, source.load())
                    data = found_in(home)
    assert data is not None
    return data


def fill(home: Path, data: Dataset) -> None:
    """Write the files that `found_in` reads; about.json last."""
    parts = {split: getattr(data, split) for split in SPLITS}
    for split, part in parts.items():
        write_images(home / f"{split}.npy", part.images.shape, part.images.split(CHUNK))
    about = {
        "name": data.name,
        "class_names": data.class_names,
        "checksum": data.checksum,
        "labels": {split: part.labels.tolist() for split, part in parts.items()},
    }
    with replacing(home / "about.json", tag=uuid.uuid4().hex) as file:
        file.write(json.dumps(about).encode())


def found_in(home: Path) -> Dataset | None:
    """The data set in `home`; None if it is missing or incomplete."""
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
    """The array in a .npy file, memory-mapped; None if the file is missing or incomplete."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return torch.from_numpy(array)


def write_images(path: Path, shape: Iterable[int], parts: Iterable[Tensor]) -> None:
    """Write a .npy file of uint8 images of `shape`, given in `parts`."""
    with replacing(path, tag=uuid.uuid4().hex) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.contiguous().numpy().data)


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"share_data={folder} cannot be used ({error.strerror or error}); make room, or choose another folder."
        ) from error
