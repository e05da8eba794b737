"""One copy of the images for all runs of a machine: files that each run maps, so that they share pages."""

import dataclasses
import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ccsi.data import decode, dicom
from ccsi.data.dataset import SPLITS, Dataset, Labelled, Origin, Source
from ccsi.data.fit import rows_at_a_time
from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.files import open_regular, read_bytes
from ccsi.io.locks import locked

T = TypeVar("T")
STALE = 3600.0
"""Age in seconds from which a part of a file counts as left over."""


@dataclass(frozen=True)
class Mapped(Labelled):
    """A split whose images map the .npy `file`, copy-on-write."""

    file: Path

    def subset(self, indices: Tensor) -> Tensor:
        """See `Labelled.subset`: the mapping of a separate file, shared by runs that select the same images.

        It does not refer to its path, and its pages hold no other image.
        """
        path, n = self.file, len(indices)
        if n < len(self):
            path = path.with_name(f"{path.stem}-{hashlib.sha256(indices.numpy().data).hexdigest()[:16]}.npy")
        return found_or_made(path.parent, lambda: mapped(path, n), lambda: write_images(path, self.images, indices))


def open_dataset(source: Source, folder: Path | None) -> Dataset:
    """The source's data, read and checked once for all processes that use the same `folder` (absolute).

    The first process writes the images at their input size to a sub-folder named by the source's configuration, the
    state of its files (`Source.stamp`) and the versions of what decodes and resizes them. Later
    ones map these files: nothing is decoded or hashed again. Without `folder`, this is `Source.load`.

    Raises:
        UserError: as `Source.load`; also a folder that cannot be written.
    """
    if folder is None:
        return source.load()
    readers = f"torch {torch.__version__} Pillow {PIL.__version__} pydicom {dicom.version()} decoder {decode.DECODER}"
    key = f"{type(source).__module__} {source!r} {source.stamp()} {readers}"
    # a file's name need not be UTF-8
    home = folder / hashlib.sha256(key.encode(errors="backslashreplace")).hexdigest()[:16]
    return found_or_made(home, lambda: found_in(home), lambda: fill(home, source.load()))


def found_or_made(home: Path, find: Callable[[], T], make: Callable[[], None]) -> T:
    """What `find` reads in the folder `home`; if it is incomplete, one process calls `make` and the others wait."""

    def found() -> T | None:
        with suppress(FileNotFoundError, ValueError, EOFError, KeyError, TypeError):
            return find()
        return None

    try:
        result = found()
        if result is None:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # only its owner may read the images
            with locked(home / ".lock", math.inf) as held:
                result = found()
                if result is None:
                    for left in home.glob(".*.part") if held else ():  # of killed processes
                        if time.time() - left.stat().st_mtime > STALE:
                            left.unlink()
                    make()
                    result = find()
        return result
    except OSError as error:
        raise UserError(
            f"share_data={home.parent} cannot be used ({error.strerror or error}); make room, or choose another folder."
        ) from error


def fill(home: Path, data: Dataset) -> None:
    """Write the files that `found_in` reads; about.json last."""
    parts = {split: getattr(data, split) for split in SPLITS}
    for split, part in parts.items():
        write_images(home / f"{split}.npy", part.images, torch.arange(len(part)))
    labels = {split: part.labels.tolist() for split, part in parts.items()}
    about = {"name": data.name, "class_names": data.class_names, "checksum": data.checksum, "labels": labels}
    about["origin"] = dataclasses.asdict(data.origin)
    with replacing(home / "about.json", tag=uuid.uuid4().hex) as file:
        file.write(json.dumps(about).encode())


def found_in(home: Path) -> Dataset:
    """The data set in `home`."""
    about, parts = json.loads(read_bytes(home / "about.json")), {}
    for split in SPLITS:
        labels, file = torch.tensor(about["labels"][split]), home / f"{split}.npy"
        parts[split] = Mapped(mapped(file, len(labels)), labels, file)
    origin = TypeAdapter(Origin).validate_python(about["origin"])  # json has lists for tuples
    return Dataset(about["name"], tuple(about["class_names"]), **parts, checksum=about["checksum"], origin=origin)


def mapped(path: Path, n: int) -> Tensor:
    """The n images in a .npy file, memory-mapped; ValueError or EOFError if it is incomplete."""
    open_regular(path).close()  # a pipe would be waited for
    images = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    if len(images) != n:
        raise ValueError(f"{path} has {len(images)} images")
    return images


def write_images(path: Path, images: Tensor, indices: Tensor) -> None:
    """Write the uint8 images at `indices` to a .npy file."""
    with replacing(path, tag=uuid.uuid4().hex) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), *images.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for part in indices.split(rows_at_a_time(images[:1].numel())):
            file.write(images[part].contiguous().numpy().data)
