"""`python tune/sweep.py …`: many runs on Ray. The code is `ccsi.sweep`; `--help` shows the keys."""

import sys

from ccsi.sweep.main import main

if __name__ == "__main__":
    sys.exit(main())
