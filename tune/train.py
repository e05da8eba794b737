"""`python tune/train.py …`: one run shared by several workers, on Ray Train. A thin call of `ccsi train`."""

import signal
import sys

from ccsi.cli.train import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a batch system sends is like Ctrl-C
    sys.exit(main())
