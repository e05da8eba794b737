"""Split folders and class folders as users have them, what is passed over, and what is said of it."""

import os
import re
import socket
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccsi import config
from ccsi.data import Dataset, Folder, open_dataset
from ccsi.data.dataset import Origin
from ccsi.data.scan import natural
from ccsi.data.summary import summarize
from ccsi.errors import UserError

Unprivileged = Callable[[], AbstractContextManager[None]]


def picture(path: Path, level: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((4, 4), level, dtype=np.uint8)
    image[0, 0] = 0
    Image.fromarray(image).save(path)
    return path


def levels(data: Dataset) -> list[list[int]]:
    return [part.images[:, 0, 1, 1].tolist() for part in (data.train, data.val, data.test)]


def load(path: Path, **fields: Any) -> Dataset:
    return Folder(path=str(path), **{"size": 4, **fields}).load()


def classes(path: Path, n: int = 1, start: int = 0) -> None:
    for label, name in enumerate(("ant", "bee")):
        for i in range(n):
            picture(path / name / f"{i:02}.png", start + 50 * label + i + 1)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("train_set", "val-set", "Test set"),
        ("train_images", "val_images", "test_images"),
        ("1_train", "2_valid", "3_test"),
    ],
)
def test_usual_names_of_split_folders(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for number, name in enumerate(names):
        classes(tmp_path / name, start=100 * number)
    data = load(tmp_path)
    assert data.class_names == ("ant", "bee") and levels(data) == [[1, 51], [101, 151], [201, 251]]
    assert data.origin.files["val"] == (f"{names[1]}/ant/00.png", f"{names[1]}/bee/00.png")


def test_any_other_name_is_given(tmp_path: Path) -> None:
    for number, name in enumerate(("cases/A", "dev", "Test")):
        classes(tmp_path / name, start=100 * number)
    data = load(tmp_path, train="cases/A", val="dev")
    assert levels(data) == [[1, 51], [101, 151], [201, 251]]
    for wrong in ("nowhere", "../x", "/", ".", "", "./", "x" * 300, "a\0b"):
        with pytest.raises(UserError, match=r"^dataset\.val=.* has no such folder; it has Test, cases, dev\.$"):
            load(tmp_path, train="cases/A", val=wrong)


def test_without_val_it_is_a_share_of_train(tmp_path: Path) -> None:
    classes(tmp_path / "Training", n=10)
    classes(tmp_path / "Testing", n=2, start=100)
    data = load(tmp_path)
    train, val, test = levels(data)
    assert sorted(train + val) == [*range(1, 11), *range(51, 61)] and test == [101, 102, 151, 152]
    assert [sum(level < 50 for level in part) for part in (train, val)] == [8, 2] and len(val) == 4
    assert load(tmp_path).checksum == data.checksum != load(tmp_path, split_seed=1).checksum
    assert data.origin.warnings == (
        "There is no folder for val: 20% of the images of train are used (dataset.val_share).",
    )


@pytest.mark.parametrize("there", [("train", "val"), ("train",)])
def test_without_test_it_is_a_share_of_train_too(tmp_path: Path, there: tuple[str, ...]) -> None:
    for number, name in enumerate(there):
        classes(tmp_path / name, n=10, start=100 * number)
    data = load(tmp_path)
    lacking = tuple(split for split in ("val", "test") if split not in there)
    assert data.origin.drawn == lacking and len(data.origin.warnings) == len(lacking)
    assert {len(getattr(data, split)) for split in lacking} == {4} and len(data.train) == 20 - 4 * len(lacking)
    if "val" in there:
        assert levels(data)[1] == [*range(101, 111), *range(151, 161)]  # as its folder has it


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("val", "test"), r"not all of train, val and test: expected dataset\.train=…"),
        (("train", "dev", "test"), r"test; it also has dev: expected dataset\.val=…"),
        (("train", "Training", "test"), r"has Training and train, which may all be train; .* dataset\.train=…"),
        (("siteA", "siteB"), r"siteA is taken for a class, but it holds only folders \(ant, bee\)"),
        (("train", "holdout"), r"it also has holdout: expected dataset\.val=… to name the folder of val"),
        (("Trn", "Vld", "Tst"), r"Trn is taken for a class, .* dataset\.train, dataset\.val and dataset\.test"),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for folder in folders:
        classes(tmp_path / folder)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["", "train"])
def test_folders_in_class_folders_are_read_only_if_the_user_says_so(tmp_path: Path, split: str) -> None:
    for folder in (split, "val", "test") if split else ("",):
        for label, name in enumerate(("ant", "bee")):
            for i in range(6):
                picture(tmp_path / folder / name / f"p{label}{i // 2}" / f"{i}.png", 50 * label + i + 1)
    with pytest.raises(UserError, match=r"ant is taken for a class, but it holds only folders .*dataset\.nested=true"):
        load(tmp_path)
    assert sum(map(len, levels(load(tmp_path, nested=True)))) == (36 if split else 12)


def test_folders_of_one_name_in_several_classes_may_be_the_classes(tmp_path: Path) -> None:
    for name in ("siteA", "siteB"):
        classes(tmp_path / name, n=3)
        for i in range(5):
            picture(tmp_path / name / f"preview{i}.png")
    with pytest.raises(UserError, match=r"siteA and siteB are taken for .* both hold a folder ant .*nested=true"):
        load(tmp_path)
    assert load(tmp_path, nested=True).class_names == ("siteA", "siteB")


def test_one_class_may_have_the_same_folder_in_several_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        classes(tmp_path / split)
        picture(tmp_path / split / "ant" / "p1" / "0.png")
        (tmp_path / split / "bee" / "p1").mkdir()  # without an image
    assert sum(map(len, levels(load(tmp_path)))) == 9


def test_a_split_folder_without_classes_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train", n=5)
    picture(tmp_path / "test" / "0.png")
    with pytest.raises(UserError, match=r"test has no sub-folders; expected one for each class"):
        load(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "test", "train"):
        for i in range(5):
            picture(tmp_path / name / f"{i}.png")
    assert load(tmp_path).class_names == ("bus", "test", "train")


def test_numbers_in_class_names_have_their_natural_order(tmp_path: Path) -> None:
    for name in ("10", "2", "1", "grade 9", "grade 11"):
        for i in range(5):
            picture(tmp_path / name / f"{i}.png", 100)
    assert load(tmp_path).class_names == ("1", "2", "10", "grade 9", "grade 11")


@given(st.sets(st.text(st.characters(codec="utf-8", exclude_characters="0123456789"))))
def test_other_names_are_sorted_as_before(names: set[str]) -> None:
    assert natural(names) == sorted(names)


@given(st.sets(st.text("0019a\x00\x01~")))
def test_numbers_in_names_are_sorted_by_their_value(names: set[str]) -> None:
    filled = {name: re.sub("[0-9]+", lambda digits: digits[0].zfill(99), name) for name in names}
    assert natural(names) == sorted(names, key=lambda name: (filled[name], name))


@given(st.sets(st.integers(0, 99)), st.text("ab _-.é"))
def test_numbers_of_as_many_digits_are_sorted_as_before(numbers: set[int], before: str) -> None:
    names = [f"{before}{number:02}" for number in numbers]
    assert natural(names) == sorted(names)


def test_what_is_passed_over_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "own"
    for split in ("train", "val", "test"):
        classes(root / split)
    (root / "notes.txt").touch()
    (root / "extra" / "deep").mkdir(parents=True)
    ant = root / "train" / "ant"
    (ant / "Thumbs.db").touch()
    (ant / "IM0001").touch()
    (ant / ".hidden.png").touch()
    (ant / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(ant / "pipe.png")
    with socket.socket(socket.AF_UNIX) as one, monkeypatch.context() as patch:
        patch.chdir(ant)  # the name of a socket may not be long
        one.bind("socket.png")
    (ant / "back").symlink_to(root)
    (ant / "same.png").symlink_to("00.png")
    picture(tmp_path / "elsewhere" / "1.png", 7)
    (ant / "linked").symlink_to(tmp_path / "elsewhere")
    (ant / "linked again").symlink_to(tmp_path / "elsewhere")
    data = load(root)
    assert data.origin.skipped == {
        "outside of the class folders": ("extra/", "notes.txt"),
        "file whose suffix is not an image's": ("train/ant/Thumbs.db",),
        "file without a suffix": ("train/ant/IM0001",),
        "hidden (the name begins with a dot)": ("train/ant/.hidden.png",),
        "link to nothing": ("train/ant/gone.png",),
        "pipe, socket or device": ("train/ant/pipe.png", "train/ant/socket.png"),
        "link to a folder or file that is read already": (
            "train/ant/back/", "train/ant/linked again/", "train/ant/same.png",
        ),
    }  # fmt: skip
    assert data.origin.files["train"] == ("train/ant/00.png", "train/ant/linked/1.png", "train/bee/00.png")
    assert data.origin.path == str(root) and data.origin.shapes == ((4, 4), (4, 4))


def test_nothing_is_passed_over_in_a_clean_tree(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        classes(tmp_path / split)
    assert load(tmp_path).origin.skipped == {}
    assert not any("skipped" in line for line in summarize(load(tmp_path)).lines)


def test_what_is_beside_a_split_folder_that_is_deeper_is_named(tmp_path: Path) -> None:
    for folder in ("cases/A", "cases/B", "cases/C", "dev", "held", "more"):
        classes(tmp_path / folder)
    data = load(tmp_path, train="cases/A", val="dev", test="held")
    assert data.origin.skipped == {"outside of the class folders": ("cases/B/", "cases/C/", "more/")}
    assert "skipped: 3 folders, outside of the class folders: cases/B/, cases/C/, more/" in summarize(data).lines
    (tmp_path / "note.txt").touch()
    data = load(tmp_path, train="cases/A", val="dev", test="held")
    (line,) = (line for line in summarize(data).lines if "skipped" in line)
    assert line.startswith("skipped: 1 file and 3 folders, outside of the class folders: cases/B/, ")


def test_folders_may_be_links_to_elsewhere(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        classes(tmp_path / "own" / split)
    expected = load(tmp_path / "own")
    os.rename(tmp_path / "own" / "val", tmp_path / "elsewhere")
    os.rename(tmp_path / "own" / "train" / "ant", tmp_path / "ants")
    (tmp_path / "own" / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own" / "train" / "ant").symlink_to(tmp_path / "ants")
    data = load(tmp_path / "own")
    assert data.checksum == expected.checksum and data.origin == expected.origin
    (tmp_path / "own" / "val").unlink()
    (tmp_path / "own" / "val").symlink_to("test")
    with pytest.raises(
        UserError, match=r"val/ant has no image \(it has 1 × link to a folder or file that is read already"
    ):
        load(tmp_path / "own")


def test_two_classes_that_are_one_folder(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "own" / "zebra" / f"{i}.png")
    (tmp_path / "own" / "ant").symlink_to("zebra")
    with pytest.raises(
        UserError, match=r"ant has no image \(it has 1 × link to a folder or file that is read already\)"
    ):
        load(tmp_path / "own")


def test_a_class_of_files_that_are_no_images(tmp_path: Path) -> None:
    classes(tmp_path, n=5)
    (tmp_path / "cow").mkdir()
    for i in range(3):
        (tmp_path / "cow" / f"IM{i}").touch()
    with pytest.raises(
        UserError, match=r"cow has no image \(it has 3 × file without a suffix\); expected at least one"
    ):
        load(tmp_path)


def test_what_may_not_be_read_is_called_unreadable(unprivileged: Unprivileged) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other accounts
        root = Path(name)
        root.chmod(0o755)
        classes(root, n=5)
        (root / "ant" / "deeper").mkdir(mode=0)
        with unprivileged():
            data = load(root)
        assert data.origin.skipped == {"folder that may not be read": ("ant/deeper/",)}
        (root / "ant" / "00.png").chmod(0)
        with unprivileged(), pytest.raises(UserError, match=r"00\.png is unreadable \(Permission denied\)"):
            load(root)
        (root / "ant").chmod(0)
        with unprivileged(), pytest.raises(UserError, match=r"ant cannot be read \(Permission denied\)"):
            load(root)
        for read in (
            lambda: load(root / "ant" / "x"),
            lambda: config.from_arguments([f"dataset.path={root / 'ant' / 'x'}"]),
            lambda: config.add_config_dir(root / "ant" / "x"),
        ):
            with unprivileged(), pytest.raises(UserError, match=r"ant/x cannot be read \(Permission denied\)"):
                read()
        (root / "ant").chmod(0o755)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root, latin = os.fsencode(tmp_path / "own"), "caf\u00e9".encode("latin-1")
    for name in (latin, b"tea"):
        os.makedirs(os.path.join(root, name))
        for i in range(5):
            picture(tmp_path / "one.png", 10 * i + 9)
            os.rename(tmp_path / "one.png", os.path.join(root, name, b"%d\xff.png" % i))
    source = Folder(path=str(tmp_path / "own"), size=4)
    data, shared = source.load(), open_dataset(source, tmp_path / "shared")
    assert data.class_names == shared.class_names == (r"caf\xe9", "tea")
    assert all(name.endswith(r"\xff.png") for files in data.origin.files.values() for name in files)
    assert (
        shared.checksum == data.checksum
        and shared.origin == open_dataset(source, tmp_path / "shared").origin == data.origin
    )


def test_images_of_one_colour_are_named(tmp_path: Path) -> None:
    classes(tmp_path, n=10)
    Image.new("RGB", (4, 4), (250, 120, 140)).save(tmp_path / "bee" / "pink.png")
    assert load(tmp_path).origin.warnings == ("1 image has the same value in all pixels: bee/pink.png.",)


def test_images_that_are_left_out_are_counted(tmp_path: Path) -> None:
    classes(tmp_path, n=10)  # 6 of each class are of train
    assert "left out: 8 images of train (dataset.max_per_class)" in summarize(load(tmp_path, max_per_class=2)).lines
    assert not any("left out" in line for line in summarize(load(tmp_path, max_per_class=6)).lines)


def test_images_of_one_value_are_named(tmp_path: Path) -> None:
    classes(tmp_path, n=10)
    for i in range(7):
        Image.new("L", (4, 4), 9).save(tmp_path / "bee" / f"black{i}.png")
    (warning,) = load(tmp_path).origin.warnings
    assert warning.startswith("7 images have the same value in all pixels: bee/black") and warning.endswith(
        "and 2 more."
    )


def test_a_source_without_files_has_the_plain_origin() -> None:
    from ccsi.data import Digits

    assert Digits().load().origin == Origin(channels=1, shapes=((8, 8), (8, 8)))
