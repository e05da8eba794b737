"""Where a sweep stands, from its files alone."""

from collections.abc import Sequence

HELP = """\
Where a sweep stands, running or not, on any machine that sees its folder.
Nothing is written or stopped.

  ccsi status FOLDER            once
  ccsi status FOLDER --watch    every 10 seconds, until it is done or Ctrl-C"""


def main(arguments: Sequence[str]) -> int:
    """Show the sweep of the folder in `arguments`; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    from ccsi.sweep.status import main as status

    return status(arguments)
