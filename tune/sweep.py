"""`python tune/sweep.py …`: many runs on Ray. The code is `ccsi.sweep`; `--help` shows the keys."""

import signal
import sys

from ccsi.sweep.main import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a batch system sends is like Ctrl-C
    sys.exit(main())
