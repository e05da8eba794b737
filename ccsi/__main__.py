"""`python -m ccsi …` is `ccsi run …`; with a subcommand's name first it is `ccsi …`."""

import os
import sys

import ccsi

try:
    here = os.getcwd()
except OSError:  # it has been removed
    here = ""
if not sys.flags.safe_path and here and sys.path[0] == here:
    # `python -m` put it first: a yaml.py or numpy.py in the working folder must not take the place of a real one
    del sys.path[0]
    if ccsi.__path__[0] == os.path.join(here, "ccsi"):  # a checkout that is not installed
        sys.path.append(here)

from collections.abc import Sequence

from ccsi import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with command-line `arguments`; returns the exit code, see `ccsi.cli.main`."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    return cli.main(typed if typed and typed[0] in cli.commands() else ["run", *typed])


if __name__ == "__main__":
    sys.exit(main())
