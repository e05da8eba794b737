"""`python tune/status.py FOLDER`: where a sweep stands, from its files. A thin call of `ccsi status`."""

import sys

from ccsi.cli import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
