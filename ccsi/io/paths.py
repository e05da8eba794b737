"""Paths as a user types them: `~` is the home folder, which need not be known in a container."""

import os
import stat
from pathlib import Path

from ccsi.errors import UserError
from ccsi.io.text import printable


def home() -> Path | None:
    """The home folder; None where it is unknown: HOME is not set, and the user id has no entry in /etc/passwd."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expand(path: str | os.PathLike[str], key: str) -> Path:
    """The path with `~` or `~user` at its beginning replaced by that home folder.

    Args:
        key: what the path was given for, for the messages.

    Raises:
        UserError: it is empty, or the home folder is unknown.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UserError(f"{key}={text!r}: expected a path.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        if Path(text).exists():  # a name that begins with ~
            return Path(text)
        user = Path(text).parts[0][1:]
        problem = f"there is no user {user} here" if user else "the home folder is unknown here (HOME is not set)"
        raise UserError(f"{key}={text}: {problem}; expected a full path.") from None


def absolute(path: str | os.PathLike[str], key: str) -> Path:
    """`expand`, and absolute."""
    return expand(path, key).absolute()


def is_folder(path: Path, key: str) -> bool:
    """Whether there is a folder at `path`; links are followed.

    Raises:
        UserError: that cannot be known, for example below a folder that may not be entered.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{key}={printable(path)} cannot be read ({error.strerror}); expected a folder.") from error
