"""Reading files that a user may have put there: regular files only, so that nothing waits on a named pipe."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device")
)  # fmt: skip


class NotRegularFileError(OSError):
    """A path names a pipe, a socket or a device, where a regular file was expected."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading in binary mode; links are followed, and nothing is waited for.

    Raises:
        NotRegularFileError: a named pipe, a socket, a device. IsADirectoryError, FileNotFoundError, PermissionError,
            or another OSError. A path with a null byte is an OSError, too.
    """
    try:  # without O_NONBLOCK, opening a pipe waits until another process writes to it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, "a null byte in its name", str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegularFileError(errno.EINVAL, "a socket, not a regular file", str(path)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for is_kind, name in KINDS if is_kind(mode)), "something else")
    raise NotRegularFileError(errno.EINVAL, f"{kind}, not a regular file", str(path))


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        limit: bytes; a larger file is an OSError (EFBIG) and is not read.

    Raises:
        OSError: see `open_regular`.
    """
    with open_regular(path) as file:
        if limit is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""  # one in /proc says that it has no byte
        if max(size, len(data)) > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
        return data


def read_text(path: Path, limit: int | None = None, errors: str = "strict") -> str:
    """The content of a regular file as UTF-8 with `\\n` at the end of lines; see `read_bytes`.

    Raises:
        UnicodeDecodeError: it is not UTF-8 (and `errors`, as in `bytes.decode`, is `strict`). OSError.
    """
    return read_bytes(path, limit).decode("utf-8", errors).replace("\r\n", "\n")
