"""Locks between processes: a lock file, held through its open descriptor, so that it ends with its process."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

UNSUPPORTED = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Error numbers by which a file system says that it has no locks."""
POLL = 0.05  # seconds between two attempts to take a lock


class InUseError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: float = 0.0, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock file `path`, which is created, and removed at the end; yields False where files have no locks.

    Some NFS mounts have none: two processes may then work at the same time.

    Args:
        wait: seconds to wait for a process that holds it, after which InUseError is raised; math.inf waits forever.
        on_wait: called once if there is a wait.
    """
    deadline = time.monotonic() + wait
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            held = lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in UNSUPPORTED:
                raise
            yield False
            return
        if held and os.fstat(descriptor).st_nlink:  # 0: its last holder removed it meanwhile
            break
        os.close(descriptor)
        if held:
            continue
        if time.monotonic() >= deadline:
            raise InUseError(str(path))
        if on_wait is not None:
            on_wait()
            on_wait = None
        time.sleep(POLL)
    try:
        yield True
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink()
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path`, as far as this file system can say. Nothing is written."""
    with suppress(OSError):  # no such file, it may not be read, or there are no locks
        try:
            descriptor = os.open(path, os.O_RDWR)  # NFS locks only what is open for writing
        except OSError:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # it may be a named pipe
        try:
            return not lock_descriptor(descriptor, blocking=False)
        finally:
            os.close(descriptor)
    return False
