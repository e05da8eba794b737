"""Files that are written whole: after an exception, a kill or a full disk, the old content is there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccsi.errors import UserError
from ccsi.io.atomic import replacing, write_atomically

WRITE = """
import pathlib, sys
from ccsi.io.atomic import replacing
with replacing(pathlib.Path(sys.argv[1])) as file:
    file.write(b"new, but not all")
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def entries(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def test_the_new_content_appears_at_the_end(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert entries(path) == [".file.part", "file"]
    assert path.read_bytes() == b"new" and entries(path) == ["file"]
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer" and entries(path) == ["file"]


def test_it_is_on_disk_before_it_has_the_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_atomically(path, b"new")
    assert order == ["fsync", "replace", "fsync"]


def test_a_tag_keeps_writers_apart(path: Path) -> None:
    with replacing(path, tag="a") as one, replacing(path, tag="b") as two:
        one.write(b"one"), two.write(b"two")
        assert entries(path) == [".file.a.part", ".file.b.part", "file"]
    assert path.read_bytes() == b"one" and entries(path) == ["file"]  # the last to finish


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_content(path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), replacing(path) as file:
        file.write(b"new, but not all")
        raise error
    assert path.read_bytes() == b"old" and entries(path) == ["file"]


def test_a_kill_leaves_the_old_content_and_the_next_write_removes_the_part(path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.kill()
    assert path.read_bytes() == b"old" and entries(path) == [".file.part", "file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and entries(path) == ["file"]


def test_a_full_disk_is_reported_and_leaves_the_old_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"file cannot be written \(No space left on device\); make room"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and entries(path) == ["file"]


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        write_atomically(tmp_path / "missing" / "file", b"new")
