"""One copy for all: what is shared, that it is the same to the bit, and what happens to files that are not right."""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

import ccsi.data.shared
from ccsi.data import Dataset, Digits, Folder, Npz, Source, make_tasks, open_dataset
from ccsi.data.dataset import SPLITS
from ccsi.data.scenario import take
from ccsi.errors import UserError

CPU = torch.device("cpu")
SOURCE = Digits(size=9, max_per_class=5)


def same(a: Dataset, b: Dataset) -> bool:
    rest = ("name", "class_names", "checksum", "origin")
    tensors = [
        torch.equal(getattr(getattr(a, split), what), getattr(getattr(b, split), what))
        for split in SPLITS
        for what in ("images", "labels")
    ]
    return all(tensors) and all(getattr(a, key) == getattr(b, key) for key in rest)


def never(self: Source) -> Dataset:
    raise AssertionError("read again")


def npz(path: Path, seed: int = 0) -> Npz:
    g = np.random.default_rng(seed)
    arrays = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = g.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(6) % 3
    np.savez(path, **arrays)
    return Npz(name="own", path=str(path), size=5)


@pytest.mark.parametrize("name", ["torch.__version__", "PIL.__version__", "ccsi.data.decode.DECODER"])
def test_images_of_another_decoder_are_not_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        open_dataset(SOURCE, tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(name, "another")
    open_dataset(SOURCE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_shared_is_what_is_loaded_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SOURCE.load()
    assert same(open_dataset(SOURCE, tmp_path / "shared"), loaded)
    monkeypatch.setattr(Source, "load", never)
    assert same(open_dataset(SOURCE, tmp_path / "shared"), loaded)
    with pytest.raises(AssertionError, match="read again"):
        open_dataset(replace(SOURCE, size=10), tmp_path / "shared")
    with pytest.raises(AssertionError, match="read again"):
        open_dataset(SOURCE, None)


def test_a_shared_folder_of_an_earlier_version_has_no_origin_and_is_made_anew(tmp_path: Path) -> None:
    open_dataset(SOURCE, tmp_path)
    (path,) = tmp_path.glob("*/about.json")
    about = json.loads(path.read_bytes())
    del about["origin"]
    path.write_text(json.dumps(about))
    assert same(open_dataset(SOURCE, tmp_path), SOURCE.load()) and "origin" in json.loads(path.read_bytes())


@pytest.mark.parametrize("name", ["about.json", "train.npy"])
def test_a_pipe_in_place_of_a_shared_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    open_dataset(SOURCE, tmp_path)
    (path,) = tmp_path.glob(f"*/{name}")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"share_data=.* cannot be used \(a named pipe"):
        open_dataset(SOURCE, tmp_path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz")
    before = open_dataset(source, tmp_path / "shared")
    npz(tmp_path / "a.npz", seed=1)
    os.utime(tmp_path / "a.npz", (1, 1))
    after = open_dataset(source, tmp_path / "shared")
    assert after.checksum != before.checksum and same(after, source.load())
    (tmp_path / "a.npz").unlink()
    with pytest.raises(UserError, match="does not exist"):
        open_dataset(source, tmp_path / "shared")


def test_a_changed_picture_in_a_folder_is_read_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (4, 4), 40 * number).save(tmp_path / "own" / name / f"{number}.png")
    source = Folder(path=str(tmp_path / "own"), size=4)
    before = open_dataset(source, tmp_path / "shared")
    assert open_dataset(source, tmp_path / "shared").checksum == before.checksum
    Image.new("L", (4, 4), 255).save(tmp_path / "own" / "b" / "0.png")
    assert open_dataset(source, tmp_path / "shared").checksum != before.checksum


@pytest.mark.parametrize("file", ["about.json", "train.npy", "val.npy"])
@pytest.mark.parametrize("damage", ["removed", "emptied", "cut"])
def test_damaged_files_are_written_anew(file: str, damage: str, tmp_path: Path) -> None:
    open_dataset(SOURCE, tmp_path)
    (path,) = tmp_path.glob(f"*/{file}")
    (path.parent / ".train.npy.0123.part").write_bytes(b"of a killed process")
    os.utime(path.parent / ".train.npy.0123.part", (0, 0))
    (path.parent / ".val.npy.4567.part").write_bytes(b"of one that writes, where locks are a node's own")
    content = path.read_bytes()
    path.unlink()  # and not changed in place: a process that maps it keeps what it has
    if damage != "removed":
        path.write_bytes(content[: 0 if damage == "emptied" else len(content) - 1])
    assert same(open_dataset(SOURCE, tmp_path), SOURCE.load())
    assert path.read_bytes() == content
    assert [left.name for left in tmp_path.rglob("*.part")] == [".val.npy.4567.part"]


def test_tasks_are_the_same_and_their_images_lie_in_files_of_their_own(tmp_path: Path) -> None:
    plan = [[3, 1, 0], [2, 9, 8, 7], [6, 5, 4]]
    private, shared = SOURCE.load(), open_dataset(SOURCE, tmp_path)
    wholes = {getattr(shared, split).images.untyped_storage().data_ptr() for split in SPLITS}
    for everything in (False, True):
        pairs = zip(
            make_tasks(private.train, private.val, plan, CPU, 0, everything),
            make_tasks(shared.train, shared.val, plan, CPU, 0, everything),
            strict=True,
        )
        for expected, task in pairs:
            for a, b in ((expected.train, task.train), (expected.val, task.val)):
                assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
                assert b.images.untyped_storage().nbytes() == b.images.numel()  # nothing behind or before them
                assert b.images.untyped_storage().data_ptr() not in wholes
                assert set(vars(b)) == {"images", "labels"}
    # two disjoint kinds of tasks, the first of both is the same, and the last joint one is the whole file
    assert len(list(tmp_path.glob("*/train-*.npy"))) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps, which only Linux has")
def test_the_images_are_the_files_pages_and_not_this_process_own(tmp_path: Path) -> None:
    data = open_dataset(Digits(size=64), tmp_path)
    task = take(data.train, [3, 1], 0, CPU)
    int(task.images.sum()), int(data.val.images.sum()), int(data.val.images[::2].sum())
    for images, kind in ((task.images, "train-"), (data.val.images, "val.npy")):
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) (.*)", line):
                inside = int(found[1], 16) <= images.data_ptr() < int(found[2], 16)
                assert not inside or (str(tmp_path) in found[3] and kind in found[3])
            elif inside and line.startswith(("Rss", "Anonymous")):
                kilobytes = int(line.split()[1])
                assert kilobytes == 0 if line.startswith("Anonymous") else kilobytes * 1024 >= images.numel()


def test_another_order_of_the_same_classes_is_the_same_file(tmp_path: Path) -> None:
    data = open_dataset(SOURCE, tmp_path)
    a, b = take(data.train, [3, 1], 0, CPU), take(data.train, [1, 3], 4, CPU)
    assert torch.equal(a.images, b.images) and torch.equal(5 - b.labels, a.labels)
    assert len(list(tmp_path.glob("*/train-*.npy"))) == 1


def test_a_damaged_task_file_is_written_anew(tmp_path: Path) -> None:
    expected = take(SOURCE.load().train, [3, 1], 0, CPU).images
    take(open_dataset(SOURCE, tmp_path).train, [3, 1], 0, CPU)
    (path,) = tmp_path.glob("*/train-*.npy")
    for content in (b"", path.read_bytes()[:-1]):
        path.unlink()
        path.write_bytes(content)
        assert torch.equal(take(open_dataset(SOURCE, tmp_path).train, [3, 1], 0, CPU).images, expected)


def test_writing_to_shared_images_reaches_nobody_else(tmp_path: Path) -> None:
    expected = SOURCE.load().train.images
    data = open_dataset(SOURCE, tmp_path)
    task = take(data.train, list(range(10)), 0, CPU)
    task.images.fill_(7)
    assert torch.equal(data.train.images, expected)
    data.train.images.fill_(8)
    assert torch.equal(open_dataset(SOURCE, tmp_path).train.images, expected)
    assert (task.images == 7).all()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    tmp_path.chmod(0o555)
    with unprivileged(), pytest.raises(UserError, match=r"share_data=.* cannot be used \(Permission denied\)"):
        open_dataset(SOURCE, tmp_path)
    with pytest.raises(UserError, match=r"share_data=.* cannot be used \(.*\); make room, or choose another folder\."):
        (tmp_path / "file").touch()
        open_dataset(SOURCE, tmp_path / "file")


def test_a_complete_folder_is_only_read(unprivileged: Callable[[], AbstractContextManager[None]]) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other accounts
        folder, expected = Path(name), SOURCE.load()
        task = take(open_dataset(SOURCE, folder).train, [3, 1], 0, CPU)
        assert not list(folder.rglob(".lock"))
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for one in folders:
            one.chmod(0o555)
        with unprivileged():
            data = open_dataset(SOURCE, folder)
            assert same(data, expected)
            assert torch.equal(take(data.train, [3, 1], 0, CPU).images, task.images)
        for one in folders:
            one.chmod(0o755)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"share_data=.*No space left on device"):
        open_dataset(SOURCE, tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert same(open_dataset(SOURCE, tmp_path), SOURCE.load())


def test_of_several_that_start_together_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, read, ready = Digits.load, list[int](), Barrier(4)

    def slow(self: Digits) -> Dataset:
        read.append(1)
        time.sleep(0.2)
        return load(self)

    def one(number: int) -> Dataset:
        ready.wait()
        return open_dataset(SOURCE, tmp_path)

    monkeypatch.setattr(Digits, "load", slow)
    with ThreadPoolExecutor(4) as pool:  # the lock is between open files, so threads are as good as processes
        data = list(pool.map(one, range(4)))
    assert len(read) == 1 and all(same(part, data[0]) for part in data)


def test_without_locks_it_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    assert same(open_dataset(SOURCE, tmp_path), SOURCE.load())
    assert ccsi.data.shared.found_in(next(tmp_path.iterdir())) is not None
