"""The summary of a data set against plain loops over its pixels, and the tables of single images."""

import csv
import io
import sys
import time
import tracemalloc
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from ccsi.data import Dataset, Labelled
from ccsi.data.dataset import SPLITS, Origin
from ccsi.data.summary import csv_bytes, find_duplicates, hashes_of, split_rows, summarize

NAMES = ("cat", "dog", "cow")


def dataset(pixels: dict[str, list[int]], labels: dict[str, list[int]] | None = None, **origin: Any) -> Dataset:
    """Images of 2x2 pixels, each of the one level that `pixels` says, of alternating classes if not told otherwise."""
    parts = {}
    for split in SPLITS:
        images = torch.tensor(pixels[split], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
        own = labels[split] if labels else [i % len(NAMES) for i in range(len(images))]
        parts[split] = Labelled(images, torch.tensor(own))
    train, val, test = parts.values()
    return Dataset("pets", NAMES, train, val, test, checksum="", origin=Origin(**origin))


def by_hand(data: Dataset) -> dict[str, int]:
    """Copies within a split, and images of a later split that are in an earlier one."""
    content = {split: [image.numpy().tobytes() for image in getattr(data, split).images] for split in SPLITS}
    within = {split: sum(image in own[:i] for i, image in enumerate(own)) for split, own in content.items()}
    pairs = combinations(SPLITS, 2)
    return within | {f"{b} in {a}": sum(image in content[a] for image in content[b]) for a, b in pairs}


@pytest.mark.parametrize("seed", range(5))
def test_duplicates_against_a_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    data = dataset({split: draw.integers(0, 40, draw.integers(3, 30)).tolist() for split in SPLITS})
    found = find_duplicates(data)
    assert dict(found.counts) == by_hand(data) and sum(found.counts.values()) > 0
    for key, examples in found.examples.items():
        assert len(examples) == min(3, found.counts[key])
        for example in examples:
            pair = [part.rstrip("]").split("[") for part in example.split(" = ")]
            first, second = (getattr(data, split).images[int(index)] for split, index in pair)
            assert torch.equal(first, second)


def test_one_pixel_of_difference_is_no_duplicate() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert len(set(hashes_of(images).tolist())) == 1
    images[1, 2, 7, 7] = 1
    assert len(set(hashes_of(images).tolist())) == 2
    assert hashes_of(images.flip(0)).tolist() == hashes_of(images).tolist()[::-1]  # strides do not matter


def test_a_test_set_that_is_the_training_set_is_a_warning() -> None:
    levels = list(range(9))
    data = dataset({"train": levels, "val": [100, 101, 102], "test": levels})
    (warning,) = summarize(data).warnings
    assert warning == (
        "9 of 9 images of test are also in train, pixel by pixel: train[0] = test[0], train[1] = test[1], "
        "train[2] = test[2], …."
    )
    assert summarize(data).record["duplicates"]["test in train"] == 9


def test_copies_with_another_class_are_counted_apart() -> None:
    labels = {"train": [0, 1, 2, 0], "val": [0, 1, 2], "test": [1, 0, 2]}
    data = dataset({"train": [1, 2, 3, 2], "val": [1, 5, 6], "test": [7, 1, 8]}, labels)
    summary = summarize(data)
    (within,) = (line for line in summary.lines if line.startswith("duplicates"))
    assert (
        within
        == "duplicates: 1 image of train repeat an earlier one, 1 of them with another class: train[1] = train[3]"
    )
    assert [text.partition(", pixel")[0] for text in summary.warnings] == [
        "1 of 3 images of val are also in train",
        "1 of 3 images of test are also in train",
        "1 of 3 images of test are also in val",
    ]
    assert not any("another class" in text for text in summary.warnings)


def test_what_the_origin_says_is_shown_and_names_are_escaped() -> None:
    files = {"train": ("cat/\udcff.png", "dog/1\n.png", "cow/1.png"), "val": ("a", "b", "c"), "test": ("d", "e", "f")}
    skipped = {"unknown type": ("a.xyz", "b\x1b[31m.xyz", "c.xyz", "d.xyz"), "no suffix": ("README",)}
    data = dataset(
        {"train": [1, 2, 3], "val": [4, 5, 6], "test": [1, 2, 7]},
        path="/data/pets",
        files=files,
        shapes=((24, 30), (640, 480)),
        depth="16 bit, 0 to 4095 scaled to 0 to 255",
        skipped=skipped,
        warnings=("cat/\udcff.png is constant.",),
    )
    summary = summarize(data)
    text = "\n".join(summary.all_lines())
    assert text.isprintable() is False and text.replace("\n", "").isprintable()
    assert summary.lines[:2] == (
        "data: pets from /data/pets: 9 images of 3 classes, train 3, val 3, test 3",
        "input: 1 x 2 x 2 (grey), stored as 24x30 to 640x480 pixels (height x width); "
        "16 bit, 0 to 4095 scaled to 0 to 255",
    )
    assert r"skipped: 4 files, unknown type: a.xyz, b\x1b[31m.xyz, c.xyz, …" in summary.lines
    assert "skipped: 1 file, no suffix: README" in summary.lines
    assert summary.warnings[0] == r"cat/\xff.png is constant."
    assert (
        r"2 of 3 images of test are also in train, pixel by pixel: cat/\xff.png = d, dog/1\n.png = e."
        in summary.warnings
    )
    assert summary.record["skipped"] == {"unknown type": 4, "no suffix": 1}


def test_nothing_known_of_the_origin() -> None:
    summary = summarize(dataset({"train": [1, 2, 3], "val": [4, 5, 6], "test": [7, 8, 9]}))
    assert summary.lines == (
        "data: pets: 9 images of 3 classes, train 3, val 3, test 3",
        "input: 1 x 2 x 2 (grey); 8 bit",
        "class  train  val  test",
        "cat        1    1     1",
        "dog        1    1     1",
        "cow        1    1     1",
        "duplicates: none",
    )
    assert summary.warnings == ()


def test_many_classes_are_condensed() -> None:
    data = dataset({split: list(range(99)) for split in SPLITS})
    labels = torch.tensor([0] * 5 + [c for c in range(1, 48) for _ in range(2)])
    parts = {split: Labelled(getattr(data, split).images, labels) for split in SPLITS}
    data = replace(data, class_names=tuple(f"class {c}" for c in range(48)), **parts)
    lines = [line for line in summarize(data).lines if line.startswith("images of a class")]
    assert len(lines) == 3
    assert lines[0] == "images of a class in train: 2 to 5, median 2; fewest: class 1 2, class 2 2, class 3 2"


def test_the_table_is_aligned_whatever_the_names_and_counts() -> None:
    data = dataset({"train": [0] * 3000, "val": [1] * 6, "test": [2] * 6})
    data = replace(data, class_names=("x" * 100, "dog\n", "c"))
    table = [line for line in summarize(data).lines if line.startswith(("class", "x", "dog", "c "))]
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    assert table[1].split() == ["x" * 39 + "…", "1,000", "2", "2"] and table[2].startswith(r"dog\n ")


def test_split_csv_is_read_back() -> None:
    files = {"train": ('cat/a "b", c.png', "dog/\udcff\n.png", "cow/ü.png"), "val": ("1", "2", "3"), "test": ()}
    data = dataset({"train": [1, 2, 3], "val": [4, 5, 6], "test": [7, 8, 9]}, files=files)
    rows = list(csv.DictReader(io.StringIO(csv_bytes(split_rows(data)).decode(), newline="")))
    assert [row["file"] for row in rows[:3]] == ['cat/a "b", c.png', "dog/\\udcff\n.png", "cow/ü.png"]
    assert rows[1] == {
        "split": "train",
        "index": "1",
        "file": "dog/\\udcff\n.png",
        "label": "1",
        "class": "dog",
        "group": "",
    }
    assert rows[-1] == {"split": "test", "index": "2", "file": "", "label": "2", "class": "cow", "group": ""}
    assert len(rows) == 9


@pytest.mark.slow
def test_200_000_images_take_seconds_and_no_memory() -> None:
    images = torch.arange(200_000)[:, None].expand(-1, 3072).to(torch.uint8).view(-1, 3, 32, 32)
    tracemalloc.start()
    began = time.process_time()
    hashes_of(images)
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 6 and peak < 20e6, (seconds, peak, sys.version)
