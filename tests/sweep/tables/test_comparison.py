"""The table of a sweep that compares, against figures made up and worked out by hand."""

import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from ccsi.report.sweep import compared_curves as curves
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.counts import count_runs, open_runs
from ccsi.sweep.definition import Definition
from ccsi.sweep.driver import draw_plots, write_tables
from ccsi.sweep.events import JobId
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.comparison import cells, comparison, notes, write_comparison
from ccsi.sweep.tables.leaderboard import write_leaderboard
from ccsi.sweep.tables.rows import collect_results, write_rows

SPACE = "{ewc: null, joint: null, ccsi: {learner.w_idc: {choice: [0.0, 1.0]}}, icarl: null, lwf: null, ci: null}"
SETTINGS = ["ewc", "joint", "ccsi", "ccsi", "icarl", "lwf", "ci"]
VAL = [0.2, 0.99, 0.5, 0.8, 0.9, 0.3, 0.6]
TEST = {
    "joint": [0.98, 0.96, 0.97], "ccsi": [0.75, 0.7, 0.74], "icarl": [0.8, 0.82, 0.85], "lwf": [0.3, 0.35, 0.3],
    "ewc": [0.9, 0.9, 0.9], "ci": [0.76, 0.69, 0.73],
}  # fmt: skip


def finish(folder: Path, name: str, val: float, test: float | None) -> None:
    """Write a finished run of two tasks whose final accuracies are `test`."""
    matrix = None if test is None else [[0.9 if name == "joint" else 0.95], [test, test]]
    names = ("average_incremental", "macro_over_tasks", "macro_over_classes", "micro", "auc")
    figures = dict.fromkeys(names, test) | {"accuracy_matrix": matrix}
    figures |= {"forgetting": 0.25, "forgetting_nonnegative": 0.3, "backward_transfer": -0.2}
    kept = [{"kind": "exemplars", "count": 40, "bytes": 31360}] if name == "icarl" else []
    result = {
        "schema": 3,
        "test": figures | {"accuracy_after_task": None if test is None else [0.9, test]},
        "val": dict.fromkeys(names, val) | {"forgetting": 0.0},
        "learner": name,
        "kind": {"joint": "bound", "icarl": "exemplars", "ccsi": "inversion", "ci": "inversion"}.get(
            name, "regularisation"
        ),
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


def made(folder: Path, *more: str, lacking: tuple[tuple[int, int], ...] = ((0, 1),)) -> SweepRecorder:
    """CCSI's settings are c02 and c03, c03 the better; ewc lacks a seed."""
    space = f"sweep.space={{learner: {{each: {SPACE}}}}}"
    definition = compose(
        [space, "sweep.seeds.reporting=[0,1,2]", "sweep.top_k=1", "sweep.metric=val_macro_over_tasks", *more]
    )
    weights = [values.get("learner.w_idc") for values in definition.listed_configs()]
    assert sorted(weights[2:4]) == [0.0, 1.0]
    for n in (2, 3):
        finish(folder / f"runs/p1-c0{n}-s100", "ccsi", VAL[n], None)
    for n in (0, 1, 3, 4, 5, 6):
        for seed in definition.sweep.seeds.reporting:
            if (n, seed) not in lacking:
                finish(folder / f"runs/p2-c0{n}-s{seed}", SETTINGS[n], VAL[n], TEST[SETTINGS[n]][seed])
    return started(with_folder(definition, folder))


def started(definition: Definition) -> SweepRecorder:
    recorder = SweepRecorder(definition)
    recorder.start(finished_runs(definition))
    return recorder


@pytest.fixture
def recorder(tmp_path: Path) -> SweepRecorder:
    return made(tmp_path / "s")


def test_one_row_each_by_kind_and_val(recorder: SweepRecorder) -> None:
    rows = {row["learner"]: row for row in comparison(collect_results(recorder))}
    assert list(rows) == ["joint", "ccsi", "ci", "icarl", "lwf", "ewc"]  # who has no figures comes last
    assert [row["trial"] for row in rows.values()] == ["c01", "c03", "c06", "c04", "c05", "c00"]
    assert [row["status"] for row in rows.values()] == ["done"] * 5 + ["incomplete"]
    assert [row["tried"] for row in rows.values()] == [0, 2, 0, 0, 0, 0]
    assert not any(row["failed"] for row in rows.values())
    ccsi = rows["ccsi"]
    assert ccsi["config/learner.w_idc"] == recorder.state.configs[3]["learner.w_idc"]
    assert ccsi["macro_over_tasks_mean"] == pytest.approx(0.73)
    assert ccsi["macro_over_tasks_std"] == pytest.approx(statistics.stdev(TEST["ccsi"]))
    assert (ccsi["backward_transfer_mean"], ccsi["forgetting_nonnegative_mean"]) == (
        pytest.approx(-0.2),
        pytest.approx(0.3),
    )
    assert (ccsi["exemplars"], ccsi["stored_bytes"], rows["icarl"]["exemplars"]) == (0, 640, 40)
    assert (ccsi["seconds"], ccsi["peak_memory_bytes"], ccsi["n"]) == (20.0, 2 * 10**9, 3)
    assert ccsi["forward_transfer_mean"] == pytest.approx(statistics.fmean([0.75 - 0.98, 0.7 - 0.96, 0.74 - 0.97]))
    assert rows["joint"]["forward_transfer_mean"] == 0
    assert "macro_over_tasks_mean" not in rows["ewc"] and rows["ewc"]["n"] == 2


def test_the_best_is_the_best_on_val_of_those_it_is_compared_with(recorder: SweepRecorder) -> None:
    rows = {row["learner"]: row for row in comparison(collect_results(recorder))}

    def p(names: list[str], best: str) -> list[float]:
        raw = [stats.ttest_rel(TEST[name], TEST[best]).pvalue for name in names]
        return stats.false_discovery_control(raw, method="by").tolist()

    assert rows["icarl"]["is_best"] and rows["ccsi"]["is_best_data_free"]
    assert [rows[n]["best_p"] for n in ("ccsi", "lwf", "ci")] == pytest.approx(p(["ccsi", "lwf", "ci"], "icarl"))
    assert [rows[n]["best_data_free_p"] for n in ("lwf", "ci")] == pytest.approx(p(["lwf", "ci"], "ccsi"))
    assert rows["ci"]["best_difference"] == pytest.approx(
        statistics.fmean(TEST["ci"]) - statistics.fmean(TEST["icarl"])
    )
    assert "best_p" not in rows["joint"] and "best_data_free_p" not in rows["icarl"]
    assert cells(rows["icarl"], "learner")["vs. best"] == "best"
    assert cells(rows["icarl"], "learner")["vs. best data-free"] == cells(rows["joint"], "learner")["vs. best"] == ""
    assert cells(rows["lwf"], "learner")["vs. best"].startswith("-50.7 [")
    assert cells(rows["lwf"], "learner")["vs. best"].endswith(f"], p {rows['lwf']['best_p']:.3f}")
    for name in ("ccsi", "lwf", "ci"):
        low, high, corrected = (rows[name][f"best_{part}"] for part in ("difference_low", "difference_high", "p"))
        assert low < rows[name]["best_difference"] < high and (high < 0) == (corrected < 0.05)
    intervals = {column for row in rows.values() for column in row if column.endswith(("_low", "_high"))}
    assert all("_difference_" in column for column in intervals)  # no second interval that could contradict p


def test_files_and_picture(recorder: SweepRecorder) -> None:
    write_rows(collect_results(recorder))
    write_leaderboard(collect_results(recorder), Console(quiet=True))
    assert write_comparison(collect_results(recorder), Console(quiet=True)) == ["ewc"]
    folder = recorder.definition.folder
    table = pd.read_csv(folder / "comparison.csv", index_col="learner")
    assert table.loc["icarl", "macro_over_tasks_mean"] == pytest.approx(2.47 / 3)
    text = (folder / "comparison.md").read_text()
    assert "| icarl | exemplars | 40 images | 32.0 kB | 82.3 ± 2.5 | 82.3 ± 2.5 |" in text
    assert "| joint | bound | all tasks |" in text and "| ewc |  | incomplete |" in text
    assert "Tuning: at most 2 trials of each learner on seeds [100]" in text
    assert "ewc: incomplete, 2 of 3 seeds" in text and "p of a paired t-test" in text
    assert "Another network than the rest: ci (model.norm=batch)." in text
    assert f"- ccsi (c03, …; 2 tried): learner.w_idc={recorder.state.configs[3]['learner.w_idc']}" in text
    tex = (folder / "comparison.tex").read_text()
    assert (
        tex.startswith("% Tuning") and r"icarl & 40 images & $\mathbf{82.3} \pm 2.5$" in tex and tex.count(r"\\") == 7
    )
    assert {path.stem for path in (folder / "best").iterdir()} == {"joint", "ccsi", "icarl", "lwf", "ci"}
    draw_plots(recorder.definition)
    assert {path.name for path in (folder / "plots").iterdir()} == {"comparison.png", "comparison.pdf"}
    found = {curve.name: curve for curve in curves(folder, read_trials(folder), "learner")}
    assert list(found) == ["joint", "ccsi", "ci", "icarl", "lwf"]
    assert found["ccsi"].after.tolist() == [[90.0, 75.0], [90.0, 70.0], [90.0, 74.0]]
    trials = pd.read_csv(folder / "runs.csv").set_index("run")
    assert pd.notna(trials.loc["p2-c03-s0", "config/learner.w_idc"]) and pd.isna(
        trials.loc["p2-c04-s0", "config/learner.w_idc"]
    )
    assert "2 of 3, incomplete" in (folder / "leaderboard.md").read_text()


def read_trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_candidate_whose_settings_all_failed_is_told_and_costs_no_other_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = made(tmp_path / "s", lacking=())
    for n in (2, 3):
        shutil.rmtree(recorder.definition.folder / "runs" / f"p1-c0{n}-s100")
    recorder = started(recorder.definition)
    for n in (2, 3):
        recorder.end_job(JobId(1, n), "ValueError: boom")
    assert selection.is_complete(recorder.state) and selection.n_finalists(recorder.state) == 5
    assert count_runs(recorder.state, open_runs(recorder.state), 2)["to do"] == 0
    assert write_tables(recorder, Console(quiet=True)) == 1
    assert "ccsi lack reporting seeds" in capsys.readouterr().err
    text = (recorder.definition.folder / "comparison.md").read_text()
    assert "ccsi: failed, 0 of 3 seeds: ValueError: boom." in text and "| lwf |" in text


def test_a_setting_that_failed_is_told_where_another_of_its_candidate_is_reported(tmp_path: Path) -> None:
    recorder = made(tmp_path / "s", lacking=())
    shutil.rmtree(recorder.definition.folder / "runs" / "p1-c02-s100")
    recorder = started(recorder.definition)
    recorder.end_job(JobId(1, 2), "ValueError: boom.")
    write_comparison(collect_results(recorder), Console(quiet=True))
    text = (recorder.definition.folder / "comparison.md").read_text()
    assert "- ccsi: 1 of 2 trials failed: ValueError: boom.\n" in text and "| ccsi | inversion |" in text


def test_why_a_seed_failed_is_named_beside_seeds_that_are_done(recorder: SweepRecorder) -> None:
    recorder.end_job(JobId(2, 0, 1), "OSError: no space.")
    sweep = collect_results(recorder)
    assert "ewc: failed, 2 of 3 seeds: OSError: no space." in notes(sweep.state, comparison(sweep))


def test_text_that_is_not_utf_8_is_escaped(recorder: SweepRecorder) -> None:
    recorder.end_job(JobId(2, 0, 1), "/data/caf\udce9 is damaged.")
    write_comparison(collect_results(recorder), Console(quiet=True))
    for name in ("comparison.csv", "comparison.md", "comparison.tex"):
        assert r"/data/caf\xe9 is damaged" in (recorder.definition.folder / name).read_text("utf-8")


@pytest.mark.parametrize("lacking", [(3, 5, 6, 0), (0, 3, 4, 5, 6)])
def test_without_anybody_to_be_compared_with_there_is_a_table_all_the_same(
    tmp_path: Path, lacking: tuple[int, ...]
) -> None:
    recorder = made(tmp_path / "s", lacking=tuple((n, seed) for n in lacking for seed in range(3)))
    rows = [row for row in comparison(collect_results(recorder)) if row["status"] == "done"]
    assert [cells(row, "learner")["macro over tasks"][:4] for row in rows] == ["97.0", "82.3"][: len(rows)]
    write_comparison(collect_results(recorder), Console(quiet=True))


@pytest.mark.parametrize("width", [80, 120])
def test_columns_without_figures_are_left_out(tmp_path: Path, width: int) -> None:
    recorder = made(tmp_path / "s", lacking=tuple((n, seed) for n in (0, 1, 3, 4, 5, 6) for seed in range(3)))
    console = Console(record=True, width=width, file=io.StringIO())
    assert len(write_comparison(collect_results(recorder), console)) == 6
    folder = recorder.definition.folder
    assert "| learner | kind | kept |\n|---|---|---|\n" in (folder / "comparison.md").read_text()
    assert "learner & kept \\\\" in (folder / "comparison.tex").read_text()
    assert "macro" not in console.export_text().partition("ewc")[0]


def test_few_seeds_have_no_test(tmp_path: Path) -> None:
    two = made(tmp_path / "two", "sweep.seeds.reporting=[0,1]", lacking=())
    row = next(row for row in comparison(collect_results(two)) if row["learner"] == "ccsi")
    assert cells(row, "learner")["vs. best"] == "-8.5" and cells(row, "learner")["macro over tasks"] == "72.5 ± 3.5"
    assert "no interval and no test of significance for fewer than three seeds" in " ".join(notes(two.state, [row]))
    one = made(tmp_path / "one", "sweep.seeds.reporting=[0]", lacking=())
    assert {row["learner"]: cells(row, "learner")["macro over tasks"] for row in comparison(collect_results(one))}[
        "joint"
    ] == "98.0"


def test_what_has_no_p_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEST, "lwf", [value - 0.5 for value in TEST["icarl"]])
    recorder = made(tmp_path / "s", lacking=())
    rows = comparison(collect_results(recorder))
    row = next(row for row in rows if row["learner"] == "lwf")
    assert row["best_p"] is None and cells(row, "learner")["vs. best"] == "-50.0"
    said = notes(recorder.state, rows)
    assert "No interval and no p for lwf: the same difference on every seed." in said
    assert sum("Benjamini" in one for one in said) == 1 and not any("fewer than three" in one for one in said)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("[0.5]", "No tuning: one config of each learner, as sweep.space gives it."),
        ("[0.0, 1.0]", "No tuning: one config of each learner; what its space leaves open is drawn at random."),
    ],
)
def test_what_is_given_is_not_said_to_be_drawn_at_random(choice: str, said: str) -> None:
    space = f"sweep.space={{learner: {{each: {{lwf: null, ccsi: {{learner.w_idc: {{choice: {choice}}}}}}}}}}}"
    state = SweepState(compose([space, "sweep.top_k=1", "sweep.num_samples=1"]))
    assert notes(state, [])[0] == said


def test_the_latex_table_has_the_difference_from_the_best(recorder: SweepRecorder) -> None:
    write_comparison(collect_results(recorder), Console(quiet=True))
    tex = (recorder.definition.folder / "comparison.tex").read_text()
    row = next(row for row in comparison(collect_results(recorder)) if row["learner"] == "lwf")
    low, high = (100 * row[f"best_difference_{end}"] for end in ("low", "high"))
    assert rf"$-50.7$ [${low:+.1f}$, ${high:+.1f}$], $p_{{\mathrm{{adj}}}} = {row['best_p']:.3f}$" in tex
    assert tex.count("best \\") == 1 and r"\toprule" in tex  # icarl's
    assert r"vs.\ best, adjusted interval and $p$ \\" in tex


def test_the_table_fits_a_terminal_of_80_columns(recorder: SweepRecorder) -> None:
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    write_comparison(collect_results(recorder), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines if "┃" in line or "│" in line)
    assert {"learner", "kept", "macro", "best", "data-free"} <= set(" ".join(lines).replace("┃", " ").split())
