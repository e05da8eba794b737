"""One copy of the images for all runs of a machine: files that each run maps, so that they share pages."""

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ccsi.data.dataset import SPLITS, Dataset, Labelled, Source
from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.locks import locked

T = TypeVar("T")
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

    def subset(self, indices: Tensor) -> Tensor:
        """See `Labelled.subset`: a separate file and mapping, shared by runs that select the same images.

        The mapping does not refer to its path, and its pages hold no other image.
        """
        path, n = self.file, len(indices)
        if n < len(self):
            path = path.with_name(f"{path.stem}-{hashlib.sha256(indices.numpy().data).hexdigest()[:16]}.npy")
        return found_or_made(path.parent, lambda: mapped(path, n), lambda: write_images(path, self.images, indices))


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
    return found_or_made(home, lambda: found_in(home), lambda: fill(home, source.load()))


def found_or_made(home: Path, find: Callable[[], T | None], make: Callable[[], None]) -> T:
    """What `find` finds in the folder `home`; if that is None, one process calls `make` while the others wait.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        found = find()
        if found is None:
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / ".lock", math.inf) as held:
                found = find()
                if found is None:
                    for left in home.glob(".*.part") if held else ():  # of killed processes
                        if time.time() - left.stat().st_mtime > STALE:
                            left.unlink()
                    make()
                    found = find()
    except OSError as error:
        raise UserError(
            f"share_data={home.parent} cannot be used ({error.strerror or error}); make room, or choose another folder."
        ) from error
    assert found is not None
    return found


def fill(home: Path, data: Dataset) -> None:
    """Write the files that `found_in` reads; about.json last."""
    parts: dict[str, Labelled] = {split: getattr(data, split) for split in SPLITS}
    for split, part in parts.items():
        write_images(home / f"{split}.npy", part.images, torch.arange(len(part)))
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
        parts = {}
        for split in SPLITS:
            labels, file = torch.tensor(about["labels"][split]), home / f"{split}.npy"
            images = mapped(file, len(labels))
            if images is None:
                return None
            parts[split] = Mapped(images, labels, file)
        return Dataset(about["name"], tuple(about["class_names"]), **parts, checksum=about["checksum"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def mapped(path: Path, n: int) -> Tensor | None:
    """The n images in a .npy file, memory-mapped; None if the file is missing or incomplete."""
    try:
        images = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return images if len(images) == n else None


def write_images(path: Path, images: Tensor, indices: Tensor) -> None:
    """Write the uint8 images at `indices` to a .npy file."""
    with replacing(path, tag=uuid.uuid4().hex) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), *images.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for part in indices.split(CHUNK):
            file.write(images[part].contiguous().numpy().data)
