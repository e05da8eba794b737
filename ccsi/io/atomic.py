"""Files that are written whole: a reader or a kill meets the old content or the new, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ccsi.errors import UserError


@contextmanager
def replacing(path: Path, tag: str = "", durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the name `path` at the end, and is removed if the block raises.

    Args:
        tag: makes the temporary name `.<name>.<tag>.part` unique where several processes may write at once; a killed
            process leaves that file, and the next write replaces it.
        durable: whether it must survive a power cut; if not, nothing is synced to disk.
    """
    part = path.with_name(f".{path.name}.{tag}.part" if tag else f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a killed process; a pipe or a link of this name is not written through
        with part.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's new files survive a power cut, where the system can (Windows opens no folder)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, or raise UserError (a full disk, no permission) and leave the old."""
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be written ({reason}); make room, or choose another folder.") from error


def inside(folder: Path, name: str) -> Path:
    """The path of `name` (with slashes) in `folder`, for names from an archive or a storage.

    Raises:
        ValueError: it is absolute, has `..`, or leads through a link out of the folder.
    """
    parts, top = name.split("/"), folder.resolve()
    path = folder.joinpath(*parts)
    if ".." in parts or not all(parts) or not top.joinpath(*parts).is_relative_to(top):
        raise ValueError("leads out of its folder")
    if path.resolve() != top.joinpath(*parts):
        raise ValueError("is a link")
    return path
