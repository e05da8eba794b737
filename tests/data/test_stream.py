"""Batches of images without labels: their order, what goes wrong with some, and how much is in memory."""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccsi.data import decode, parts
from ccsi.data.input import InputFormat
from ccsi.data.parts import FILES
from ccsi.data.stream import AHEAD, Batch, ImageStream, open_images
from ccsi.data.walk import Walk
from ccsi.errors import UserError

GREY = InputFormat(4, "resize", 1, {})


def picture(path: Path, level: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), level, dtype=np.uint8)).save(path)
    return path


def names_of(stream: ImageStream) -> list[str]:
    return [name for batch in stream for name in batch.names]


def levels_of(stream: ImageStream) -> list[int]:
    return [level for batch in stream for level in batch.images[:, 0, 0, 0].tolist()]


def is_quiet() -> bool:
    return not any(thread.name.startswith("ccsi-images") for thread in threading.enumerate())


def test_files_come_in_natural_order_whatever_their_depth(tmp_path: Path) -> None:
    files = ["2.png", "10.png", "a/b/c/d/1.png", "a/b2.PNG", "a/b10.png", "b.png", "p9/x.png", "p10/x.png"]
    for level, name in enumerate(files):
        picture(tmp_path / name, level)
    stream = open_images(str(tmp_path), GREY, batch=3)
    assert [len(batch.names) for batch in stream] == [3, 3, 2] and stream.total == 8 and stream.skipped == {}
    for _ in range(2):
        assert names_of(stream) == files and levels_of(stream) == [*range(8)]


@given(st.integers(1, 40), st.integers(1, 45))
def test_batches_are_full_but_for_the_last(n: int, batch: int) -> None:
    images = np.arange(n, dtype=np.uint8).repeat(16).reshape(n, 4, 4)
    batches = list(open_images(images, GREY, batch=batch))
    assert [len(one.names) for one in batches] == [batch] * (n // batch) + [n % batch] * (n % batch > 0)
    assert [name for one in batches for name in one.names] == [*map(str, range(n))]
    assert [level for one in batches for level in one.images[:, 0, 0, 0].tolist()] == [*range(n)]


def test_what_is_no_image_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "own"
    picture(root / "a" / "1.png", 1)
    picture(root / ".git" / "1.png")
    for name in ("notes.txt", "IM0001", ".hidden.png"):
        (root / "a" / name).touch()
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one, monkeypatch.context() as patch:
        patch.chdir(root)  # the name of a socket may not be long
        one.bind("socket.png")
    stream = open_images(root, GREY)
    expected = {
        "hidden (the name begins with a dot)": 2,
        "file whose suffix is not an image's": 1,
        "file without a suffix": 1,
        "link to nothing": 1,
        "pipe, socket or device": 2,
    }
    assert stream.total == 1 and stream.skipped == expected
    assert names_of(stream) == ["a/1.png"] and stream.skipped == expected
    (root / "a" / "later.txt").touch()
    assert names_of(stream) == ["a/1.png"] and stream.skipped["file whose suffix is not an image's"] == 2


def test_links_to_folders_are_read_once_and_last(tmp_path: Path) -> None:
    root = tmp_path / "up" / "own"
    picture(root / "a" / "1.png", 1)
    picture(tmp_path / "elsewhere" / "deep" / "2.png", 2)
    picture(tmp_path / "up" / "outside.png", 9)
    (root / "A link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "loop").symlink_to(root)
    (root / "a" / "loop").symlink_to("../a")
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    (root / "file.png").symlink_to("a/1.png")
    stream = open_images(root, GREY)
    assert names_of(stream) == ["a/1.png", "file.png", "A link/deep/2.png"] and stream.total == 3
    assert stream.skipped == {"link to nothing": 1, "link to a folder or file that is read already": 5}


def test_the_folder_itself_may_be_a_link_or_hidden(tmp_path: Path) -> None:
    picture(tmp_path / ".own" / "1.png")
    (tmp_path / "link").symlink_to(".own")
    assert names_of(open_images(tmp_path / "link", GREY)) == names_of(open_images(tmp_path / ".own", GREY)) == ["1.png"]


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut.png": (lambda path: cut(path, 60), "cannot be read as an image ("),
    "cut.jpg": (lambda path: cut(path, 300), "cannot be read as an image ("),
    "empty.png": (lambda path: path.touch(), "is empty; expected a whole picture file."),
    "text.png": (lambda path: path.write_text("no image"), "cannot be read as an image (its format is unknown); "),
    "half.tif": (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "cannot be read as an image (it is damaged, or "),
    "frames.tif": (lambda path: frames(path), "cannot be read as an image (it has 2 frames; save each as a file of "),
    "frames.gif": (lambda path: frames(path), "cannot be read as an image (it has 2 frames; save each as a file of "),
    "text.dcm": (lambda path: path.write_text("no image"), "cannot be read as an image ("),
    "deep.png": (lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path), "has 16 bit pixels, but the "),
    "script.jpg": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "cannot be read as an image (its "),
}


def cut(path: Path, n: int) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:n])


def frames(path: Path) -> None:
    Image.new("L", (4, 4), 3).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 9)])


@pytest.mark.parametrize("batch", [1, 5, 256])
def test_a_broken_image_does_not_stop_the_others(tmp_path: Path, batch: int) -> None:
    for level, (name, (write, _)) in enumerate(BROKEN.items()):
        write(tmp_path / name)
        picture(tmp_path / f"{Path(name).stem} whole {level}.png", level)
    errors, levels = dict[str, str](), list[int]()
    for one in open_images(tmp_path, GREY, batch):
        assert len(one.images) == len(one.names) - len(one.errors)
        errors |= {one.names[position]: error for position, error in one.errors.items()}
        good = [name for position, name in enumerate(one.names) if position not in one.errors]
        assert one.images[:, 0, 0, 0].tolist() == [int(name.split()[-1][:-4]) for name in good]
        levels += one.images[:, 0, 0, 0].tolist()
    assert sorted(errors) == sorted(BROKEN) and sorted(levels) == [*range(len(BROKEN))]
    for name, (_, expected) in BROKEN.items():
        assert errors[name].startswith(expected) and errors[name].isprintable() and str(tmp_path) not in errors[name]


def test_files_that_change_meanwhile_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for level in range(3):
        picture(tmp_path / f"{level}.png", level)

    def files(self: Walk) -> list[str]:
        (tmp_path / "0.png").unlink(missing_ok=True)
        (tmp_path / "2.png").unlink(missing_ok=True)
        os.mkfifo(tmp_path / "2.png")
        return ["0.png", "1.png", "2.png"]

    stream = open_images(tmp_path, GREY)
    monkeypatch.setattr(Walk, "files", files)
    (batch,) = stream
    assert batch.names == ("0.png", "1.png", "2.png") and batch.images[:, 0, 0, 0].tolist() == [1]
    assert batch.errors == {
        0: "cannot be read as an image (No such file or directory); expected a whole picture file.",
        2: "cannot be read as an image (a named pipe, not a regular file); expected a whole picture file.",
    }


def test_a_folder_that_is_gone_is_an_error_of_the_whole(tmp_path: Path) -> None:
    picture(tmp_path / "own" / "1.png")
    stream = open_images(tmp_path / "own", GREY)
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(UserError, match=r"own cannot be read \(No such file or directory\)"):
        list(stream)


def test_one_file_of_any_suffix(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 7).rename(tmp_path / "IM0001")
    (batch,) = stream = open_images(tmp_path / "IM0001", GREY)
    assert batch.names == ("IM0001",) and batch.images[0, 0, 0, 0] == 7 and stream.total == 1


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 5)
    os.rename(tmp_path / "1.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    (batch,) = open_images(tmp_path, GREY)
    assert batch.names == (r"caf\xe9.png",) and batch.images[0, 0, 0, 0] == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", r"empty has no image \(it has 1 × file without a suffix\); expected at least one file \(\.bmp"),
        ("nowhere", r"nowhere cannot be read \(No such file or directory\); expected a folder of images, an image"),
        ("pipe", r"pipe is no regular file; expected a folder"),
        ("pipe.npz", r"pipe\.npz is no regular file; expected a folder"),
        ("text.npz", r"text\.npz is not a readable \.npz file"),
        ("labels.npz", r"labels\.npz has no array train_images or val_images or test_images or images; expected at"),
        ("none.npz", r"none\.npz has no image; expected at least one"),
        ("float.npz", r"float\.npz: images is float64; expected uint8"),
        ("pickle.npz", r"pickle\.npz: images holds pickled objects, which are never loaded"),
    ],
)
def test_sources_that_are_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "deeper" / "README").touch()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "labels.npz", labels=np.arange(3))
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 4, 4), np.uint8))
    np.savez(tmp_path / "float.npz", images=np.zeros((1, 4, 4)))
    np.savez(tmp_path / "pickle.npz", images=np.array([None] * 9).reshape(1, 3, 3))
    with pytest.raises(UserError, match=message):
        open_images(tmp_path / source, GREY)


def test_few_batches_are_read_before_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(200):
        picture(tmp_path / f"{i}.png", i)
    opened, really = list[str](), decode.open_regular

    def counted(path: Path) -> BinaryIO:
        opened.append(path.name)
        return really(path)

    monkeypatch.setattr(decode, "open_regular", counted)
    batch, most = 10, 0
    for number, _ in enumerate(open_images(tmp_path, GREY, batch), start=1):
        time.sleep(0.02)  # the network is slower than the reader
        most = max(most, len(opened) - number * batch)
    assert 0 < most <= AHEAD * batch + FILES and len(opened) == len({*opened}) == 200  # each is opened once


def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened, decoded = list[str](), parts.decoded

    def sleepy(path: Path, one_frame: bool) -> Any:
        opened.append(path.name)
        time.sleep(0.05)
        return decoded(path, one_frame)

    monkeypatch.setattr(parts, "decoded", sleepy)
    return opened


@pytest.mark.parametrize("source", ["folder", "npz", "array"])
def test_leaving_early_leaves_no_thread(tmp_path: Path, source: str) -> None:
    for i in range(30):
        picture(tmp_path / "folder" / f"{i}.png", i)
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 4, 4), np.uint8))
    own: Any = {"folder": tmp_path / "folder", "npz": tmp_path / "a.npz", "array": np.zeros((30, 4, 4), np.uint8)}
    stream = open_images(own[source], GREY, batch=3)
    for _ in stream:
        break
    assert is_quiet()
    with pytest.raises(ZeroDivisionError):
        for _ in stream:
            1 / 0  # noqa: B018
    assert is_quiet() and len(names_of(stream)) == 30 and is_quiet()
    first, second = iter(stream), iter(stream)  # side by side
    assert next(first).names == next(second).names != next(first).names


def test_an_interrupt_is_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(100):
        picture(tmp_path / f"{i}.png", i)
    stream, opened = open_images(tmp_path, GREY, batch=100), slow(monkeypatch)  # 2.5 s or more for a batch
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.12, signal.pthread_kill, (main, signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(iter(stream))
    assert time.monotonic() - start < 2.2 and is_quiet()
    n = len(opened)
    time.sleep(0.1)
    assert len(opened) == n < 100


def test_what_libraries_warn_of_is_not_printed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    (batch,) = open_images(tmp_path, GREY)
    assert isinstance(batch, Batch) and not batch.errors and not len(recwarn)
