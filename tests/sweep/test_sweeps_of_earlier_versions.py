"""Sweeps begun at commit 4c57aa6 and killed in the middle of phase 1 are resumed to the table they had there.

In these folders a trial is called setting and a run trial, journal.jsonl has untyped events without the ends of runs,
result.json is schema 1, and checkpoints have their digest in front. `digits` learns real digits with the network of
tinynet.py; `standin` sleeps (see standin.py).
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

pytest.importorskip("ray")
from driver import drive

from ccsi import cli
from ccsi.io.run_files import read_result
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.events import ConfigSuggested, JobId
from ccsi.sweep.journal import Journal
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import read_definition, with_folder
from ccsi.sweep.resume import resumed as resume_definition
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.tables.leaderboard import leaderboard
from ccsi.sweep.tables.rows import collect_results, run_rows, write_rows

BEGUN = Path(__file__).with_name("begun_at_4c57aa6")
FIGURES = {
    "average_incremental_accuracy": "average_incremental",
    "final_accuracy_macro": "macro_over_tasks",
    "final_accuracy_micro": "micro",
}


def expected_table(file: str, renamed: dict[str, str]) -> pd.DataFrame:
    """A table of that commit under the present names, without costs, folders, and intervals (a bootstrap's there)."""
    table = pd.read_csv(BEGUN / file)
    names = {name: renamed.get(name, name) for name in table.columns}
    for old, new in FIGURES.items():
        names = {name: now.replace(old, new) for name, now in names.items()}
    table = table.rename(columns=names)
    left_out = [name for name in table if name.startswith("seconds") or name.endswith(("_low", "_high"))]
    return table.drop(columns=["run_dir", *left_out], errors="ignore")


def resumed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> SweepRecorder:
    """The sweep, resumed in this process to its end."""
    monkeypatch.syspath_prepend(str(BEGUN))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(folder.parent)
    shutil.copytree(BEGUN / name, folder)
    recorder = SweepRecorder(with_folder(read_definition(folder), folder))
    assert recorder.journal.n_skipped == 0
    assert not selection.is_search_finished(recorder.state)
    assert drive(recorder, None)
    assert selection.is_complete(recorder.state)
    write_rows(collect_results(recorder))
    return recorder


def test_a_sweep_of_stand_ins_comes_to_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import standin

    monkeypatch.setattr(standin, "time", SimpleNamespace(sleep=lambda seconds: None))
    recorder = resumed("standin", tmp_path / "s", monkeypatch)
    expected = expected_table("standin.trials.csv", {"trial": "run", "setting": "trial"})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s/runs.csv")[list(expected)], expected)
    expected = expected_table("standin.leaderboard.csv", {"setting": "trial"})
    board = pd.DataFrame(leaderboard(collect_results(recorder)))
    pd.testing.assert_frame_equal(board[list(expected)], expected, check_dtype=False)
    sums = json.loads((BEGUN / "standin.sums.json").read_text())
    learned = {run: result["weights_sha256"] for run in sums if (result := read_result(tmp_path / "s/runs" / run))}
    assert learned == {run: one["weights_sha256"] for run, one in sums.items()}

    journal, runs = (tmp_path / "s/journal.jsonl").read_bytes(), (tmp_path / "s/runs.csv").read_bytes()
    (tmp_path / "s/runs.csv").unlink()
    assert cli.main(["report", str(tmp_path / "s")]) == 0
    assert (tmp_path / "s/runs.csv").read_bytes() == runs
    assert (tmp_path / "s/plots/top_trials.png").exists()
    assert (tmp_path / "s/journal.jsonl").read_bytes() == journal


def test_keys_typed_and_swept_under_their_old_names_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BEGUN))
    monkeypatch.chdir(tmp_path)
    folder, old, now = tmp_path / "s", "learner.synthesis.together", "learner.synthesis.groups_at_once"
    shutil.copytree(BEGUN / "digits", folder)
    record = yaml.safe_load((folder / "sweep.yaml").read_text())
    record["bases"][""]["learner"]["synthesis"]["together"] = 2
    record["sweep"]["space"] = {old: {"choice": [1, 2]}}
    record["overrides"] = [one for one in record["overrides"] if not one.startswith(("sweep.space", "sweep.dir"))]
    record["overrides"] += [f"++{old}=2", f"sweep.space={{{old}: {{choice: [1, 3]}}}}"]
    record["overrides"] += [f"sweep.space.{old}={{choice: [1, 2]}}"]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    (folder / "journal.jsonl").write_text(json.dumps({"setting": {old: 2}, "clock": 1.0}) + "\n")
    definition = resume_definition(folder, ["ray.num_cpus=1"])
    assert {values[now] for values in definition.listed_configs()} == {1, 2}
    (event, _), *_ = Journal(folder / "journal.jsonl").read()
    assert isinstance(event, ConfigSuggested) and event.config == {now: 2}
    assert definition.config(event.config)["learner"]["synthesis"]["groups_at_once"] == 2


def test_the_metric_macro_and_its_figures_are_macro_over_tasks_now(tmp_path: Path) -> None:
    """As a sweep of before schema 3 has them: typed, in sweep.yaml, in journal.jsonl and in the runs' result.json."""
    folder = tmp_path / "s"
    folder.mkdir()
    space = "sweep.space={learner.w_idc: {choice: [0.0]}}"
    definition = with_folder(compose([space, "sweep.metric=val_macro", "sweep.top_k=1"]), folder)
    assert definition.sweep.metric == "val_macro_over_tasks"
    text = definition.dump()
    assert text.count("val_macro_over_tasks") == 1 and text.count("val_macro\n") == 1  # as typed, among the overrides
    (folder / "sweep.yaml").write_text(text.replace("val_macro_over_tasks", "val_macro"))
    assert read_definition(folder).sweep.metric == "val_macro_over_tasks"
    definition = resume_definition(folder, ["ray.num_cpus=1"])
    assert definition.sweep.metric == "val_macro_over_tasks"
    run = {
        "event": "RunFinished",
        "run": "p1-c00-s100",
        "tasks": 5,
        "seconds": 9.0,
        "val": {"macro": 0.5, "micro": 0.6},
    }
    (folder / "journal.jsonl").write_text(json.dumps(run) + "\n")
    recorder = SweepRecorder(definition)
    assert recorder.state.score(1, 0) == 0.5
    old = {"macro": 0.5, "micro": 0.6, "recall_per_class": [0.25, None, 1.0]}
    result = {"schema": 2, "scenario": {"classes_per_task": [2] * 5}, "seconds": {"total": 9.0}, "protocol": "…"}
    result |= {"val": old, "test": dict.fromkeys(old)}
    (folder / "runs/p1-c00-s100").mkdir(parents=True)
    (folder / "runs/p1-c00-s100/result.json").write_text(json.dumps(result))
    recorder.start(finished_runs(definition))
    assert recorder.state.score(1, 0) == 0.5
    (row,) = run_rows(collect_results(recorder))[:1]
    assert (row["val_macro_over_tasks"], row["val_macro_over_classes"], row["val_micro"]) == (0.5, 0.625, 0.6)


@pytest.mark.slow
def test_a_sweep_of_digits_resumes_each_run_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = resumed("digits", tmp_path / "s", monkeypatch)
    expected = expected_table("digits.trials.csv", {"trial": "run", "setting": "trial"})
    sums = json.loads((BEGUN / "digits.sums.json").read_text())
    results: dict[str, Any] = {run: read_result(tmp_path / "s/runs" / run) for run in sums}
    before = [run for run in sums if (BEGUN / "digits/runs" / run / "result.json").exists()]
    assert before and all(results[run]["weights_sha256"] == sums[run]["weights_sha256"] for run in before)
    assert len(recorder.state.reports[JobId(1, 3)]) > 3  # c03 was in its second seed
    resumed_run = "p1-c03-s101"
    if results[resumed_run] and results[resumed_run]["weights_sha256"] == sums[resumed_run]["weights_sha256"]:
        # this CPU rounds as the one it was begun on
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s/runs.csv")[list(expected)], expected)
        assert all(results[run]["weights_sha256"] == one["weights_sha256"] for run, one in sums.items())
