"""The processes of a local Ray: watched, noted, and ended only if they are what was noted."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from commands import status
from launcher import until

from ccsi.sweep import processes
from ccsi.sweep.compose import compose
from ccsi.sweep.processes import NOTE, ProcessWatch, end_processes, identity, is_alive, left_over
from ccsi.sweep.resume import with_folder

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A process whose command line is one of Ray's."""
    with subprocess.Popen([*SLEEP, "ray::IDLE"]) as process:
        child = psutil.Process(process.pid)
        assert until(lambda: "ray::IDLE" in child.cmdline(), 30)
        yield child
        process.kill()


def write_note(folder: Path, *noted: psutil.Process, driver: Any = (999_999, 1.0), host: str | None = None) -> None:
    about = {"host": host or socket.gethostname(), "driver": driver, "processes": [identity(one) for one in noted]}
    (folder / NOTE).write_text(json.dumps(about))


def test_what_a_killed_driver_left_is_found_and_ended(tmp_path: Path, child: psutil.Process) -> None:
    write_note(tmp_path, child)
    assert left_over(tmp_path) == [child]
    assert end_processes(left_over(tmp_path)) == 1
    assert not is_alive(child) and left_over(tmp_path) == []


def test_only_what_was_noted_is_ended(tmp_path: Path, child: psutil.Process) -> None:
    write_note(tmp_path, child, driver=identity(psutil.Process()))  # its driver lives
    assert left_over(tmp_path) == []
    write_note(tmp_path, child, host="elsewhere")
    assert left_over(tmp_path) == []
    pid, start = identity(child)
    (tmp_path / NOTE).write_text(
        json.dumps({"host": socket.gethostname(), "driver": [999_999, 1.0], "processes": [[pid, start - 60]]})
    )
    assert left_over(tmp_path) == []  # another process has its id now
    with subprocess.Popen(SLEEP) as other:
        write_note(tmp_path, psutil.Process(other.pid))
        assert left_over(tmp_path) == []  # no process of Ray
        other.kill()
    for text in ("", "[]", "{}", '{"host": 1, "driver": 5, "processes": [[1]]}', "[" * 9999, '{"driver": [1e400, 1]}'):
        (tmp_path / NOTE).write_text(text)
        assert left_over(tmp_path) == []
    (tmp_path / NOTE).unlink()
    os.mkfifo(tmp_path / NOTE)
    assert left_over(tmp_path) == []
    assert is_alive(child)


PACKAGE = "/home/ann/.venv/lib/python3.11/site-packages/ray"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([f"{PACKAGE}/core/src/ray/gcs/gcs_server", "--log_dir=/tmp/x"], True),
        ([f"{PACKAGE}/core/src/ray/raylet/raylet", "--raylet_socket_name=/tmp/x"], True),
        (["raylet"], True),
        (["python", "-u", f"{PACKAGE}/_private/log_monitor.py"], True),
        (["python", f"{PACKAGE}/_private/workers/default_worker.py", "--node-ip-address=127.0.0.1"], True),
        (["ray::IDLE"], True),
        (["ray::Trial", "p1-c00-s100", "task", "2"], True),
        (["ray::DashboardAgent"], True),
        (["ray-dashboard-NodeHead-0", "(python)"], True),
        (["python", "train.py", "chest_xray", "dataset.path=/data/xray/train"], False),
        (["vim", "array.py", "tray", "/home/ann/raylet.md"], False),
        ([], False),
    ],
)
def test_rays_processes_are_known_by_their_command_line(command: list[str], expected: bool) -> None:
    process: Any = SimpleNamespace(cmdline=lambda: command)
    assert processes.is_of_ray(process) == expected


def test_status_names_them_and_ends_them_when_asked(
    tmp_path: Path, child: psutil.Process, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "sweep.yaml").write_text(with_folder(compose(["sweep.space={}"]), tmp_path).dump())
    write_note(tmp_path, child)
    assert status([str(tmp_path)]) == 0
    assert "1 processes of Ray are left of a driver that was killed; they end within a minute, or now: " in (
        capsys.readouterr().out
    )
    assert is_alive(child)
    assert status([str(tmp_path), "--end"]) == 0
    assert capsys.readouterr().out.startswith("1 processes of Ray ended.\n")
    assert not is_alive(child) and not (tmp_path / NOTE).exists()
    assert status([str(tmp_path), "--end"]) == 0
    assert capsys.readouterr().out.startswith("No process of Ray is left here.\n")


def test_a_needed_process_that_dies_is_told_and_others_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "POLL", 0.05)
    died, told = threading.Event(), list[str]()

    def on_death(name: str) -> None:
        told.append(name)
        died.set()

    watch = ProcessWatch(tmp_path / NOTE, on_death)
    with subprocess.Popen(SLEEP) as needed, subprocess.Popen(SLEEP) as other:
        monkeypatch.setattr(processes, "NEEDED", (psutil.Process(needed.pid).name(),))
        watch.start()
        watch.arm()
        watch.needed.pop(psutil.Process(other.pid))  # the same program here
        assert until(lambda: (tmp_path / NOTE).exists(), 30)
        noted = json.loads((tmp_path / NOTE).read_text())
        assert {pid for pid, _ in noted["processes"]} == {needed.pid, other.pid}
        assert noted["driver"] == list(identity(psutil.Process()))
        scans = list[None]()
        monkeypatch.setattr(processes, "descendants", lambda: scans.append(None) or {})
        other.kill()
        assert not died.wait(0.5) and len(scans) <= 1  # not at each of ten polls
        needed.kill()
        assert died.wait(30) and told == [psutil.Process().name()]
        watch.finish()
    assert not (tmp_path / NOTE).exists()


def test_what_ends_after_ray_was_stopped_is_no_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "POLL", 0.05)
    told = list[str]()
    watch = ProcessWatch(None, told.append)
    with subprocess.Popen(SLEEP) as needed:
        monkeypatch.setattr(processes, "NEEDED", (psutil.Process(needed.pid).name(),))
        watch.start()
        watch.arm()
        watch.finish()  # ends what is left, too
        assert needed.wait(30) != 0
    assert told == []
