"""What exists on Linux only is needed by no import: macOS and Windows can load the package."""

import subprocess
import sys

ELSEWHERE = """
import os, sys
import numpy, torch, torch.distributed, filelock, rich.progress, sklearn, scipy.optimize  # these have their own ways
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.sched_yield
import ccsi.data, ccsi.distributed, ccsi.learners, ccsi.synthesis, ccsi.training
from ccsi.learners import CCSI, all_learners
assert all_learners()["ccsi"] is CCSI
ccsi.distributed.give_way()
"""


def test_without_linux_only_modules_everything_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
