"""What one types: `ccsi run|sweep|train|status|report`, one file a subcommand.

A subcommand is a module of this package, found by its file's name (a leading underscore hides a helper). The first line
of its docstring is what `ccsi --help` says of it, the rest is what `ccsi NAME --help` prints. Its `main` takes the
arguments that are no options, then a bool for each option `--like-this`. It returns the exit code (None: 0), and may
raise `UserError`. `RESUME`, if present, says how to resume it after Ctrl-C; `CONFIG`, for key=value arguments, is the
file in configs/ that they change; `EXPECTED` names other arguments. At import it needs the standard library alone, so
that help is fast: what does the work is imported inside `main`.
"""

import contextlib
import difflib
import inspect
import io
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from ccsi.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ccsi` with command-line `arguments` (default: this process's own).

    Returns:
        The exit code: 0 done, 1 failed, 2 bad input (one sentence on stderr), 130 interrupted by Ctrl-C or SIGTERM.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = [argument for argument in typed if argument not in ("-h", "--help")] or ["help"]
    wants_help = len(rest) + 1 < len(typed) or name == "help"
    if name == "help" and rest:
        name, *rest = rest
    resume = ""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack a sign, such as × in ASCII: shown as \xd7
            stream.reconfigure(errors="backslashreplace")
    try:
        with contextlib.ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():  # a batch system's SIGTERM is handled as Ctrl-C
                before = signal.signal(signal.SIGTERM, signal.default_int_handler)
                stack.callback(signal.signal, signal.SIGTERM, before)
            if name == "--version":
                print(f"ccsi {metadata.version('ccsi')}")
                return 0
            try:
                here = os.getcwd()
            except OSError as error:
                if not wants_help:
                    raise UserError("the working folder is gone or unreadable; change to another one.") from error
            else:
                if names_code(typed) and here not in sys.path:
                    sys.path.append(here)  # so that `_target_=my_file.MyLearner` is found
            module = command(name)
            resume = getattr(module, "RESUME", "")
            others, options = parse(module, rest)
            code = command("help").main([name, *others]) if wants_help else module.main(others, **options)
            return code or 0
    except UserError as error:
        print(f"ccsi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ccsi: interrupted" + (f"; {resume}." if resume else "."), file=sys.stderr)
        return 130


def names_code(typed: Sequence[str]) -> bool:
    """Whether the user names code outside the package; else no module of the working folder is ever imported."""
    return bool(os.environ.get("CCSI_TRUST")) or any("_target_" in one or "--config-dir" in one for one in typed)


def commands() -> list[str]:
    """The names of the subcommands, in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def command(name: str) -> ModuleType:
    """The module of a subcommand; a `UserError` says that there is none of that name."""
    known = commands()
    if name in known:
        return import_module(f"{__name__}.{name}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}; see ccsi --help."
    if "=" in name or name.endswith((".yaml", ".yml")):
        hint = f"for a single run, type ccsi run {name}."
    raise UserError(f"{name} is not a command; {hint}")


def parse(module: ModuleType, typed: Sequence[str]) -> tuple[list[str], dict[str, bool]]:
    """A subcommand's arguments that are no options, and its options; `--config-dir` adds a folder to `ccsi.config`."""
    names = {f"--{name.replace('_', '-')}": name for name in list(inspect.signature(module.main).parameters)[1:]}
    known = ["--help", *names, *(["--config-dir"] if hasattr(module, "CONFIG") else [])]
    arguments, options, rest = list[str](), dict[str, bool](), iter(typed)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--config-dir" and name in known:
            folder = value if equals else next(rest, "")
            if not folder:
                raise UserError("--config-dir has no value; expected a folder of configs: --config-dir DIR.")
            from ccsi import config

            config.add_config_dir(Path(folder))
        elif argument in names:
            options[names[argument]] = True
        elif argument.startswith("-"):
            expected = getattr(module, "EXPECTED", "key=value")
            raise UserError(f"{argument} is not an option; expected {expected}, or {' or '.join(known)}.")
        else:
            arguments.append(argument)
    return arguments, options
