"""A sweep's pictures, from runs.csv and the runs' result.json."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import figures, make_run
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy import stats

from ccsi.errors import UserError
from ccsi.report import draw_sweep
from ccsi.report.sweep import key_label
from ccsi.report.swept_key import axis_kind, number

KEYS = ["config/learner.lambda_distillation", "config/training.lr", "config/learner.synthesis.init"]
TRIALS: dict[str, list[Any]] = {"a": [5.0, 0.1, "mean"], "b": [0.0, 0.001, "noise"], "c": [5.0, 0.01, "noise"]}
BROKEN: dict[str, list[Any]] = {"p": [7.0, 0.02, "mean"], "f": [8.0, 0.03, "mean"]}
LEVEL = {"a": 0.6, "b": 0.5, "c": 0.3}


def searched(trial: str, seed: int, score: float | str, tasks_done: int = 2, status: str = "done") -> dict[str, Any]:
    row = {"phase": 1, "trial": trial, "seed": seed, "status": status, "tasks_done": tasks_done}
    values = dict(zip(KEYS, (TRIALS | BROKEN)[trial], strict=True))
    scores = {"val_average_incremental": score, "val_macro_over_tasks": score and 1 - float(score)}
    return {**row, **scores, "run_dir": "", **values}


def reported(folder: Path, trial: str, seed: int, write: bool = True, absolute: bool = False) -> dict[str, Any]:
    """A phase 2 run whose test accuracy after each task is level + seed / 100."""
    run_dir = f"runs/p2-{trial}-{seed}"
    if write:
        level = LEVEL[trial]
        curve = [level + 0.3 + seed / 100, level + seed / 100]
        val = {
            **figures("val"),
            "average_incremental": 1 - level,
            "macro_over_tasks": level,
        }  # val ranks the other way round than test
        make_run(folder / run_dir, impressions=False, test=figures("test") | {"accuracy_after_task": curve}, val=val)
    row = searched(trial, seed, 0.5)
    return {**row, "phase": 2, "run_dir": str(folder / run_dir) if absolute else run_dir}


def write_runs(folder: Path, rows: list[dict[str, Any]], drop: tuple[str, ...] = (), name: str = "runs.csv") -> None:
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, [key for key in rows[0] if key not in drop], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_leaderboard(folder: Path, *trials: str, **status: str) -> None:
    """In the order of `trials`."""
    rows = [
        {"trial": one, "status": status.get(one, "done")} | dict(zip(KEYS, TRIALS[one], strict=True)) for one in trials
    ]
    write_runs(folder, rows, name="leaderboard.csv")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    rows = [searched(s, seed, LEVEL[s] + seed / 100) for s in TRIALS for seed in (0, 2)]
    # one seed of each is done, and no reason to show it beside trials that are done on both
    rows += [searched("p", 0, 0.9), searched("p", 2, 0.99, tasks_done=1, status="pruned")]
    rows += [searched("f", 0, 0.9), searched("f", 2, "", 0, "failed")]
    rows += [reported(folder, s, seed, absolute=s == "b") for s in TRIALS for seed in (5, 6, 7)]
    write_runs(folder, rows)
    write_leaderboard(folder, "c", "b", "a")
    return folder


def test_scores_over_each_swept_key(sweep: Path, drawn: dict[str, Figure]) -> None:
    assert [path.name for path in draw_sweep(sweep)] == ["swept_keys.png", "top_trials.png"]
    fig = drawn["swept_keys.png"]
    weights, rate, init = fig.axes
    assert [ax.get_xlabel() for ax in fig.axes] == [
        "learner: λ distillation",
        "training: learning rate",
        "synthesis: init",
    ]
    assert rate.get_xscale() == "log"
    assert weights.get_xscale() == "linear"
    assert [label.get_text() for label in init.get_xticklabels()] == ["mean", "noise"]

    points = np.asarray(rate.collections[0].get_offsets())
    expected = {(TRIALS[s][1], round(100 * LEVEL[s] + seed, 6)) for s in TRIALS for seed in (0, 2)}
    assert {(float(x), round(float(y), 6)) for x, y in points} == expected  # no seed of p and f
    caption = " ".join(fig.get_suptitle().split())
    assert "6 runs" in caption
    assert "trials not shown: 1 pruned after 3 tasks, 1 not done on every seed" in caption  # 2 + 1 tasks
    assert fig.get_supylabel() == "average incremental, val (%)"
    means = dict(np.asarray(init.lines[0].get_xydata()).tolist())
    assert means == pytest.approx({0: 61, 1: 41})  # mean: a; noise: b and c


def test_curves_of_the_reported_trials(sweep: Path, drawn: dict[str, Figure]) -> None:
    draw_sweep(sweep)
    fig = drawn["top_trials.png"]
    ax = fig.axes[0]
    finals = [float(np.asarray(line.get_ydata())[-1]) for line in ax.lines]
    assert finals == pytest.approx([36, 56, 66])  # as in leaderboard.csv: c, b, a
    label = str(ax.lines[-1].get_label()).replace("\n", " ")
    low, high = stats.t.interval(0.95, 2, 66, 1 / math.sqrt(3))  # as the tables have it
    ends = f"66.0 [{low:.1f}, {high:.1f}]".replace(" ", "\N{NO-BREAK SPACE}")
    assert label == f"λ distillation = 5, learning rate = 0.1, init = mean: {ends}"
    band = np.asarray(ax.collections[-1].get_paths()[0].vertices)
    assert sorted({float(y) for x, y in band if x == 2}) == pytest.approx([low, high])
    assert "test" in ax.get_ylabel()
    assert "mean and 95 % t interval, n = 3 seeds" in fig.legends[0].get_title().get_text()


def test_only_the_trials_of_the_leaderboard_are_drawn(sweep: Path, drawn: dict[str, Figure]) -> None:
    write_leaderboard(sweep, "b", "c")  # a is a former finalist, better than both
    draw_sweep(sweep)
    lines = drawn["top_trials.png"].axes[0].lines
    assert [float(np.asarray(line.get_ydata())[-1]) for line in lines] == pytest.approx([56, 36])
    (sweep / "leaderboard.csv").unlink()  # phase 2 is not finished
    assert [path.name for path in draw_sweep(sweep)] == ["swept_keys.png"]


def test_the_picture_says_how_many_trials_it_leaves_out(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    names, row = [f"c{n:02d}" for n in range(9)], reported(tmp_path, "a", 5)
    write_runs(tmp_path, [row | {"trial": name} for name in names])
    write_runs(tmp_path, [{"trial": name, "status": "done"} for name in names], name="leaderboard.csv")
    draw_sweep(tmp_path)
    assert len(drawn["top_trials.png"].axes[0].lines) == 7
    title = " ".join(drawn["top_trials.png"].legends[0].get_title().get_text().split())
    assert title.endswith("n = 1 seed; 2 more in leaderboard.md")


def test_one_seed_has_no_band(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    write_runs(tmp_path, [reported(tmp_path, trial, 5) for trial in TRIALS])
    write_leaderboard(tmp_path, *TRIALS)
    draw_sweep(tmp_path)
    fig = drawn["top_trials.png"]
    assert len(fig.axes[0].lines) == 3 and not fig.axes[0].collections
    assert fig.legends[0].get_title().get_text() == "final accuracy, micro (%): mean, n = 1 seed"
    assert "[" not in str(fig.axes[0].lines[0].get_label())


def test_the_sweeps_own_metric_is_drawn(sweep: Path, drawn: dict[str, Figure]) -> None:
    draw_sweep(sweep, "macro_over_tasks")
    heights = np.asarray(drawn["swept_keys.png"].axes[0].collections[0].get_offsets())[:, 1]
    assert sorted(heights) == pytest.approx(sorted(100 - 100 * LEVEL[s] - seed for s in TRIALS for seed in (0, 2)))
    assert drawn["swept_keys.png"].get_supylabel() == "macro over tasks, val (%)"


def test_a_table_of_an_earlier_version(sweep: Path, drawn: dict[str, Figure]) -> None:
    text = (sweep / "runs.csv").read_text()
    assert text.count("val_macro_over_tasks") == 1
    (sweep / "runs.csv").write_text(text.replace("val_macro_over_tasks", "val_macro"))
    draw_sweep(sweep, "macro_over_tasks")
    assert len(drawn["swept_keys.png"].axes[0].collections[0].get_offsets()) == 6


def test_the_pareto_front_of_two_aims(sweep: Path, drawn: dict[str, Figure]) -> None:
    with (sweep / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    seconds = {"a": 9.0, "b": 4.0, "c": 5.0}  # c is slower than b and worse
    write_runs(sweep, [row | {"seconds": seconds.get(row["trial"], 1.0) + int(row["seed"])} for row in rows])
    assert "front.png" in [path.name for path in draw_sweep(sweep, minimize="seconds")]
    ax = drawn["front.png"].axes[0]
    points = np.asarray(ax.collections[0].get_offsets()).tolist()
    assert sorted(points) == [
        pytest.approx(p) for p in ([5.0, 51.0], [6.0, 31.0], [10.0, 61.0])
    ]  # means over seeds 0, 2
    assert np.asarray(ax.lines[0].get_xydata()).tolist() == [pytest.approx(p) for p in ([5.0, 51.0], [10.0, 61.0])]
    assert [text.get_text() for text in ax.texts] == ["b", "a"]
    assert ax.get_xlabel() == "seconds of a run"


def test_a_trial_that_lacks_a_seed_is_not_averaged(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    rows = [reported(tmp_path, "a", seed) for seed in (5, 6)]
    rows += [reported(tmp_path, "b", 5), reported(tmp_path, "b", 6, write=False)]  # failed: no result.json
    rows += [reported(tmp_path, "c", 5)]
    write_runs(tmp_path, rows)
    write_leaderboard(tmp_path, *TRIALS, c="incomplete")
    draw_sweep(tmp_path)
    assert len(drawn["top_trials.png"].axes[0].lines) == 1


def test_a_sweep_that_was_moved_still_finds_its_runs(sweep: Path) -> None:
    moved = sweep.rename(sweep.with_name("elsewhere"))
    assert (moved / "plots" / "top_trials.png") in draw_sweep(moved)


@pytest.mark.parametrize("drop", [("phase", "run_dir"), ("tasks_done", "seed", "trial", "status"), tuple(KEYS)])
def test_missing_columns_cost_a_picture_at_most(tmp_path: Path, drop: tuple[str, ...]) -> None:
    rows = [searched(s, seed, LEVEL[s]) for s in TRIALS for seed in (0, 1)]
    write_runs(tmp_path, rows, drop)
    expected = [] if drop == tuple(KEYS) else ["swept_keys.png"]
    assert [path.name for path in draw_sweep(tmp_path)] == expected


@pytest.mark.parametrize("score", ["", "nan"])
def test_a_sweep_where_all_failed_has_no_pictures(tmp_path: Path, score: str) -> None:
    write_runs(tmp_path, [searched("a", 0, score, 0, "failed"), searched("b", 0, score, 0, "failed")])
    assert draw_sweep(tmp_path) == []
    (tmp_path / "runs.csv").write_text("phase,run\n")
    assert draw_sweep(tmp_path) == []


def test_a_folder_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no runs\.csv; expected the folder of a sweep"):
        draw_sweep(tmp_path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["mean", "noise"], "category"),
        ([0.001, 0.01, 0.1], "log"),
        ([1.0, 5.0, 10.0], "linear"),
        ([0.0, 0.01, 1.0], "category"),
        ([0.0, 0.5, 1.0], "linear"),
        ([-1.0, 0.0, 1.0], "linear"),
        ([0.0], "linear"),
    ],
)
def test_axes_fit_their_values(values: list[Any], kind: str) -> None:
    assert axis_kind(values) == kind


@given(st.floats() | st.integers(-(10**9), 10**9) | st.booleans() | st.none() | st.text(max_size=5))
def test_a_number_is_a_finite_number_and_nothing_else(value: Any) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str):
        assert number(str(value)) == (value if numeric else None)
    else:
        number(value)  # any text is told apart without an error


def test_keys_in_words() -> None:
    assert key_label("config/learner.idc.rho") == "idc: \N{GREEK SMALL LETTER RHO}"
    assert key_label("config/training.batch_size", short_form=True) == "batch size"
