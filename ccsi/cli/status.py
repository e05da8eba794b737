"""Where a sweep stands, from its files alone.

Where a sweep stands, running or not, on any machine that sees its folder.
Nothing is written or stopped.

  ccsi status FOLDER            once
  ccsi status FOLDER --watch    every 10 seconds, until it is done or Ctrl-C
"""

import time

from ccsi.errors import UserError
from ccsi.io.paths import absolute

EXPECTED = "the folder of a sweep"
WATCH_SECONDS = 10.0


def main(arguments: list[str], watch: bool = False) -> None:
    """Show the sweep of the folder in `arguments`."""
    if len(arguments) != 1:
        raise UserError("expected one folder, that of a sweep, and at most --watch beside it; see --help.")
    from ccsi.sweep import selection
    from ccsi.sweep.progress import open_console
    from ccsi.sweep.status import print_status, read_status

    console = open_console()
    while True:
        status = read_status(absolute(arguments[0], "FOLDER"))
        if watch:
            console.clear()
        print_status(status, console)
        if not watch or selection.is_complete(status.state):
            return
        time.sleep(WATCH_SECONDS)
