"""Where a sweep stands, from its files alone.

Where a sweep stands, running or not, on any machine that sees its folder.
Nothing is written, and nothing is stopped without --end.

  ccsi status FOLDER            once
  ccsi status FOLDER --watch    every 10 seconds, until it is done or Ctrl-C
  ccsi status FOLDER --end      end what Ray left of a killed driver here
"""

import time

from ccsi.errors import UserError
from ccsi.io.paths import absolute

EXPECTED = "the folder of a sweep"
WATCH_SECONDS = 10.0


def main(arguments: list[str], watch: bool = False, end: bool = False) -> None:
    """Show the sweep of the folder in `arguments`."""
    if len(arguments) != 1:
        raise UserError("expected one folder, that of a sweep, and at most --watch or --end beside it; see --help.")
    from ccsi.sweep import selection
    from ccsi.sweep.progress import open_console
    from ccsi.sweep.status import end_left_over, print_status, read_status

    console, folder = open_console(), absolute(arguments[0], "FOLDER")
    if end:
        read_status(folder)  # a UserError if it is no sweep's
        end_left_over(folder, console)
    while True:
        status = read_status(folder)
        if watch:
            console.clear()
        print_status(status, console)
        if not watch or selection.is_complete(status.state):
            return
        time.sleep(WATCH_SECONDS)
