"""What one types: `ccsi run|sweep|train|status`, one file a subcommand.

A subcommand is a module of this package, found by its file's name (a leading underscore hides a helper). The first
line of its docstring is what `ccsi --help` says of it. It has `main(arguments) -> int`, which returns the exit code and
may raise `UserError`, and optionally `RESUME`, how to resume it after Ctrl-C. At import it needs the standard library
alone, so that help is fast: what does the work is imported inside `main`.
"""

import contextlib
import difflib
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from ccsi.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ccsi` with command-line `arguments` (default: this process's own).

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input (one sentence on stderr), 130 interrupted by Ctrl-C or SIGTERM.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (typed[0], typed[1:]) if typed else ("help", [])
    if name in ("-h", "--help"):
        name = "help"
    resume = ""
    try:
        with _sigterm_as_interrupt():
            if name == "--version":
                return _print_version()
            _make_working_folder_importable()
            module = command(name)
            resume = getattr(module, "RESUME", "")
            code: int = module.main(rest)
            return code
    except UserError as error:
        print(f"ccsi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ccsi: interrupted" + (f"; {resume}." if resume else "."), file=sys.stderr)
        return 130


def commands() -> list[str]:
    """The names of the subcommands, in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def command(name: str) -> ModuleType:
    """The module of a subcommand.

    Raises:
        UserError: there is none of that name.
    """
    known = commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}; see ccsi --help."
        if "=" in name or name.endswith((".yaml", ".yml")):
            hint = f"for a single run, type ccsi run {name}."
        raise UserError(f"{name} is not a command; {hint}")
    return import_module(f"{__name__}.{name}")


def _print_version() -> int:
    from importlib.metadata import version

    print(f"ccsi {version('ccsi')}")
    return 0


def _make_working_folder_importable() -> None:
    """Let `_target_=my_file.MyLearner` name a file of the working folder, as under `python -m`, behind all else."""
    with contextlib.suppress(OSError):  # the folder was removed
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM, which a batch system sends, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
