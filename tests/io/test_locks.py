"""Locks between processes: held, waited for, freed by a kill, and on file systems that have none."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccsi.io import locks
from ccsi.io.locks import InUseError, is_locked, locked

HOLD = """
import pathlib, sys
from ccsi.io.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_the_lock_file_exists_while_it_is_held(path: Path) -> None:
    with locked(path) as held:
        assert held and path.exists() and is_locked(path)
    assert not path.exists() and not is_locked(path)


def test_it_is_released_by_an_exception(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(path):
        _ = 1 / 0
    assert not path.exists()
    with locked(path) as held:
        assert held


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_a_held_lock_is_refused_after_the_wait(path: Path, wait: float) -> None:
    with holder(path):
        began = time.monotonic()
        with pytest.raises(InUseError, match=str(path)), locked(path, wait):
            pass
        assert time.monotonic() - began >= wait
        assert path.exists() and is_locked(path)  # the refused one took nothing from its holder


def test_waiting_ends_when_the_lock_is_free_and_is_reported_once(path: Path) -> None:
    waits: list[bool] = []
    with holder(path) as process:
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()  # several polls later
        with locked(path, 60, lambda: waits.append(is_locked(path))) as held:
            assert held
    assert waits == [True]
    assert not path.exists()


def test_a_free_lock_is_taken_without_a_wait(path: Path) -> None:
    with locked(path, 60, lambda: pytest.fail("there is nothing to wait for")) as held:
        assert held


def test_a_kill_frees_the_lock(path: Path) -> None:
    with holder(path) as process:
        process.kill()
        process.wait()
        assert path.exists() and not is_locked(path)  # the file is left, the lock is not
        with locked(path) as held:
            assert held
    assert not path.exists()


def test_a_file_removed_by_its_last_holder_is_not_locked_in_vain(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, its holder may remove it; others would lock a new one."""
    real, calls = locks.lock_descriptor, list[int]()

    def removed_first(descriptor: int, *, blocking: bool) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        return real(descriptor, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", removed_first)
    with locked(path) as held:
        assert held and path.exists() and len(calls) == 2
        assert is_locked(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_yields_false(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unsupported(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "lock_descriptor", unsupported)
    with locked(path, wait=60) as held:
        assert not held
        assert not is_locked(path)
        with locked(path) as again:  # two at the same time
            assert not again


def test_another_error_of_the_file_system_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks, "lock_descriptor", broken)
    with pytest.raises(OSError, match="Input/output error"), locked(path):
        pass


def test_a_file_system_that_locks_only_files_open_for_writing_is_locked_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    real = fcntl.flock

    def as_on_nfs(handle: int, how: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with locked(path) as held:
        assert held
        with path.open("w") as other, pytest.raises(BlockingIOError):
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_asking_writes_nothing(path: Path) -> None:
    assert not is_locked(path) and not path.exists()
    path.write_text("content")
    path.chmod(0o444)
    before = path.stat()
    assert not is_locked(path)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)
    assert path.read_text() == "content"


def test_a_file_that_may_not_be_written_in_spite_of_its_mode_is_asked_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of a network drive decides; the client knows the file's mode only."""
    real = os.open

    def as_on_a_drive(file: Path, flags: int, *mode: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, flags, *mode)

    with locked(path):
        monkeypatch.setattr(os, "open", as_on_a_drive)
        assert is_locked(path)


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing" / ".lock"):
        pass
