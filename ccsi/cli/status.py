"""`ccsi status FOLDER`: where a sweep stands, from its files alone."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ccsi.errors import UserError
from ccsi.sweep import selection
from ccsi.sweep.status import print_status, read_status

HELP = """\
Where a sweep stands, running or not, on whatever machine; nothing is written or stopped.

  ccsi status FOLDER            once
  ccsi status FOLDER --watch    every 10 seconds, until the sweep is done or Ctrl-C"""
WATCH_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0 shown, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        folders = [argument for argument in arguments if argument != "--watch"]
        if len(folders) != 1 or folders[0].startswith("-"):
            raise UserError("expected one folder, that of a sweep, and at most --watch beside it; see --help.")
        folder = Path(folders[0]).expanduser().absolute()
        while True:
            status = read_status(folder)
            if "--watch" in arguments:
                console.clear()
            print_status(status, console)
            if "--watch" not in arguments or selection.is_complete(status.state):
                return 0
            time.sleep(WATCH_SECONDS)
    except UserError as error:
        print(f"status: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
