"""A folder for caches that no other user of the machine can have prepared."""

import atexit
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def private_folder(name: str) -> str:
    """A folder in the temporary one, the same in all processes of a user and closed to others.

    If that name is taken by another user's folder, by a link or by a folder open to others, it is a new one, removed at
    this process's exit.
    """
    temporary = Path(tempfile.gettempdir())
    if hasattr(os, "getuid"):  # Windows: the temporary folder is the user's own
        folder = temporary / f"{name}-{os.getuid()}"
        with suppress(OSError):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
                return str(folder)
    fresh = tempfile.mkdtemp(prefix=f"{name}-")
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    return fresh
