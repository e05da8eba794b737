"""What is written of single images: where each went, and what it was called."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import ANY_LEARNER, run_tiny

import ccsi.config
from ccsi.tracking import RunStart


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_predictions_are_those_of_the_confusion_matrix(tmp_path: Path) -> None:
    figures = run_tiny(tmp_path / "run", "learner=finetune", "scenario.class_order=[3,1,4,0,5,9,2,6,8,7]")
    order, rows = figures["scenario"]["class_order"], rows_of(tmp_path / "run/predictions.csv")
    split = {(row["split"], row["index"]): row for row in rows_of(tmp_path / "run/split.csv")}
    for name in ("val", "test"):
        own = [row for row in rows if row["split"] == name]
        assert sorted(int(row["index"]) for row in own) == list(range(figures["dataset"][name]))
        assert [row["index"] for row in own] == [index for part, index in split if part == name]
        counts = np.zeros((10, 10), int)
        for row in own:
            counts[order.index(int(row["label"])), order.index(int(row["predicted_label"]))] += 1
            assert (row["class"], row["predicted_class"]) == (row["label"], row["predicted_label"])  # digits' names
            assert 0.1 <= float(row["softmax"]) <= 1 and row["label"] == split[name, row["index"]]["label"]
        assert counts.tolist() == figures[name]["confusion"][-1]
    assert len(rows) == figures["dataset"]["val"] + figures["dataset"]["test"]
    assert len(split) == len(rows) + figures["dataset"]["train"]


def test_no_test_image_is_named_that_was_not_read(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", "learner=finetune", "evaluate_test=false")
    assert {row["split"] for row in rows_of(tmp_path / "run/predictions.csv")} == {"val"}


def test_the_summary_is_shown_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunStart] = []
    monkeypatch.setattr("ccsi.tracking.Console.start", lambda self, run: started.append(run))
    figures = run_tiny(tmp_path / "run", "learner=finetune")
    (start,) = started
    assert (tmp_path / "run/summary.txt").read_text().splitlines() == [*start.summary]
    assert start.summary[0].startswith("data: digits: ") and start.warnings == ()
    assert start.summary[-1].startswith("memory: images 52.4 kB (a task's copy: 11.8 kB more), model ")
    run_tiny(tmp_path / "joint", "learner=joint")
    assert started[1].summary[-1].startswith("memory: images 52.4 kB (a task's copy: 29.4 kB more), model ")
    assert figures["dataset"]["shape"] == [1, 8, 8] and set(figures["dataset"]["duplicates"].values()) == {0}


def test_a_trial_of_a_sweep_writes_only_what_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RunStart] = []
    monkeypatch.setattr("ccsi.tracking.Console.start", lambda self, run: started.append(run))
    tree = ccsi.config.load([*ANY_LEARNER, "learner=finetune", f"run_dir={tmp_path / 'run'}"])
    ccsi.config.build(tree)(describe=False)
    assert started[0].summary == started[0].warnings == ()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "predictions.csv" in names and not {"split.csv", "summary.txt"} & names


def test_a_name_that_is_no_utf8_does_not_end_a_run(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in (b"a\xff", b"$5_$10", b"c,d"):
        folder = tmp_path / "images" / os.fsdecode(name)
        folder.mkdir(parents=True)
        for number in range(10):
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number}.png")
    changes: list[Any] = ["dataset=folder", f"dataset.path={tmp_path / 'images'}", "learner=finetune"]
    base = [one for one in ANY_LEARNER if not one.startswith(("dataset", "scenario"))]
    run_tiny(tmp_path / "run", base=[*base, *changes, "dataset.size=8", "scenario.classes_per_task=3"])
    names = {row["class"] for row in rows_of(tmp_path / "run/split.csv")}
    assert names == {r"a\xff", "$5_$10", "c,d"}
    assert "a\\xff" in (tmp_path / "run/summary.txt").read_text()
