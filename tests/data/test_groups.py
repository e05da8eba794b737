"""Groups (patients) stay within one split; tables and arrays of groups are checked."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccsi.data import Dataset, Folder, Npz
from ccsi.data.groups import split_by_groups
from ccsi.data.summary import split_rows, summarize
from ccsi.errors import UserError


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """ant and bee with 30 images each, three of each of ten patients; own.csv has the patients."""
    lines = ["file,group"]
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i in range(30):
            image = np.full((2, 2), 100 * label + i, np.uint8)
            Image.fromarray(image).save(tmp_path / "own" / name / f"{i:02}.png")
            lines.append(f"{name}/{i:02}.png,patient {i // 3}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def load(root: Path, **fields: Any) -> Dataset:
    return Folder(path=str(root / "own"), size=2, groups=str(root / "own.csv"), **fields).load()


def groups_in(data: Dataset) -> dict[str, set[int]]:
    return {split: {int(name[4:6]) // 3 for name in names} for split, names in data.origin.files.items()}


def test_a_patient_is_in_one_split_with_the_shares_kept(patients: Path) -> None:
    data = load(patients)
    found = groups_in(data)
    assert sorted(group for groups in found.values() for group in groups) == list(range(10))
    assert [len(found[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    assert [np.bincount(part.labels).tolist() for part in (data.train, data.val, data.test)] == [
        [18, 18],
        [6, 6],
        [6, 6],
    ]
    assert load(patients).checksum == data.checksum != load(patients, split_seed=1).checksum
    names = [name for files in data.origin.files.values() for name in files]
    assert len(names) == len(set(names)) == 60


def test_val_alone_is_taken_from_train_by_groups(patients: Path) -> None:
    for split in ("Train", "Test"):
        (patients / "own" / split).mkdir()
    for name in ("ant", "bee"):
        os.rename(patients / "own" / name, patients / "own" / "Train" / name)
        (patients / "own" / "Test" / name).mkdir()
        for i in (0, 1, 2):
            os.rename(patients / f"own/Train/{name}/{i:02}.png", patients / f"own/Test/{name}/{i:02}.png")
    table = (patients / "own.csv").read_text().splitlines()
    lines = [f"{'Test' if line[4:6] in ('00', '01', '02') else 'Train'}/{line}" for line in table[1:]]
    (patients / "own.csv").write_text("\n".join([table[0], *lines]))
    data = load(patients)
    found = {s: {int(n.rpartition("/")[2][:2]) // 3 for n in names} for s, names in data.origin.files.items()}
    assert found["test"] == {0} and len(found["val"]) == 2 and found["train"] | found["val"] == set(range(1, 10))
    assert not found["train"] & found["val"]


def test_given_splits_that_share_a_patient_are_warned_of(patients: Path) -> None:
    lines = ["group;file"]  # another order, and as a German Excel writes it
    for split, numbers in {"train": range(20), "val": range(20, 25), "test": range(25, 30)}.items():
        for name in ("ant", "bee"):
            (patients / "own" / split / name).mkdir(parents=True)
            for i in numbers:
                os.rename(patients / f"own/{name}/{i:02}.png", patients / f"own/{split}/{name}/{i:02}.png")
                lines.append(f"p{i // 3};{split}/{name}/{i:02}.png")
    for name in ("ant", "bee"):
        (patients / "own" / name).rmdir()
    (patients / "own.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert [warning for warning in load(patients).origin.warnings if "group" in warning] == [
        "1 group is in train (4 of its images) and in val (2): p6.",
        "1 group is in val (2 of its images) and in test (4): p8.",
    ]
    assert "groups: 10, train 7, val 3, test 2" in summarize(load(patients)).lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("file,", "index,"), r"has the columns index, group; expected file and group"),
        (lambda text: text.replace("ant/07.png,patient 2\n", ""), r"no group for 1 image of 60: ant/07\.png; expected"),
        (lambda text: text + "ant/07.png,other\n", r"ant/07\.png has the groups patient 2 and other; expected one"),
        (lambda text: text + "ant/31.png,\n", r"line 62 has no group; expected both"),
        (lambda text: "", r"has the columns \(none\)"),
        (lambda text: text.replace("patient 1", "patient 0"), None),
        (lambda text: "\n".join(line.split(",")[0] + ",one" * (n > 0) + ",group" * (n == 0)
                                for n, line in enumerate(text.splitlines())),
         r"class ant has images of 1 group only; expected at least 3, one for each split"),
    ],
)  # fmt: skip
def test_tables_are_checked(patients: Path, change: Any, message: str | None) -> None:
    table = patients / "own.csv"
    table.write_text(change(table.read_text()))
    if message is None:
        load(patients)
        return
    with pytest.raises(UserError, match=r"dataset\.groups.*" + message) as caught:
        load(patients)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("file,group", "File, GROUP"),
        lambda text: text + ",\n , \n,,\n\n",
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("ant/", "./ant/").replace("/", "\\"),
    ],
    ids=["tabs", "case", "empty rows", "backslashes", "dot"],
)
def test_tables_as_spreadsheets_write_them(patients: Path, change: Any) -> None:
    expected, table = load(patients), patients / "own.csv"
    table.write_text(change(table.read_text()))
    assert load(patients).origin == expected.origin


def test_accents_that_are_composed_otherwise(patients: Path) -> None:
    os.rename(patients / "own" / "ant", patients / "own" / unicodedata.normalize("NFD", "\u00e4nt"))
    table = patients / "own.csv"
    table.write_text(table.read_text().replace("ant/", "\u00e4nt/"))
    assert not any("group" in warning for warning in load(patients).origin.warnings)


def test_two_spellings_of_a_path_have_one_group(patients: Path) -> None:
    table = patients / "own.csv"
    text = table.read_text().replace("ant/00.png", "ant\\00.png")
    table.write_text(f"{text}./ant/00.png,other\n")
    with pytest.raises(UserError, match=r"no group for 1 image of 60: ant/00\.png; expected"):
        load(patients)


def test_paths_of_another_folder_are_shown(patients: Path) -> None:
    table = patients / "own.csv"
    table.write_text(table.read_text().replace("ant/", "/data/own/ant/"))
    with pytest.raises(UserError, match=r"no group for 30 images of 60: .* \(the table has, e\.g\., /data/own/ant/00"):
        load(patients)


def test_split_csv_has_the_groups(patients: Path) -> None:
    rows = list(split_rows(load(patients, max_per_class=5)))
    assert rows[0] == ("split", "index", "file", "label", "class", "group") and len(rows) == 1 + 2 * (5 + 6 + 6)
    assert all(group == f"patient {int(str(file)[4:6]) // 3}" for _, _, file, _, _, group in rows[1:])


def test_a_table_that_cannot_be_read(patients: Path) -> None:
    (patients / "own.csv").unlink()
    with pytest.raises(UserError, match=r"own\.csv cannot be read \(No such file"):
        load(patients)
    os.mkfifo(patients / "own.csv")
    with pytest.raises(UserError, match=r"own\.csv cannot be read \(a named pipe"):
        load(patients)


def test_files_of_the_table_that_are_not_there_are_said(patients: Path) -> None:
    with (patients / "own.csv").open("a") as file:
        file.write("ant/99.png,patient 3\n")
    assert (
        "dataset.groups names 1 file that is no image of this data set: ant/99.png." in load(patients).origin.warnings
    )


@given(
    sizes=st.lists(st.integers(1, 6), min_size=12, max_size=18),
    shares=st.sampled_from([(0.2, 0.2), (0.1, 0.15), (0.3, 0.3), (0.25,)]),
    seed=st.integers(0, 2**40),
)
def test_no_group_is_ever_divided(sizes: list[int], shares: tuple[float, ...], seed: int) -> None:
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    labels = np.repeat(np.arange(len(sizes)) % 2, sizes)
    part = split_by_groups(labels, groups, shares, seed, ["ant", "bee"])
    assert all(len(set(part[groups == group])) == 1 for group in set(groups))
    assert {(p, label) for p, label in zip(part, labels, strict=True)} == {
        (p, label) for p in range(1 + len(shares)) for label in (0, 1)
    }
    if seed % 5 == 0:
        assert np.array_equal(part, split_by_groups(labels, groups, shares, seed, ["ant", "bee"]))


def archive(path: Path, **more: Any) -> Path:
    arrays: dict[str, Any] = {}
    for split, n in {"train": 6, "val": 4, "test": 2}.items():
        arrays[f"{split}_images"] = np.random.default_rng(n).integers(0, 256, (n, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 2
    np.savez(path, **arrays, **more)
    return path


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_an_npz_may_carry_groups(tmp_path: Path, kind: str) -> None:
    groups = {"train_groups": [1, 1, 2, 2, 3, 3], "val_groups": [[4], [4], [3], [3]], "test_groups": [5, 6]}
    arrays = {key: np.array(own) if kind == "numbers" else np.array(own).astype("U8") for key, own in groups.items()}
    path = archive(tmp_path / "a.npz", **arrays)
    data = Npz(name="own", path=str(path), size=4).load()
    assert data.origin.warnings == ("1 group is in train (2 of its images) and in val (2): 3.",)
    assert [str(row[-1]) for row in split_rows(data)] == ["group", *"112233", *"4433", *"56"]
    archive(path, train_groups=np.arange(5))
    with pytest.raises(UserError, match="train_groups has 5 groups for 6 images; expected as many"):
        Npz(name="own", path=str(path), size=4).load()


def test_groups_of_an_npz_by_index(tmp_path: Path) -> None:
    path, table = archive(tmp_path / "a.npz"), tmp_path / "a.csv"
    source = Npz(name="own", path=str(path), size=4, groups=str(table))
    names = ["a", "a", "b", "b", "c", "c", "d", "d", "d", "d", "a", "e"]
    table.write_text("index,group\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    before = source.stamp()
    data = source.load()
    assert data.origin.warnings == ("1 group is in train (2 of its images) and in test (1): a.",)
    assert [row[-1] for row in split_rows(data)] == ["group", *names]
    table.write_text("index,group\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names[:-1])))
    with pytest.raises(UserError, match=r"a\.csv has no group for 1 image of 12: 11; expected one for each"):
        source.load()
    assert source.stamp() != before
    table.write_text("index,group\n12,a\n")
    with pytest.raises(UserError, match=r"12 is not the index of an image; expected 0 to 11"):
        source.load()
