"""A sweep as a user starts it: its own process, an empty home, and a look afterwards at what it left behind."""

import argparse
import contextlib
import ipaddress
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MARK = "CCSI_TEST_SWEEP"


class Sweep:
    """`python tune/<script>` with `arguments`, on two CPUs; every process it starts carries a mark of ours."""

    def __init__(self, home: Path, arguments: list[str], script: str = "sweep.py", trust: str = "") -> None:
        self.mark, self.home = uuid.uuid4().hex, home
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"HOME": str(home), MARK: self.mark, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        env |= {"MPLCONFIGDIR": str(home / "mpl"), "PYTHONUNBUFFERED": "1"}
        if any(one.startswith("resume=") for one in arguments):  # a sweep.yaml may not name the stand-in by itself
            env["CCSI_TRUST"] = trust or "standin"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tune" / script), "ray.num_cpus=2", *arguments],
            cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.said = ""

    def wait(self, seconds: float = 240) -> int:
        """The exit code; `said` holds what was printed."""
        self.said, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def family(self) -> list[psutil.Process]:
        """The processes this sweep started that are alive, itself included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def listening(self) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """The addresses at which its processes wait for connections."""
        found = set[ipaddress.IPv4Address | ipaddress.IPv6Address]()
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections():
                    if connection.status == psutil.CONN_LISTEN:
                        address = ipaddress.ip_address(connection.laddr.ip)
                        found.add(getattr(address, "ipv4_mapped", None) or address)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that run trials, or share a run."""
        names = ("ray::Trial", "RayTrainWorker")
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if any(name in part for part in process.cmdline()[:1] for name in names):
                    found.append(process)
        return found

    def left(self, seconds: float = 90) -> list[str]:
        """The state and command of each of its processes that is alive after at most so many seconds of waiting.

        Longer than Ray's own limits of 60 s: Ray Train's PlacementGroupCleaner was seen to outlive Ray.
        """
        until(lambda: not self.family(), seconds)
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join([process.status(), *process.cmdline()[:3]]))
        return found


def kill_options(text: str | None, kills: int) -> tuple[int, Path, random.Random]:
    """How often a script with this docstring kills (`--kills`), a new folder for it, and its draws (`--seed`)."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return options.kills, Path(tempfile.mkdtemp(prefix="survive-")), random.Random(options.seed)


def until(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Wait for `condition`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
