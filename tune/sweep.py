"""`python tune/sweep.py …`: many runs on Ray. A thin call of `ccsi sweep`; `--help` shows the keys."""

import sys

from ccsi.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
