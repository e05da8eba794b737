"""`python tune/sweep.py` with a driver that lags: five seconds for each report."""

import sys
import time
from typing import Any

from ccsi import cli
from ccsi.sweep.recorder import SweepRecorder

record = SweepRecorder.report


def report_late(recorder: SweepRecorder, *events: Any) -> None:
    time.sleep(5)
    record(recorder, *events)


if __name__ == "__main__":
    SweepRecorder.report = report_late  # type: ignore[method-assign]
    sys.exit(cli.main(["sweep", *sys.argv[1:]]))
