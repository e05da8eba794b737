"""A sweep's state survives kills and power cuts at any moment: resumed each time it comes to the same tables."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from driver import drive, finish, finish_run

from ccsi.errors import UserError
from ccsi.io.locks import locked
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import ConfigSuggested, JobId, RunFinished, RunId, RunLost, Status, TaskReported
from ccsi.sweep.folder import remove_notes
from ccsi.sweep.recorder import SweepRecorder, reconcile, replay
from ccsi.sweep.resume import with_folder
from ccsi.sweep.runs import check_known, finished_runs
from ccsi.sweep.tables.rows import collect_results, run_rows

STEP = 1 if os.environ.get("CCSI_TEST_SLOW") else 11
"""Bytes between two cuts."""
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=1.0", "+tasks=2", "+fault=none"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


@cache
def composed() -> Definition:
    space = "sweep.space={quality: {grid: [0.9, 0.1, 0.5, 0.7, 0.3, 0.8, 0.2, 0.6]}}"
    more = ["sweep.search=grid", "sweep.scheduler=asha", "sweep.top_k=2"]
    return compose([*STANDIN, space, *more, "sweep.seeds.tuning=[10,11]", "sweep.seeds.reporting=[0,1]"])


def opened(folder: Path) -> SweepRecorder:
    """A sweep in `folder`. The runs' configurations hold what made-up trials need: whole ones take 12 ms each."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    definition = with_folder(composed(), folder)

    def run_config(values: dict[str, Any], phase: int, seed: int, run_dir: Path) -> dict[str, Any]:
        return values | {"seed": seed, "run_dir": str(run_dir)}

    object.__setattr__(definition, "run_config", run_config)  # it is frozen
    return SweepRecorder(definition)


def learn(config: dict[str, Any], phase: int) -> Sequence[float]:
    """Made-up accuracies, different for each seed."""
    return [min(1.0, config["quality"] + config["seed"] / 1000 + task / 100) for task in range(3)]


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of runs.csv, without folders and seconds."""
    rows = run_rows(collect_results(opened(folder)))
    return [{key: value for key, value in row.items() if key not in ("run_dir", "seconds")} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        assert drive(opened(folder), learn, workers=1)
    return folder


def test_a_driver_killed_fifty_times_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    folder, rng, kills = tmp_path / "s", random.Random(0), 0

    def slowly(config: dict[str, Any], phase: int) -> Sequence[float]:
        time.sleep(0.002)
        return learn(config, phase)

    opened(folder)
    while kills < 50:
        pid = os.fork()
        if pid == 0:  # the driver
            drive(opened(folder), slowly, workers=1)
            os._exit(0)
        time.sleep(rng.uniform(0.0, 0.04))
        os.kill(pid, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        if selection.is_complete(opened(folder).state):  # the next fifty start anew
            assert table(folder) == table(undisturbed)
            shutil.rmtree(folder)
            opened(folder)
    assert drive(opened(folder), learn, workers=1)
    assert table(folder) == table(undisturbed)


@pytest.mark.parametrize("events", [3, 9, 20, 10**9])
def test_a_power_cut_at_any_byte_of_the_last_three_lines_is_resumed(
    tmp_path: Path, undisturbed: Path, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccsi.sweep.journal.os.fsync", lambda descriptor: None)
    folder, expected = tmp_path / "s", table(undisturbed)
    drive(opened(folder), learn, workers=1, events_left=events)
    whole = (folder / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) - sum(map(len, lines[-3:])), len(whole), STEP):
        again = tmp_path / "again"
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(folder, again)
        (again / "journal.jsonl").write_bytes(whole[:cut])
        assert drive(opened(again), learn, workers=1)
        assert table(again) == expected


def test_the_run_folders_have_the_last_word(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    finish_run(recorder, "p1-c00-s10", 0.5)
    finish_run(recorder, "p1-c00-s11", 0.7)
    recorder.end_job(JobId(1, 0), None)
    shutil.rmtree(tmp_path / "runs/p1-c00-s10")
    finish(tmp_path / "runs/p1-c01-s10", 0.9)
    (tmp_path / "runs/p1-c00-s11/result.json").write_text(
        (tmp_path / "runs/p1-c00-s11/result.json").read_text().replace("0.7", "0.6")
    )
    again = opened(tmp_path)
    events = reconcile(again.state, finished_runs(again.definition))
    kinds = {(type(event), str(event.run)) for event in events if isinstance(event, RunFinished | RunLost)}
    assert kinds == {(RunFinished, "p1-c00-s11"), (RunFinished, "p1-c01-s10"), (RunLost, "p1-c00-s10")}
    again.start(finished_runs(again.definition))
    assert again.state.trial_status(1, 0) is Status.INCOMPLETE  # it is run again
    assert again.state.scores(1, 0) == [0.6]
    assert 0 in selection.unfinished(again.state)
    assert reconcile(replay(again.definition, again.journal), finished_runs(again.definition)) == []


def test_the_state_reads_no_file(tmp_path: Path) -> None:
    recorder = opened(tmp_path / "s")
    assert drive(recorder, learn, workers=2)
    shutil.rmtree(tmp_path / "s/runs")
    state = replay(recorder.definition, recorder.journal)
    assert selection.is_complete(state)
    assert selection.best_trials(state) == selection.best_trials(recorder.state)
    assert state.scores(2, selection.best_trials(state)[0]) == recorder.state.scores(2, selection.best_trials(state)[0])


def test_reports_are_recorded_once(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    report = TaskReported(RunId(1, 0, 10), 1, 1, 0.5, 2, 0.5, 1.0)
    recorder.report(report), recorder.report(report)
    assert len(recorder.journal.read()) == 1
    end = RunFinished(RunId(1, 0, 10), 2, {"average_incremental": 0.5}, 1.0)
    recorder.report(report, end), recorder.report(report, end)
    assert [event for event, _ in recorder.journal.read()] == [report, end]


def test_a_full_disk_leaves_the_state_as_the_journal_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = opened(tmp_path)

    def full(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 9)
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("ccsi.sweep.journal.os.fsync", full)
        with pytest.raises(OSError, match="no space"):
            recorder.report(TaskReported(RunId(1, 0, 10), 1, 1, 0.5))
    assert recorder.state.reports == replay(recorder.definition, recorder.journal).reports == {}
    assert recorder.error is not None  # by which the scheduler stops the sweep


def test_results_that_are_visible_late_hold_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs a worker: the second is handed out at once, though the result of the first is not visible for 3 s."""
    from ccsi.sweep import runs

    read, visible_from = runs.read_result, dict[Path, float]()

    def late(folder: Path) -> dict[str, Any] | None:
        if (folder / "result.json").exists() and folder not in visible_from:
            visible_from[folder] = time.monotonic() + 3.0
        return read(folder) if time.monotonic() >= visible_from.get(folder, float("inf")) else None

    monkeypatch.setattr(runs, "read_result", late)
    recorder = opened(tmp_path)
    began = time.monotonic()
    assert drive(recorder, learn, workers=2)
    assert time.monotonic() - began < 2.0
    sweep = collect_results(recorder)  # the tables wait for them
    assert time.monotonic() - began > 3.0
    assert len(sweep.results) == len(recorder.state.results) > 5


def test_a_trial_that_ended_while_no_driver_listened_is_noted(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    for seed in (10, 11):
        finish(tmp_path / f"runs/p1-c00-s{seed}", 0.5)
    recorder.start(finished_runs(recorder.definition))
    assert recorder.state.ends[JobId(1, 0)].status is Status.DONE
    events = [json.loads(line)["event"] for line in recorder.journal.path.read_text().splitlines()]
    assert events == ["DriverStarted", "RunFinished", "RunFinished", "JobEnded"]


# From a review: what a damaged journal or a removed folder must not do.


def test_a_removed_folder_is_run_again_to_another_value(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    recorder.start({})
    for n, value in enumerate((0.5, 0.6, 0.7, 0.8)):
        recorder.report(TaskReported(RunId(1, n, 10), 2, 2, value, 3, value, 1.0))
    recorder.record(RunFinished(RunId(1, 0, 10), 3, {"average_incremental": 0.5}, 1.0))
    again = opened(tmp_path)
    again.start({})  # its folder was removed
    assert JobId(1, 0) not in again.state.reports
    again.report(TaskReported(RunId(1, 0, 10), 2, 2, 0.55, 3, 0.55, 1.0))
    assert again.state.pruner.values[2] == [0.55, 0.6, 0.7, 0.8]
    assert replay(again.definition, again.journal).pruner.values == again.state.pruner.values


def test_an_event_that_cannot_be_applied_is_skipped_and_counted(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    recorder.journal.append(RunFinished(RunId(1, 0, 10), 3, {}, 1.0), 1.0)  # without the metric
    recorder.journal.append(RunFinished(RunId(1, 0, 11), 3, {}, 1.0), 1.0)
    recorder.journal.append(TaskReported(RunId(1, 1, 10), 1, 1, 0.5), 2.0)
    again = opened(tmp_path)
    assert again.journal.n_skipped == 1
    assert JobId(1, 1) in again.state.reports


def test_a_missing_config_is_an_error_and_not_a_shift(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    optuna = replace(recorder.definition.sweep, search="optuna", num_samples=3)
    definition = replace(recorder.definition, sweep=optuna)
    recorder = SweepRecorder(definition)
    for n in range(3):
        recorder.record(ConfigSuggested({"quality": n / 10}, n))
    lines = recorder.journal.path.read_text().splitlines(keepends=True)
    recorder.journal.path.write_text("".join([lines[0], lines[1][:20] + "\n", lines[2]]))
    with pytest.raises(UserError, match="is damaged: it lacks the config of trial 1"):
        SweepRecorder(definition)


def test_a_result_of_another_trial_is_refused(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    finish(tmp_path / "runs/p1-c00-s10", 0.5)
    (tmp_path / "runs/p1-c00-s10/config.yaml").write_text("quality: 0.9\n")
    check_known(recorder.state, finished_runs(recorder.definition))
    (tmp_path / "runs/p1-c00-s10/config.yaml").write_text("quality: 0.8\n")
    with pytest.raises(UserError, match=r"was run with quality=0\.8, but trial c00 has 0\.9"):
        check_known(recorder.state, finished_runs(recorder.definition))
    finish(tmp_path / "runs/p1-c99-s10", 0.5)
    (tmp_path / "runs/p1-c00-s10/config.yaml").unlink()
    with pytest.raises(UserError, match=r"p1-c99-s10 belongs to a trial that journal\.jsonl does not know"):
        check_known(recorder.state, finished_runs(recorder.definition))


def test_a_result_that_never_appears_costs_its_trial_alone(tmp_path: Path) -> None:
    recorder = opened(tmp_path)
    assert drive(recorder, learn, workers=2)
    best = selection.best_trials(recorder.state)
    shutil.rmtree(tmp_path / f"runs/p2-c{best[0]:02d}-s0")
    sweep = collect_results(recorder, wait=0.0)
    assert [sweep.state.trial_status(2, n) for n in best] == ["incomplete", "done"]
    assert recorder.state.trial_status(2, best[0]) is Status.DONE  # the journal is as it was
    rows = {row["run"]: row["status"] for row in run_rows(sweep)}
    assert rows[f"p2-c{best[0]:02d}-s0"] == "incomplete" and rows[f"p2-c{best[0]:02d}-s1"] == "done"


def test_locks_that_a_surviving_worker_holds_are_left(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    held, free = tmp_path / "runs/.p1-c00-s10.lock", tmp_path / "runs/.p1-c01-s10.lock"
    free.touch()
    with locked(held):
        remove_notes(tmp_path)
        assert held.exists() and not free.exists()
