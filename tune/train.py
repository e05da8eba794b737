"""`python tune/train.py …`: one run shared by several workers, on Ray Train. A thin call of `ccsi train`."""

import sys

from ccsi.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
