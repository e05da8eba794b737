"""The processes of a sweep's own Ray on this machine: watched, noted in its folder, and ended if they outlive it."""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from ccsi.io.atomic import replacing
from ccsi.io.files import read_bytes

NOTE = ".processes.json"
NEEDED = ("raylet", "gcs_server")
"""Processes without which Ray ends its driver, after some seconds and without a message."""
TITLES = ("ray::", "ray-dashboard-")
"""How the titles begin that Ray gives its workers and agents, and the parts of its dashboard."""
POLL = 0.5  # seconds between two looks at those that are needed
SCAN = 10.0  # seconds between two looks for new processes once Ray runs: that reads every process of the machine
SAME = 2.0  # seconds by which two readings of a process's start may differ: the clock may have been set
NOTE_LIMIT = 2**20  # bytes


def descendants() -> dict[int, psutil.Process]:
    """The processes that this one has started, and those that they have, by id."""
    with suppress(psutil.Error):
        return {process.pid: process for process in psutil.Process().children(recursive=True)}
    return {}


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end_processes(processes: Iterable[psutil.Process]) -> int:
    """End these processes; returns how many there were."""
    living = [process for process in processes if is_alive(process)]
    for process in living:
        with suppress(psutil.Error):  # psutil looks first whether the id has become another's
            process.kill()
    deadline = time.monotonic() + 5
    while any(map(is_alive, living)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(living)


class ProcessWatch(threading.Thread):
    """Knows the processes that were started since it was made, and notes them in a file, in case this one is killed.

    Args:
        path: of that file; None: nothing is noted.
        on_death: called once with the name when one of `NEEDED` dies after `arm`.
    """

    def __init__(self, path: Path | None, on_death: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.path, self.on_death = path, on_death
        self.others, self.needed = set(descendants()), dict[psutil.Process, str]()
        self.known = dict[int, psutil.Process]()
        self.over = threading.Event()

    def look(self) -> set[int]:
        """Bring `known` up to date; returns the ids of those alive."""
        found = {pid: one for pid, one in descendants().items() if pid not in self.others}
        self.known = {pid: one for pid, one in {**self.known, **found}.items() if is_alive(one)}
        return set(self.known)  # a worker whose raylet died is no descendant any more

    def arm(self) -> None:
        """From now on the death of one of `NEEDED` is an accident."""
        self.look()
        for process in self.known.values():
            with suppress(psutil.Error):
                if (name := process.name()) in NEEDED:
                    self.needed[process] = name

    def run(self) -> None:
        noted, scanned_at = set[int](), -math.inf
        while not self.over.wait(POLL):
            dead = next((name for process, name in self.needed.copy().items() if not is_alive(process)), None)
            if dead is not None and not self.over.is_set():
                return self.on_death(dead)
            if self.needed and time.monotonic() - scanned_at < SCAN:
                continue
            scanned_at, present = time.monotonic(), self.look()
            if self.path is not None and present != noted:
                noted = present
                self._note(self.path)

    def _note(self, path: Path) -> None:
        about = {"host": socket.gethostname(), "driver": identity(psutil.Process())}
        processes = list[tuple[int, float]]()
        for process in self.known.values():
            with suppress(psutil.Error):
                processes.append(identity(process))
        with suppress(OSError), replacing(path, durable=False) as file:
            file.write(json.dumps(about | {"processes": processes}).encode())

    def finish(self) -> None:
        """Ray has been stopped, or is lost: end what is left of it, and remove the note."""
        self.over.set()
        if self is not threading.current_thread():
            self.join()
        self.look()
        end_processes(self.known.values())
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def identity(process: psutil.Process) -> tuple[int, float]:
    """A process's id and the time of its start, which together name no other one."""
    return process.pid, process.create_time()


def left_over(folder: Path) -> list[psutil.Process]:
    """The noted processes of Ray in a sweep's folder that still run on this machine, though their driver is gone."""
    try:
        note = json.loads(read_bytes(folder / NOTE, NOTE_LIMIT))
        driver, *noted = [(int(pid), float(start)) for pid, start in (note["driver"], *note["processes"])]
        here = note["host"] == socket.gethostname()
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []
    if not here or find(driver) is not None:
        return []
    return [process for one in noted if (process := find(one)) is not None and is_of_ray(process)]


def find(noted: tuple[int, float]) -> psutil.Process | None:
    """The living process of this user with that id and start."""
    pid, start = noted
    with suppress(psutil.Error, ValueError, OverflowError):
        process = psutil.Process(pid)
        if abs(process.create_time() - start) < SAME and process.uids().real == os.getuid() and is_alive(process):
            return process
    return None


def is_of_ray(process: psutil.Process) -> bool:
    """Whether it is a program or a script of Ray's: a note in a folder from elsewhere must not end anything else."""
    with suppress(psutil.Error):
        parts = process.cmdline()
        return any(part.startswith(TITLES) or Path(part).name in NEEDED or "/ray/" in part for part in parts)
    return False
