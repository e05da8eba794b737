"""Where a sweep stands, from its files alone."""

import time
from collections.abc import Sequence
from pathlib import Path

from ccsi.cli import _options
from ccsi.errors import UserError

WATCH_SECONDS = 10.0

HELP = """\
Where a sweep stands, running or not, on any machine that sees its folder.
Nothing is written or stopped.

  ccsi status FOLDER            once
  ccsi status FOLDER --watch    every 10 seconds, until it is done or Ctrl-C"""


def main(arguments: Sequence[str]) -> int:
    """Show the sweep of the folder in `arguments`; returns the exit code."""
    options = _options.parse(arguments, flags=("--watch",), expected="the folder of a sweep")
    if options.help:
        print(HELP)
        return 0
    if len(options.overrides) != 1:
        raise UserError("expected one folder, that of a sweep, and at most --watch beside it; see --help.")
    from rich.console import Console

    from ccsi.sweep import selection
    from ccsi.sweep.status import print_status, read_status

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has room for a table
    while True:
        status = read_status(Path(options.overrides[0]).expanduser().absolute())
        if "--watch" in options.flags:
            console.clear()
        print_status(status, console)
        if "--watch" not in options.flags or selection.is_complete(status.state):
            return 0
        time.sleep(WATCH_SECONDS)
