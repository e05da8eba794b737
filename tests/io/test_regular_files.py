"""Files are read only if they are regular ones; a named pipe makes no one wait."""

import os
import socket
from pathlib import Path

import pytest

from ccsi.io.files import NotRegularFileError, open_regular, read_bytes, read_text


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes("ä\r\nb\n".encode())
    link.symlink_to(path)
    assert read_bytes(path) == read_bytes(link) == "ä\r\nb\n".encode()
    assert read_text(link) == "ä\nb\n"
    with open_regular(path) as file:
        assert file.seek(0, os.SEEK_END) == 6


def test_a_limit_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_bytes(path, limit=4)


def test_text_that_is_not_utf8_is_an_error_unless_asked_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)
    assert read_text(path, errors="replace") == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_named_pipe_is_refused_at_once(tmp_path: Path, through_a_link: bool) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with pytest.raises(NotRegularFileError, match="a named pipe, not a regular file"):
        read_bytes(link if through_a_link else pipe)


def test_what_else_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        listener.bind("s")
        with pytest.raises(NotRegularFileError, match="a socket"):
            read_bytes(tmp_path / "s")
    with pytest.raises(NotRegularFileError, match="a device"):
        read_bytes(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    with pytest.raises(OSError, match="null byte"):
        read_bytes(tmp_path / "a\0b")
