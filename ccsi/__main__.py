"""`python -m ccsi …` is `ccsi run …`; with a subcommand's name first it is `ccsi …`."""

import sys
from collections.abc import Sequence

from ccsi import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with command-line `arguments`; returns the exit code, see `ccsi.cli.main`."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    return cli.main(typed if typed and typed[0] in cli.commands() else ["run", *typed])


if __name__ == "__main__":
    sys.exit(main())
