"""`fetch` against a real server on the loopback: verified, whole or not at all, once."""

import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccsi.data import download
from ccsi.data.download import data_folder, fetch
from ccsi.errors import UserError

CONTENT = np.random.default_rng(0).bytes(1 << 20)
MD5 = hashlib.md5(CONTENT).hexdigest()
Unprivileged = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def url(server: Any) -> str:
    server.files["/set.npz"] = CONTENT
    return str(server.url("/set.npz?download=1"))


def start(url: str, path: Path, log: Path) -> subprocess.Popen[bytes]:
    """A process of its own that fetches."""
    code = "import pathlib, runpy, sys; file, url, path, md5 = sys.argv[1:]; "
    code += "runpy.run_path(file)['fetch'](url, pathlib.Path(path), md5)"  # the file alone: without torch
    return subprocess.Popen([sys.executable, "-c", code, download.__file__, url, str(path), MD5], stderr=log.open("wb"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_downloads_once(url: str, server: Any, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = cache / "deep" / "set.npz"
    assert fetch(url, path, MD5) == path
    assert fetch(url, path, MD5).read_bytes() == CONTENT
    assert server.requests == ["/set.npz"]
    assert entries(path.parent) == ["set.npz"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and "\r" not in err and "\x1b" not in err  # one plain line when not a terminal
    assert url in err and "1.0 MB" in err


def test_wrong_checksum_of_the_download(url: str, cache: Path) -> None:
    with pytest.raises(UserError, match=f"{MD5}, expected {'0' * 32}"):
        fetch(url, cache / "set.npz", "0" * 32)
    assert entries(cache) == []


def test_a_damaged_file_is_left_as_it_is(url: str, server: Any, cache: Path) -> None:
    cache.mkdir()
    path = cache / "set.npz"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"set\.npz is damaged .* move it away"):
        fetch(url, path, MD5)
    assert path.read_bytes() == CONTENT[:-1]
    assert server.requests == []


def test_a_transfer_that_breaks_off_leaves_nothing(url: str, server: Any, cache: Path) -> None:
    server.cut["/set.npz"] = 300_000
    with pytest.raises(UserError, match="300000 bytes read, 748576 more expected"):
        fetch(url, cache / "set.npz", MD5)
    assert entries(cache) == []


def test_a_transfer_that_ends_early_is_tried_again(
    url: str, server: Any, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.cut["/set.npz"], server.cuts = 300_000, 2
    assert fetch(url, cache / "set.npz", MD5).read_bytes() == CONTENT
    assert server.requests == ["/set.npz"] * 3
    assert entries(cache) == ["set.npz"]
    assert capfd.readouterr().err.count("trying again") == 2


def test_a_bar_on_a_terminal(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(url, cache / "set.npz", MD5)
    assert (
        "set.npz (1.0 MB)" in terminal.getvalue()
        and "100%" in terminal.getvalue()
        and "1.05M/1.05M" in terminal.getvalue()
    )


def test_missing_on_the_server(server: Any, cache: Path) -> None:
    with pytest.raises(UserError, match=r"Not Found"):
        fetch(server.url("/nothing"), cache / "set.npz", MD5)
    assert server.requests == ["/nothing"]  # trying again would not help
    assert entries(cache) == []


def test_no_network(no_network: None, cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch("https://example.org/set.npz?download=1", cache / "set.npz", MD5)
    message = str(caught.value)
    assert "https://example.org/set.npz?download=1" in message and str(cache / "set.npz") in message
    assert "refused" in message and "\n" not in message
    assert entries(cache) == []


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody may read and nobody write, with `there.npz` in it."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other accounts
        folder = Path(name)
        (folder / "there.npz").write_bytes(CONTENT)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_read_only_folder(url: str, read_only: Path, unprivileged: Unprivileged) -> None:
    with unprivileged():
        assert fetch(url, read_only / "there.npz", MD5).read_bytes() == CONTENT  # reading it takes no writing
        with pytest.raises(UserError, match=f"into {read_only} .*Permission denied.*dataset.root"):
            fetch(url, read_only / "set.npz", MD5)
        with pytest.raises(UserError, match="Permission denied"):
            fetch(url, read_only / "new" / "set.npz", MD5)
    assert entries(read_only) == ["there.npz"]


def test_folder_that_is_a_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"dataset\.root"):
        fetch(url, tmp_path / "file" / "set.npz", MD5)


def test_two_processes_at_once(url: str, server: Any, cache: Path, tmp_path: Path) -> None:
    server.held_after = 1000
    path, logs = cache / "set.npz", [tmp_path / "a.log", tmp_path / "b.log"]
    both = [start(url, path, log) for log in logs]
    wait_for(lambda: any("Waiting" in log.read_text() for log in logs))  # one downloads, the other stands in line
    server.release.set()
    assert [process.wait(60) for process in both] == [0, 0]
    assert server.requests == ["/set.npz"]
    assert entries(cache) == ["set.npz"]
    assert path.read_bytes() == CONTENT


def test_stopped_and_killed(url: str, server: Any, cache: Path, tmp_path: Path) -> None:
    server.held_after = 600_000

    def part_has_data() -> bool:
        return cache.is_dir() and any(part.stat().st_size > 0 for part in cache.glob(".set.npz.*.part"))

    stopped = start(url, cache / "set.npz", tmp_path / "stopped.log")
    wait_for(part_has_data)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) != 0
    assert "KeyboardInterrupt" in (tmp_path / "stopped.log").read_text()
    assert entries(cache) == []

    killed = start(url, cache / "set.npz", tmp_path / "killed.log")
    wait_for(part_has_data)
    killed.kill()
    killed.wait(60)
    part, lock = entries(cache)  # left by the kill; the next download removes them
    assert lock == ".set.npz.lock" and part.endswith(".part")
    server.release.set()
    fetch(url, cache / "set.npz", MD5)
    assert entries(cache) == ["set.npz"]


def test_data_folder(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder(None) == cache
    assert data_folder("~/sets") == tmp_path / "sets"
    assert data_folder("sets") == Path.cwd() / "sets"
    monkeypatch.delenv("CCSI_DATA")
    assert data_folder(None) == tmp_path / ".cache" / "ccsi"
