"""Text that a user gave (names of classes, folders, trials), where it is shown; and warnings on stderr."""

import sys
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that are escaped: control characters, surrogates, line and paragraph separators."""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of all text behind them; they are escaped, too."""


def printable(text: object) -> str:
    r"""A text or path in one line that every UTF-8 file and terminal takes: `\xe9` for a byte that is not UTF-8, …"""
    whole = str(text)
    return whole if whole.isprintable() else "".join(map(escaped, whole))


def escaped(character: str) -> str:
    """A character as it is, or its escape sequence if it is among `UNSHOWN` or `TURNING`."""
    if unicodedata.category(character) not in UNSHOWN and character not in TURNING:
        return character
    byte = ord(character) - 0xDC00  # of a file's name that is not UTF-8, as Python's "surrogateescape" writes it
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def all_printable(value: Any) -> Any:
    """A copy of a tree of mappings and lists, every text in it `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(one) for key, one in value.items()}
    return [all_printable(one) for one in value] if isinstance(value, list | tuple) else value


def warn(message: str) -> None:
    """Print a warning of one line on stderr, if it can be written to."""
    with suppress(OSError, ValueError):
        print(f"ccsi: {printable(message)}", file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its text, if it has any."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
