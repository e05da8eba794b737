"""`python tune/sweep.py …`: many runs on Ray. A thin call of `ccsi sweep`; `--help` shows the keys."""

import signal
import sys

from ccsi.cli.sweep import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a batch system sends is like Ctrl-C
    sys.exit(main())
