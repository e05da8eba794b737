"""The table of a sweep that compares, against figures made up and worked out by hand."""

import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from ccsi.sweep.book import Book
from ccsi.sweep.comparison import cells, comparison, write_comparison
from ccsi.sweep.definition import compose, placed
from ccsi.sweep.tables import pictures, write_leaderboard, write_trials

SPACE = "{joint: null, ccsi: {learner.w_idc: {grid: [0.0, 1.0]}}, icarl: null, lwf: null, ewc: null}"
SETTINGS = ["joint", "ccsi", "ccsi", "icarl", "lwf", "ewc"]
VAL = [0.99, 0.5, 0.8, 0.9, 0.3, 0.2]
TEST = {"joint": [0.98, 0.96], "ccsi": [0.75, 0.7], "icarl": [0.8, 0.82], "lwf": [0.3, 0.35], "ewc": [0.9, 0.9]}


def finish(folder: Path, name: str, val: float, test: float | None) -> None:
    """Write a finished run of two tasks whose final accuracies are `test`."""
    matrix = None if test is None else [[0.9 if name == "joint" else 0.95], [test, test]]
    names = ("average_incremental_accuracy", "final_accuracy_macro", "final_accuracy_micro", "auc")
    figures = dict.fromkeys(names, test) | {"forgetting": 0.25, "accuracy_matrix": matrix}
    kept = [{"kind": "exemplars", "count": 40, "bytes": 31360}] if name == "icarl" else []
    result = figures | {
        "accuracy_after_task": None if test is None else [0.9, test],
        "val": dict.fromkeys(names, val) | {"forgetting": 0.0},
        "learner": name,
        "kind": {"joint": "bound", "icarl": "exemplars", "ccsi": "inversion"}.get(name, "regularisation"),
        "permissions": ["all_tasks"] if name == "joint" else [],
        "data_free": name not in ("joint", "icarl"),
        "protocol": "…",
        "stored": [*kept, {"kind": "moments", "count": 2, "bytes": 640}],
        "scenario": {"classes_per_task": [2, 2]},
        "seconds": {"training": 10.0, "total": 20.0},
        "peak_memory_bytes": {"training": 2 * 10**9, "evaluation": 10**9},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """c01 and c02 are CCSI's, c02 the better; ewc lacks a seed."""
    folder = tmp_path / "s"
    space = f"sweep.space={{learner: {{each: {SPACE}}}}}"
    overrides = [space, "sweep.search=grid", "sweep.seeds.reporting=[0,1]", "sweep.top_k=1", "sweep.metric=val_macro"]
    for n in (1, 2):
        finish(folder / f"runs/p1-c0{n}-s100", "ccsi", VAL[n], None)
    for n in (0, 2, 3, 4, 5):
        for seed in (0, 1):
            if (n, seed) != (5, 1):
                finish(folder / f"runs/p2-c0{n}-s{seed}", SETTINGS[n], VAL[n], TEST[SETTINGS[n]][seed])
    return Book(placed(compose(overrides), folder), Console(quiet=True))


def test_one_row_each_by_kind_and_val(book: Book) -> None:
    rows = {row["learner"]: row for row in comparison(book)}
    assert list(rows) == ["joint", "ccsi", "icarl", "lwf", "ewc"]
    assert [row["setting"] for row in rows.values()] == ["c00", "c02", "c03", "c04", "c05"]
    assert [row["status"] for row in rows.values()] == ["done"] * 4 + ["incomplete"]
    ccsi = rows["ccsi"]
    assert ccsi["final_accuracy_macro_mean"] == pytest.approx(0.725)
    assert (ccsi["final_accuracy_macro_low"], ccsi["final_accuracy_macro_high"]) == (0.7, 0.75)  # two seeds
    assert (ccsi["exemplars"], ccsi["stored_bytes"], rows["icarl"]["exemplars"]) == (0, 640, 40)
    assert (ccsi["seconds"], ccsi["peak_memory_bytes"], ccsi["n"]) == (20.0, 2 * 10**9, 2)
    assert ccsi["forward_transfer_mean"] == pytest.approx(statistics.fmean([0.75 - 0.98, 0.7 - 0.96]))
    assert rows["joint"]["forward_transfer_mean"] == 0
    assert "final_accuracy_macro_mean" not in rows["ewc"]


def test_the_best_is_the_best_on_val_that_keeps_to_its_tasks_data(book: Book) -> None:
    rows = {row["learner"]: row for row in comparison(book)}
    assert rows["icarl"]["p_best"] is None and rows["ccsi"]["p_best_data_free"] is None
    raw = {name: stats.ttest_rel(TEST[name], TEST["icarl"]).pvalue for name in ("joint", "ccsi", "lwf")}
    expected = stats.false_discovery_control(list(raw.values()), method="by")
    assert [rows[name]["p_best"] for name in raw] == pytest.approx(expected.tolist())
    assert "p_best" not in rows["ewc"] or rows["ewc"]["p_best"] is None


def test_files_and_picture(book: Book) -> None:
    write_trials(book)
    write_leaderboard(book, Console(quiet=True))
    write_comparison(book, Console(quiet=True))
    folder = book.definition.folder
    table = pd.read_csv(folder / "comparison.csv", index_col="learner")
    assert table.loc["icarl", "final_accuracy_macro_mean"] == pytest.approx(0.81)
    text = (folder / "comparison.md").read_text()
    assert "| icarl | exemplars | 40 images | 32.0 kB | 81.0 [80.0, 82.0] |" in text
    assert "| joint | bound | all tasks |" in text and "| ewc |  | incomplete |" in text
    assert "tuning: at most 2 settings each" in text and "seeds [100]" in text
    tex = (folder / "comparison.tex").read_text()
    assert tex.startswith("% tuning") and "81.0 [80.0, 82.0]" in tex and tex.count("\\\\") == 6
    assert {path.stem for path in (folder / "best").iterdir()} == {"joint", "ccsi", "icarl", "lwf"}
    assert pictures(book) == ""
    assert {path.name for path in (folder / "plots").iterdir()} == {"comparison.png", "comparison.pdf"}
    trials = pd.read_csv(folder / "trials.csv").set_index("trial")
    assert trials.loc["p2-c02-s0", "config/learner.w_idc"] == 1.0 and pd.isna(
        trials.loc["p2-c03-s0", "config/learner.w_idc"]
    )
    assert "1 of 2, incomplete" in (folder / "leaderboard.md").read_text()


def test_a_row_in_words(book: Book) -> None:
    rows = {row["learner"]: row for row in comparison(book)}
    said = cells(rows["icarl"], "learner")
    assert (said["p"], said["p, data-free"] != "best", said["seconds"], said["peak memory"]) == (
        "best",
        True,
        "20",
        "2.0 GB",
    )
    assert cells(rows["ewc"], "learner") == {"learner": "ewc", "kind": "", "kept": "incomplete"}


def test_one_seed_has_no_interval_and_no_significance(book: Book, tmp_path: Path) -> None:
    definition = book.definition
    alone: Any = compose([*definition.overrides, "sweep.seeds.reporting=[0]"])
    rows = comparison(Book(placed(alone, definition.folder), Console(quiet=True)))
    assert cells(rows[0], "learner")["macro"] == "98.0" and cells(rows[0], "learner")["p"] == "-"
