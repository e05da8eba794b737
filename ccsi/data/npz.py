"""Any file in MedMNIST's layout: one .npz with {train,val,test}_{images,labels}."""

import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ccsi.data.dataset import SPLITS, Contents, Origin, Raw, Source, check_memory, state_of
from ccsi.data.fit import StoredImages, rows_at_a_time
from ccsi.data.groups import crossing, groups_by_index
from ccsi.errors import UserError
from ccsi.io.files import open_regular
from ccsi.io.paths import expand
from ccsi.io.text import printable

LAYOUT = {
    "images": ("u1", "uint8 grey levels from 0 to 255", "(N, H, W) or (N, H, W, 3)"),
    "labels": ("iu", "whole numbers (an integer type)", "one label an image: (N,) or (N, 1)"),
    "groups": ("iuU", "whole numbers or text", "one group an image: (N,) or (N, 1)"),
}
"""Of the arrays `<split>_images` and so on: the kind of dtype, and type and shape in the words of a message."""
KEYS = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@dataclass(frozen=True, kw_only=True)
class Npz(Source):
    """A .npz file in MedMNIST's layout, without pickled objects.

    Its six arrays are, for each of train, val and test: `<split>_images`, uint8 [N, H, W] or [N, H, W, 3], and
    `<split>_labels`, whole numbers from 0, [N] or [N, 1]. It may have `<split>_groups` (patients; whole numbers or
    text, [N] or [N, 1]): a group in more than one split is warned of. Images are read some at a time, and never all at
    once unless they are stored in Fortran's order.

    Args:
        path: the file; `~` is the home folder.
        class_names: in label order; None: "0", "1", … up to the largest training label.
        groups: a .csv file with columns `index` (of an image: 0, 1, … over train, then val, then test) and `group`, in
            place of such arrays.
    """

    path: str
    class_names: list[str] | None = None
    groups: str | None = None

    def stamp(self) -> str:
        states = [state_of(expand(self.path, "dataset.path"))]
        if self.groups is not None:
            states.append(state_of(expand(self.groups, "dataset.groups")))
        return "\n".join(states)

    def read(self) -> Contents:
        contents = read_npz(expand(self.path, "dataset.path"), self.class_names)
        if self.groups is None:
            return contents
        sizes = {split: len(raw.labels) for split, raw in contents.splits.items()}
        parts = groups_by_index(expand(self.groups, "dataset.groups"), sizes)
        splits = {split: replace(raw, groups=parts[split]) for split, raw in contents.splits.items()}
        return Contents(splits, contents.class_names, replace(contents.origin, warnings=tuple(crossing(parts))))


@dataclass(frozen=True)
class Member:
    """An array in an .npz file: where it is, and what its header says. skip: bytes before its data."""

    path: Path
    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    skip: int

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The array's data, as a file."""
        with (
            reading(self.path, self.key),
            open_archive(self.path) as archive,
            archive.open(name_of(archive, self.key)) as it,
        ):
            it.read(self.skip)
            yield it

    def read(self) -> npt.NDArray[Any]:
        """The whole array."""
        check_memory(math.prod(self.shape) * self.dtype.itemsize, f"{printable(self.path)}: {self.key}")
        with self.open() as file:
            data = file.read()
        if len(data) != math.prod(self.shape) * self.dtype.itemsize:
            raise damaged(self.path, self.key)
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


@dataclass(frozen=True)
class Rows(StoredImages):
    """Images at some positions, ascending, of an array in an .npz file."""

    member: Member
    which: npt.NDArray[np.int64]
    channels: int

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Rows":
        return replace(self, which=self.which[which])

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        member = self.member
        n, step = member.shape[0], rows_at_a_time(math.prod(member.shape[1:]))
        whole = member.read() if member.fortran else None  # its rows are not together
        with member.open() as file:
            for start in range(0, n, step):
                rows = np.empty((min(step, n - start), *member.shape[1:]), np.uint8)
                if whole is not None:
                    rows[:] = whole[start : start + step]
                elif file.readinto(rows.data.cast("B")) != rows.nbytes:  # type: ignore[attr-defined]
                    raise damaged(member.path, member.key)
                first, last = np.searchsorted(self.which, (start, start + len(rows)))
                if last - first == len(rows):
                    yield rows
                elif last > first:
                    yield rows[self.which[first:last] - start]
            file.read(1)  # at its end the checksum is compared


def read_npz(path: Path, class_names: list[str] | None) -> Contents:
    """The splits and class names of a .npz file, checked to be as `Npz` says; its images are not read yet."""
    splits, groups = {}, {}
    with open_archive(path) as archive:
        for split in SPLITS:
            images, labels = (member_of(archive, path, f"{split}_{kind}") for kind in ("images", "labels"))
            n = images.shape[0]
            if labels.shape[0] != n:  # before anything of the size that a header claims is allocated
                raise UserError(
                    f"{printable(path)}: {split} has {n} images but {labels.shape[0]} labels; expected as many."
                )
            numbers = labels.read().reshape(-1).astype(np.int64)
            splits[split] = Raw(Rows(images, np.arange(n), 1 if len(images.shape) == 3 else 3), numbers)
            if name_of(archive, f"{split}_groups") is not None:
                member = member_of(archive, path, f"{split}_groups")
                if member.shape[0] != n:
                    n_groups = member.shape[0]
                    raise UserError(
                        f"{printable(path)}: {split}_groups has {n_groups} groups for {n} images; expected as many."
                    )
                groups[split] = member.read().reshape(-1).astype(str)
                splits[split] = replace(splits[split], groups=groups[split])
    if class_names is None:
        train = splits["train"].labels
        largest = int(train.max(initial=-1))
        if largest >= max(1, len(train)):
            raise UserError(f"{path}: train_labels has label {largest} but only {len(train)} images; expected 0, 1, ….")
        class_names = [str(label) for label in range(largest + 1)]
    return Contents(splits, tuple(class_names), Origin(printable(path), warnings=tuple(crossing(groups))))


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip archive in a regular file."""
    where, layout = printable(path), "expected an .npz file in MedMNIST's layout."
    try:
        file = open_regular(path)
    except FileNotFoundError as error:
        raise UserError(f"{where} does not exist; {layout}") from error
    except OSError as error:
        raise UserError(f"{where} is not a readable .npz file ({error.strerror}); {layout}") from error
    with file:
        if file.read(6) == b"\x93NUMPY":
            raise UserError(f"{where} holds a single array; {layout}")
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises almost anything on broken files
            raise UserError(f"{where} is not a readable .npz file; expected one in MedMNIST's layout.") from error
        with archive:
            yield archive


def name_of(archive: zipfile.ZipFile, key: str) -> Any:
    """The name of an array's entry in the archive; None if there is none."""
    names = archive.NameToInfo
    return next((name for name in (f"{key}.npy", key) if name in names), None)


def member_of(archive: zipfile.ZipFile, path: Path, key: str) -> Member:
    """What the header of an array says, which is checked against `LAYOUT` and the size that the archive names."""
    where, name = printable(path), name_of(archive, key)
    if name is None:
        raise UserError(f"{where} has no array {key}; expected {', '.join(KEYS)}.")
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise UserError(f"{where}: {key} is encrypted; expected an .npz file without a password.")
    if info.compress_type not in COMPRESSIONS:
        raise UserError(
            f"{where}: {key} is compressed by method {info.compress_type}, which Python cannot read; expected a file "
            "as numpy.savez or numpy.savez_compressed write it."
        )
    with reading(path, key), archive.open(info) as file:
        if file.read(6) != b"\x93NUMPY":
            raise UserError(f"{where}: {key} is no array in NumPy's format; expected a .npy entry.")
        file.seek(0)
        read: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = read[np.lib.format.read_magic(file)](file)
        member = Member(path, key, dtype, shape, fortran, skip=file.seek(0, os.SEEK_CUR))
    check_layout(member, where)
    size = member.skip + math.prod(shape) * dtype.itemsize
    if size != info.file_size:
        raise UserError(
            f"{where} is damaged: {key} claims {size:,} bytes, but has {info.file_size:,}; expected a complete .npz "
            "file."
        )
    return member


def check_layout(member: Member, where: str) -> None:
    """Raise UserError unless type and shape are as `LAYOUT` says."""
    key, shape, dtype = member.key, member.shape, member.dtype
    if dtype.hasobject:
        raise UserError(f"{where}: {key} holds pickled objects, which are never loaded; expected numbers.")
    kind = key.rpartition("_")[2]
    code, expected, shapes = LAYOUT[kind]
    if dtype.kind not in code or (kind == "images" and dtype != np.uint8):
        raise UserError(f"{where}: {key} is {dtype}; expected {expected}.")
    if kind == "images":
        fits = len(shape) in (3, 4) and shape[3:] in ((), (3,)) and min(shape[1:]) > 0
    else:
        fits = len(shape) > 0 and shape[1:] in ((), (1,))
    if not fits or min(shape) < 0:
        raise UserError(f"{where}: {key} has shape {shape}; expected {shapes}.")


def damaged(path: Path, key: str) -> UserError:
    return UserError(f"{printable(path)} is damaged: {key} cannot be read; expected a complete .npz file.")


@contextmanager
def reading(path: Path, key: str) -> Iterator[None]:
    """What the reader of a zip entry raises on a damaged one (almost anything), as a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise damaged(path, key) from error
