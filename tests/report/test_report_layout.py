"""Every picture can be read, whatever the names and however many tasks and classes."""

import json
import tracemalloc
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import make_run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from readable import drawn_texts, overlap, unreadable
from test_report_sweep import write_runs

from ccsi.data.medmnist import info
from ccsi.report import draw_confusion, draw_impressions, draw_run, draw_sweep
from ccsi.report.style import figure, thinned

TASKS = (1, 2, 5, 11, 30, 100)
NAMES = {
    "short": ["a", "b", "c"],
    "pathmnist": list(info()["pathmnist"]["label"].values()),
    "tissuemnist": list(info()["tissuemnist"]["label"].values()),
    "wide": ["W" * 40, "M" * 18, "WMWMWM WMWMWM"],
    "mathtext": ["$5_$10", r"\frac{1}{0}", "a\nb", "caf\udce9", "细胞"],
}


def cases(few: set[tuple[Any, ...]], *values: Iterable[Any]) -> list[Any]:
    """All combinations of values; all but a few of them are slow tests."""
    return [pytest.param(*case, marks=() if case in few else pytest.mark.slow) for case in product(*values)]


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What is unreadable in each picture that is drawn; nothing is written."""
    found: dict[str, list[str]] = {}

    def look(fig: Figure, path: Path, **options: Any) -> None:
        if path.suffix == ".png":
            found[path.name] = unreadable(fig)

    monkeypatch.setattr(Figure, "savefig", look)
    return found


def class_names(kind: str, count: int) -> list[str]:
    own = NAMES[kind]
    return [own[n % len(own)] if n < len(own) else f"{n} {own[n % len(own)]}" for n in range(count)]


def result(names: list[str], tasks: int) -> dict[str, Any]:
    sizes = [len(part) for part in np.array_split(np.arange(len(names)), tasks)]
    matrix = [[1.0] * (i + 1) for i in range(tasks)]  # 100.0 is the widest
    confusion = [(10 * np.eye(len(names), dtype=int)).tolist()]
    own = {"accuracy_matrix": matrix, "confusion": confusion, "accuracy_after_task": [1.0] * tasks}
    return {"dataset": {"class_names": names}, "scenario": {"classes_per_task": sizes}, "test": own, "val": own}


RUNS = {("short", 1), ("wide", 1), ("pathmnist", 2), ("tissuemnist", 5), ("mathtext", 11), ("wide", 30), ("short", 100)}


@pytest.mark.parametrize(("kind", "tasks"), cases(RUNS, NAMES, TASKS))
def test_a_runs_pictures(tmp_path: Path, problems: dict[str, list[str]], kind: str, tasks: int) -> None:
    per_task = 2 if tasks > 1 else 1
    draw_run(tmp_path, result(class_names(kind, per_task * tasks), tasks))
    assert problems == {"accuracy_matrix.png": [], "accuracy_over_tasks.png": [], "confusion.png": []}


@pytest.mark.parametrize(
    ("kind", "classes", "per_class"),
    cases({("short", 1, 1), ("wide", 9, 12), ("mathtext", 60, 1)}, NAMES, [1, 9, 60], [1, 12]),
)
def test_impressions(tmp_path: Path, problems: dict[str, list[str]], kind: str, classes: int, per_class: int) -> None:
    labels = np.repeat(np.arange(classes), per_class)
    images, means = np.zeros((len(labels), 1, 8, 8), np.uint8), np.zeros((classes, 1, 8, 8))
    draw_impressions(tmp_path / "impressions.png", images, labels, class_names(kind, classes), means)
    assert problems == {"impressions.png": []}


def test_of_many_classes_some_are_shown_and_the_picture_says_so(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    labels = np.arange(60)
    draw_impressions(tmp_path / "impressions.png", np.zeros((60, 1, 2, 2), np.uint8), labels, class_names("short", 60))
    (fig,) = drawn.values()
    assert [text.get_text() for text in fig.texts] == ["30 of 60 classes"]


VALUES: dict[str, list[Any]] = {
    "names": [f"learner_with_a_name_{n}" for n in range(22)],
    "wide": ["W" * 30, "M" * 30, "$a_$b", "caf\udce9"],
    "lists": [[0.1, 0.2], [0.30001, 0.4], None, True],
    "rates": [10.0**-n for n in range(7)],
    "half decades": [0.0003, 0.001, 0.003, 0.01, 0.03],
    "close": [0.100001, 0.100002, 0.100003],
    "large": [1_000_000, 2_000_000, 3_500_000],
}


def sweep(folder: Path, tasks: int, columns: dict[str, list[Any]], seeds: int = 2) -> Path:
    """A finished sweep: a row of every column's values in turn, and phase 2 of all trials."""
    most = max(map(len, columns.values()))
    rows = []
    for n in range(most):
        config = {f"config/{key}": values[n % len(values)] for key, values in columns.items()}
        for seed in range(seeds):
            row = {"phase": 1, "trial": f"c{n:02d}", "seed": seed, "status": "done", "tasks_done": tasks}
            row |= {"val_average_incremental": n / most, "seconds": 1000.0 + n, "run_dir": f"runs/{n}-{seed}"}
            rows += [row | config, row | {"phase": 2} | config]
            own = {"accuracy_matrix": [[1.0]], "accuracy_after_task": [0.5 + n / most / 2] * tasks}
            made = {"test": own, "val": own | {"average_incremental": n / most}}
            (folder / f"runs/{n}-{seed}").mkdir(parents=True, exist_ok=True)
            (folder / f"runs/{n}-{seed}/result.json").write_text(json.dumps(made))
    rows = [{k: str(v).encode("utf-8", "backslashreplace").decode() for k, v in row.items()} for row in rows]
    write_runs(folder, rows)
    write_runs(folder, [row for row in rows if (row["phase"], row["seed"]) == ("2", "0")], name="leaderboard.csv")
    return folder


@pytest.mark.parametrize(("kind", "tasks"), cases({("names", 100), ("wide", 1), ("close", 11)}, VALUES, TASKS))
def test_a_sweeps_pictures(tmp_path: Path, problems: dict[str, list[str]], kind: str, tasks: int) -> None:
    draw_sweep(sweep(tmp_path, tasks, {"learner.synthesis.a_key_with_a_long_name": VALUES[kind]}), minimize="seconds")
    assert problems == {"swept_keys.png": [], "front.png": [], "top_trials.png": []}


def test_many_swept_keys(tmp_path: Path, problems: dict[str, list[str]]) -> None:
    columns = {f"learner.{kind.replace(' ', '_')}": values for kind, values in VALUES.items()}
    draw_sweep(sweep(tmp_path, 5, columns), minimize="seconds")
    assert problems == {"swept_keys.png": [], "front.png": [], "top_trials.png": []}


KINDS = {"one": ["one"], "bound": ["bound"], "two": ["one", "bound"], "many": ["a", "b", "W" * 40, "$x_$y", "bound"]}
COMPARISONS = {("one", 1, "wide"), ("bound", 11, "short"), ("two", 30, "mathtext"), ("many", 100, "wide")}


@pytest.mark.parametrize(("kind", "tasks", "names"), cases(COMPARISONS, KINDS, TASKS, ["short", "wide", "mathtext"]))
def test_a_comparison(tmp_path: Path, problems: dict[str, list[str]], kind: str, tasks: int, names: str) -> None:
    compared, kinds = class_names(names, 22), KINDS[kind]
    sweep(tmp_path, tasks, {"learner": compared}, seeds=1)
    rows = [
        {"learner": name.encode("utf-8", "backslashreplace").decode(), "status": "done", "kind": kinds[n % len(kinds)]}
        | {"trial": f"c{n:02d}"}
        for n, name in enumerate(compared)
    ]
    (tmp_path / "runs.csv").rename(tmp_path / "kept")
    write_runs(tmp_path, rows)
    (tmp_path / "runs.csv").rename(tmp_path / "comparison.csv")
    (tmp_path / "kept").rename(tmp_path / "runs.csv")
    draw_sweep(tmp_path, compare="learner")
    assert problems == {"comparison.png": []}


@given(st.integers(1, 2000), st.integers(1, 100))
def test_the_last_of_many_ticks_is_always_there(n: int, most: int) -> None:
    kept = thinned(n, most)
    assert kept[-1] == n - 1 and len(kept) <= most and set(kept) <= set(range(n))
    assert len(set(np.diff(kept))) <= 1 and len(kept) >= min(n, most) / 2


def test_the_last_task_is_marked(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw_run(tmp_path, result(class_names("short", 11), 11))
    for name in ("accuracy_matrix.png", "accuracy_over_tasks.png"):
        assert drawn[name].axes[0].get_xticklabels()[-1].get_text() == "11"


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=4, max_size=4), kind=st.text(max_size=8))
@example(names=["$5_$10", "$$", "$\\frac", "\udcff\udce9"], kind="$")
def test_any_name_is_drawn(tmp_path: Path, names: list[str], kind: str) -> None:
    figures = {**result(["x"] * 4, 2), "dataset": {"class_names": names}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda fig, path, **_: fig.draw_without_rendering())
        draw_run(tmp_path, figures)
        from ccsi.report.sweep import Curve, _draw_comparison, _draw_top_trials

        curves = [Curve(name, np.ones((2, 2)), kind) for name in names]
        _draw_comparison(tmp_path / "comparison.png", curves)
        _draw_top_trials(tmp_path / "top_trials.png", curves)


def test_what_counts_as_readable(tmp_path: Path) -> None:
    with figure(tmp_path / "a.png", 2, 2) as fig:
        fig.set_layout_engine("none")
        fig.text(0.5, 0.5, "over")
        fig.text(0.5, 0.5, "each other")
        fig.text(0.95, 0.1, "too far right")
        fig.text(0.1, 0.1, "turned by much", rotation=45)
        fig.text(0.1, 0.35, "up")  # in the corner of the turned one's upright box
        assert [text for text, _ in drawn_texts(fig)] == ["over", "each other", "too far right", "turned by much", "up"]
        assert unreadable(fig) == ["'too far right' is cut", "'over' and 'each other' overlap"]
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert overlap(square, square + 0.5) and not overlap(square, square + 2)


def test_a_run_is_drawn_as_it_was(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Names of the tasks' classes stand beside the rows."""
    draw_run(make_run(tmp_path / "run"))
    labels = [label.get_text() for label in drawn["accuracy_matrix.png"].axes[0].get_yticklabels()]
    assert labels == ["after task 1\nbasophil\neosinophil", "after task 2\nerythroblast\nplatelet"]


def test_the_artists_of_a_matrix_do_not_grow_with_its_cells(
    tmp_path: Path, drawn: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    draw_confusion(tmp_path / "confusion.png", np.eye(1000, dtype=int), [f"class {n}" for n in range(1000)], "test")
    (fig,) = drawn.values()
    assert max(fig.get_size_inches()) < 12
    assert 50 < len(fig.findobj(Text)) < 500


@pytest.mark.slow
def test_the_confusion_of_a_thousand_classes_takes_little_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    draw_confusion(tmp_path / "confusion.png", np.eye(1000, dtype=int), [f"class {n}" for n in range(1000)], "test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20  # 9.6 GB before it was an image
    assert (tmp_path / "confusion.pdf").stat().st_size < 2**20
