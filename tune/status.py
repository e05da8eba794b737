"""`python tune/status.py FOLDER`: where a sweep stands, from its files. The code is `ccsi.sweep.status`."""

import sys

from ccsi.sweep.status import main

if __name__ == "__main__":
    sys.exit(main())
