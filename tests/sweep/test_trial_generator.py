"""Both phases as they are scheduled, with made-up trials and without starting Ray (see driver.py)."""

import io
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

pytest.importorskip("ray")
from driver import drive, finish, finish_run

from ccsi.errors import UserError
from ccsi.sweep import selection, trial_generator
from ccsi.sweep.compose import compose
from ccsi.sweep.counts import count_runs, open_runs
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import JobEnded, JobId, RunId, Status, TaskReported, TrialPromoted, TrialStarted
from ccsi.sweep.progress import standings
from ccsi.sweep.pruners import MedianPruner, SuccessiveHalving
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import resumed, with_folder
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.search import TriedConfig
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.leaderboard import describe_protocol, leaderboard, write_leaderboard
from ccsi.sweep.tables.rows import collect_results, run_rows, write_rows
from ccsi.sweep.warm_start import warm_start

pytestmark = pytest.mark.usefixtures("workplace")
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=1.0", "+tasks=2", "+fault=none"]
QUIET = Console(quiet=True)


@cache
def composed() -> Definition:
    return compose(STANDIN)


def opened(folder: Path, waits: Sequence[float] = (), **changes: Any) -> SweepRecorder:
    """A sweep in `folder`, made if need be. `changes`: of `sweep`. `waits`: seconds a task of each trial takes.

    The runs' configurations hold what made-up trials need: whole ones take 12 ms each to put together.
    """
    definition = replace(composed(), sweep=replace(composed().sweep, **changes), cwd=str(Path.cwd()))
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    definition = with_folder(definition, folder)

    def run_config(values: dict[str, Any], phase: int, seed: int, run_dir: Path) -> dict[str, Any]:
        wait = float(waits[RunId.parse(run_dir.name).trial]) if len(waits) else 1.0
        return values | {"seed": seed, "run_dir": str(run_dir), "wait": wait}

    object.__setattr__(definition, "run_config", run_config)  # it is frozen
    return SweepRecorder(definition)


def grid(number: int) -> dict[str, Any]:
    """A space of `number` settings, tried in order."""
    return {"space": {"quality": {"grid": [n / 100 for n in range(number)]}}, "search": "grid"}


def counted(recorder: SweepRecorder, phase: int) -> Mapping[str, int]:
    """How many runs are where, as `ccsi status` sees it."""
    return count_runs(recorder.state, open_runs(recorder.state), phase)


def last(recorder: SweepRecorder, trial: int) -> TaskReported:
    """A trial's last report in phase 1."""
    report = recorder.state.last_report(JobId(1, trial))
    assert report is not None
    return report


def second(folder: Path) -> set[str]:
    """The settings that have been run in phase 2."""
    return {path.name.split("-")[1] for path in (folder / "runs").glob("p2-*")}


# Nothing that is done early changes who is chosen.


class World:
    """Made-up accuracies, coarse so that settings tie, with unequal seconds; some configurations are at fault."""

    def __init__(self, seed: int, number: int, faults: float) -> None:
        rng = np.random.default_rng(seed)
        self.tasks = int(rng.integers(1, 5))
        self.accuracy = rng.integers(0, 3, (number, 2, self.tasks)) / 2
        self.waits = rng.choice([1, 1, 2, 30], number)
        self.at_fault = rng.random(number) < faults

    def learn(self, config: dict[str, Any], phase: int) -> Sequence[float]:
        n = round(100 * config["quality"])
        return [] if self.at_fault[n] and phase == 1 else self.accuracy[n, config["seed"] % 2].tolist()

    def score(self, n: int, seeds: Sequence[int], metric: str) -> float:
        return statistics.fmean(
            statistics.fmean(row) if metric == "val_average_incremental" else row[-1]
            for row in (self.accuracy[n, seed % 2] for seed in seeds)
        )


@given(
    seed=st.integers(0, 2**32), number=st.integers(1, 9), top_k=st.integers(1, 4), workers=st.integers(1, 5),
    metric=st.sampled_from(["val_average_incremental", "val_macro_over_tasks"]),
    tuning=st.sampled_from([[10], [10, 11]]),
    search=st.sampled_from(["grid", "optuna"]), killed=st.lists(st.integers(1, 12), max_size=2),
)  # fmt: skip
def test_whoever_is_not_waited_for_the_chosen_are_those_of_waiting_for_all(
    seed: int, number: int, top_k: int, workers: int, metric: str, tuning: list[int], search: str, killed: list[int]
) -> None:
    world = World(seed, number, 0.0 if killed else 0.15)  # what failed is tried again by a sweep that goes on
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(trial_generator, "suggest_config", lambda space, tried, *rest: {"quality": len(tried) / 100})
        more = grid(number) | {"search": search, "num_samples": number, "top_k": top_k, "metric": metric}
        more["seeds"] = replace(composed().sweep.seeds, tuning=tuning, reporting=[0])
        for events in [*killed, 10**9]:
            recorder = opened(Path(folder), world.waits, **more)
            drive(recorder, world.learn, workers, events)
        assert selection.is_complete(recorder.state)
        valid = [n for n in range(number) if not world.at_fault[n]]
        scores = {n: world.score(n, tuning, metric) for n in valid}
        expected = sorted(valid, key=lambda n: (-scores[n], n))[:top_k]
        assert selection.best_trials(recorder.state) == expected
        assert selection.finalists(recorder.state) == expected
        assert second(Path(folder)) == {f"c{n:02d}" for n in expected}  # nothing else was ever begun
        ends = [recorder.state.trial_status(1, n) for n in range(number)]
        assert all((end == "failed") == bool(world.at_fault[n]) for n, end in enumerate(ends))
        assert set(ends) <= {"done", "failed", "pruned"}
        assert not any(ends[n] == "pruned" for n in expected)
        again = opened(Path(folder), **more)
        assert selection.best_trials(again.state) == expected  # and the files say the same


@given(
    seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    workers=st.integers(1, 5), killed=st.lists(st.integers(1, 12), max_size=2),
)  # fmt: skip
def test_where_candidates_are_compared_each_sends_its_own_best(
    seed: int, sizes: list[int], workers: int, killed: list[int]
) -> None:
    number = sum(sizes)
    world = World(seed, number, 0.0 if killed else 0.3)  # what failed is tried again by a sweep that goes on
    lots, spaces = list[list[int]](), dict[str, Any]()
    for name, size in zip("abcd", sizes, strict=False):
        lots.append(list(range(sum(map(len, lots)), sum(map(len, lots)) + size)))
        spaces[name] = {"quality": {"grid": [n / 100 for n in lots[-1]]}}
    changes = {"space": {"learner": {"each": spaces}}, "search": "grid", "top_k": 1, "metric": "val_macro_over_tasks"}
    changes["seeds"] = replace(composed().sweep.seeds, tuning=[10], reporting=[0, 1])
    with tempfile.TemporaryDirectory() as folder:
        for events in [*killed, 10**9]:
            recorder = opened(Path(folder), world.waits, **changes)
            drive(recorder, world.learn, workers, events)
        assert selection.is_complete(recorder.state)
        expected = list[int]()
        for lot in lots:
            scores = {
                n: world.score(n, [10], "val_macro_over_tasks") for n in lot if len(lot) == 1 or not world.at_fault[n]
            }
            expected += sorted(scores, key=lambda n: (-scores[n], n))[:1]  # none, if all are at fault
        assert selection.best_trials(recorder.state) == expected == selection.finalists(recorder.state)
        assert second(Path(folder)) == {f"c{n:02d}" for n in expected}
        searched = {int(path.name[4:6]) for path in (Path(folder) / "runs").glob("p1-*")}
        assert searched <= {n for lot in lots if len(lot) > 1 for n in lot}  # who has no rival needs no phase 1
        assert selection.n_finalists(recorder.state) == len(expected)
        counts = counted(recorder, 2)
        assert (counts["done"], counts["to do"]) == (2 * len(expected), 0)
        there = {path.name for path in (Path(folder) / "runs").glob("p*") if path.is_dir()}
        assert {row["run"] for row in run_rows(collect_results(recorder)) if row["status"] != "failed"} == there


def late_finalists(state: SweepState) -> list[int]:
    """The finalists, once phase 1 is finished."""
    return selection.best_trials(state) if selection.is_search_finished(state) else []


@given(seed=st.integers(0, 2**32), top_k=st.integers(1, 3), scheduler=st.sampled_from(["asha", "median"]))
def test_nor_does_it_change_what_a_scheduler_sees(seed: int, top_k: int, scheduler: str) -> None:
    world, more = World(seed, 8, 0.1), grid(8) | {"top_k": top_k, "scheduler": scheduler}
    chosen = []
    for patient in (False, True):
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            if patient:
                patch.setattr(selection, "dominated", lambda state: set())
                patch.setattr(selection, "finalists", late_finalists)
            recorder = opened(Path(folder), world.waits, **more)
            assert drive(recorder, world.learn, workers=99)  # none waits for a place, so that both sweeps run alike
            chosen.append(selection.best_trials(recorder.state))
            assert second(Path(folder)) == {f"c{n:02d}" for n in selection.best_trials(recorder.state)}
    assert chosen[0] == chosen[1]


def test_phase_2_starts_while_a_straggler_runs_and_the_straggler_is_stopped(tmp_path: Path) -> None:
    def learn(config: dict[str, Any], phase: int) -> list[float]:
        return [config["quality"], 0.5, 0.5, 0.5]

    more = {"space": {"quality": {"grid": [0.9, 0.8, 0.1]}}, "search": "grid", "top_k": 1}
    recorder = opened(tmp_path / "s", [1, 1, 50], **more)
    assert drive(recorder, learn, workers=3)
    # After task 1 (0.1) the straggler's bound is (0.1 + 3) / 4 = 0.775 and the best has 0.6: after task 2 it is 0.65;
    # after task 3, (0.1 + 0.5 + 0.5 + 1) / 4 = 0.525. Only then is c00 certain.
    assert [recorder.state.trial_status(1, n) for n in range(3)] == ["done", "done", "pruned"]
    assert (
        selection.pruned_by(recorder.state, 2) == "because it could no longer reach the best 1 after task 3 of seed 100"
    )
    assert selection.is_complete(recorder.state)
    table = write_rows(collect_results(recorder)).set_index("run")
    assert table.loc["p1-c02-s100", "tasks_done"] == 3
    assert table.loc["p1-c02-s100", "pruned"] == selection.pruned_by(recorder.state, 2)


@pytest.mark.parametrize("search", ["optuna", "grid"])
def test_settings_not_yet_begun_can_be_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str) -> None:
    qualities = [0.9, 0.8, 0.95]
    monkeypatch.setattr(
        trial_generator, "suggest_config", lambda space, tried, *rest: {"quality": qualities[len(tried)]}
    )
    more = {"space": {"quality": {"grid": qualities}}, "search": search, "num_samples": 3, "top_k": 2}
    assert not drive(opened(tmp_path / "s", **more), constant, workers=1, events_left=4)  # killed after c00 and c01
    recorder = opened(tmp_path / "s", **more)
    assert (selection.best_trials(recorder.state), selection.finalists(recorder.state)) == ([0, 1], [0])
    assert drive(recorder, constant, workers=1)
    assert selection.finalists(recorder.state) == [2, 0]
    assert second(tmp_path / "s") == {"c00", "c02"}


def test_with_a_scheduler_nobody_is_stopped_while_another_may_still_come_in(tmp_path: Path) -> None:
    for scheduler, hopeless in (("none", {1}), ("asha", set()), ("median", set())):
        recorder = opened(tmp_path / scheduler, **grid(3), scheduler=scheduler, top_k=1)
        for n in range(3):
            recorder.record(TrialStarted(n))
        finish_run(recorder, "p1-c00-s100", 0.9)
        recorder.end_job(JobId(1, 0), None)
        for n, score in ((1, 0.2), (2, 0.8)):  # of two tasks: at most 0.6 and 0.9
            recorder.report(TaskReported(RunId(1, n, 100), task=1, tasks=2, score=score, tasks_done=1, value=score))
        assert selection.dominated(recorder.state) == hopeless
        assert (
            selection.finalists(recorder.state) == []
        )  # c02 may come to 0.9, and which of two is nearer to it is a matter of rounding


# What is reported is not biased.


def test_phase_2_is_unbiased_on_pure_noise_and_phase_1_is_not(tmp_path: Path) -> None:
    truth, spread, repetition = 0.5, 0.1, 0

    def noise(config: dict[str, Any], phase: int) -> list[float]:
        rng = np.random.default_rng([repetition, round(100 * config["quality"]), config["seed"], phase])
        return (truth + spread * rng.standard_normal(4)).clip(0, 1).tolist()

    seeds = replace(composed().sweep.seeds, tuning=[10, 11], reporting=[0, 1, 2])
    reported, searched, survivors, pruned = [], [], [], 0
    for repetition in range(20):
        folder = tmp_path / str(repetition)
        recorder = opened(folder, **grid(16), scheduler="asha", top_k=2, seeds=seeds)
        assert drive(recorder, noise, workers=4)
        pruned += sum(recorder.state.trial_status(1, n) == "pruned" for n in range(16))
        rows = leaderboard(collect_results(recorder))
        reported.append(statistics.fmean(row["val_average_incremental_mean"] for row in rows))
        searched.append(recorder.state.score(1, selection.best_trials(recorder.state)[0]) or 0.0)
        alive = [n for n in range(16) if recorder.state.trial_status(1, n) == "done"]
        survivors.append(statistics.fmean(recorder.state.score(1, n) or 0.0 for n in alive))
        shutil.rmtree(folder)

    def interval(values: list[float]) -> tuple[float, float]:
        half = 2.093 * statistics.stdev(values) / len(values) ** 0.5  # Student's t, 19 degrees of freedom, 95 %
        return statistics.fmean(values) - half, statistics.fmean(values) + half

    assert pruned > 20 * 16 / 4
    low, high = interval(reported)
    assert low <= truth <= high
    assert high - low < 0.03
    assert interval(searched)[0] > truth  # the best of a search is lucky
    assert interval(survivors)[0] > truth  # and so is the mean of what a scheduler left


# Budget and patience.


def constant(config: dict[str, Any], phase: int) -> list[float]:
    return [config["quality"]] * 2


def test_a_sweep_ended_by_its_budget_goes_on_when_given_more(tmp_path: Path) -> None:
    typed = ["sweep.search=grid", "sweep.top_k=2", "sweep.seeds.reporting=[0]", "sweep.budget.trials=3"]
    typed.append("sweep.space={quality: {grid: [0.1, 0.2, 0.3, 0.4, 0.5]}}")
    definition = with_folder(compose([*STANDIN, *typed]), tmp_path / "s")
    (tmp_path / "s/runs").mkdir(parents=True)
    (tmp_path / "s/sweep.yaml").write_text(definition.dump())
    recorder = SweepRecorder(definition)
    assert drive(recorder, constant)
    assert selection.is_complete(recorder.state)
    assert (sorted(recorder.state.started), selection.best_trials(recorder.state)) == ([0, 1, 2], [2, 1])
    assert "3 of 5 trials (grid search; ended by sweep.budget.trials=3)" in describe_protocol(recorder.state)
    assert len([row for row in run_rows(collect_results(recorder)) if row["phase"] == 1]) == 3
    assert selection.is_complete(SweepRecorder(resumed(tmp_path / "s", [])).state)
    more = SweepRecorder(resumed(tmp_path / "s", ["sweep.budget.trials=null"]))
    assert not selection.is_complete(more.state)
    assert drive(more, constant)
    assert (sorted(more.state.started), selection.best_trials(more.state)) == ([0, 1, 2, 3, 4], [4, 3])
    assert "5 trials (grid search)" in describe_protocol(more.state)
    phase_2 = [row["trial"] for row in run_rows(collect_results(more)) if row["phase"] == 2]
    assert phase_2 == ["c04", "c03", "c01", "c02"]  # what was reported before stays in the table


def test_the_hours_of_a_budget_go_on_counting_when_a_sweep_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(hours=100.0)
    monkeypatch.setattr("ccsi.sweep.recorder.time.monotonic", lambda: 3600 * now.hours)

    def learn(config: dict[str, Any], phase: int) -> list[float]:
        now.hours += 0.25
        return constant(config, phase)

    more = grid(9) | {"budget": replace(composed().sweep.budget, hours=1.0), "top_k": 1}
    recorder = opened(tmp_path / "s", **more)
    assert not drive(recorder, learn, workers=1, events_left=4)  # two settings, half an hour; then the driver is killed
    assert recorder.clock() == pytest.approx(1800)
    now.hours += 1000  # nobody at work
    again = opened(tmp_path / "s", **more)
    assert again.clock() == pytest.approx(1800)
    assert drive(again, learn, workers=1)
    assert sorted(again.state.started) == [0, 1, 2, 3]
    assert selection.best_trials(again.state) == [3]
    assert again.state.trial_status(2, 3) == "done"  # phase 2 runs, whatever the hour
    assert "4 of 9 trials (grid search; ended by sweep.budget.hours=1)" in describe_protocol(again.state)


def test_patience_counts_completed_settings_and_is_kept(tmp_path: Path) -> None:
    qualities = [0.5, 0.6, 0.1, 0.55, 0.2, 0.3, 0.4, 0.9]  # the best two change at c00, c01, c03; then three do nothing
    more = {"space": {"quality": {"grid": qualities}}, "search": "grid", "top_k": 2, "patience": 3}
    recorder = opened(tmp_path / "s", **more)
    assert not drive(recorder, constant, workers=1, events_left=9)  # killed in the fifth
    again = opened(tmp_path / "s", **more)
    assert drive(again, constant, workers=1)
    assert sorted(again.state.started) == [0, 1, 2, 3, 4, 5, 6]
    assert selection.best_trials(again.state) == [1, 3]
    assert "7 of 8 trials (grid search; ended by sweep.patience=3)" in describe_protocol(again.state)
    assert selection.is_complete(opened(tmp_path / "s", **more).state)


# ASHA.


def learn_from(table: Sequence[Sequence[float]]) -> Callable[[dict[str, Any], int], Sequence[float]]:
    """Made-up accuracies: a row for each setting of `grid`."""
    return lambda config, phase: table[round(100 * config["quality"])]


def test_ashas_rungs_are_a_factor_apart() -> None:
    assert [tasks for tasks in range(1, 129) if SuccessiveHalving().is_rung(tasks)] == [2, 8, 32, 128]


def test_asha_lets_the_best_quarter_go_on_from_each_rung_once_all_have_begun(tmp_path: Path) -> None:
    more = grid(16) | {"scheduler": "asha", "top_k": 1, "seeds": replace(composed().sweep.seeds, reporting=[0])}
    recorder = opened(tmp_path / "s", **more)
    # c02, c06, c09 and c14 are the best four after two tasks; of those c09 is the best after eight.
    two = [0.1, 0.3, 0.7, 0.2, 0.3, 0.1, 0.8, 0.2, 0.4, 0.7, 0.3, 0.2, 0.5, 0.1, 0.6, 0.4]
    rows = [[one] * 2 + [1.0 if n == 9 else 0.5] * 7 for n, one in enumerate(two)]
    assert drive(recorder, learn_from(rows), workers=1)
    ends = [last(recorder, n).tasks_done for n in range(16)]
    assert ends == [9 if n == 9 else 8 if n in (2, 6, 14) else 2 for n in range(16)]
    assert [n for n in range(16) if recorder.state.trial_status(1, n) == "done"] == [9]
    assert selection.pruned_by(recorder.state, 7) == "by ASHA after task 2 of seed 100"
    assert selection.pruned_by(recorder.state, 6) == "by ASHA after task 8 of seed 100"
    assert recorder.state.promoted_anyway == set()
    order = [event.trial for event, _ in recorder.journal.read() if isinstance(event, TrialPromoted)]
    assert order == [6, 2, 9, 14, 9]  # the best first; c09 waits at the second rung too, until it is one of four there
    table = write_rows(collect_results(recorder)).set_index("run")
    assert table.loc["p1-c06-s100", "seconds"] == 8.0  # what was stopped has cost something too


def test_who_waits_is_called_so_until_phase_1_is_over(tmp_path: Path) -> None:
    more = grid(8) | {"scheduler": "asha", "top_k": 1, "seeds": replace(composed().sweep.seeds, reporting=[0])}
    rows = [[n / 10] * 3 for n in (5, 1, 2, 3, 8, 4, 9, 6)]
    assert not drive(opened(tmp_path / "s", **more), learn_from(rows), workers=1, events_left=8)  # four are at the rung
    recorder = opened(tmp_path / "s", **more)
    recorder.start(finished_runs(recorder.definition))
    assert selection.waiting_trials(recorder.state) == {0, 3}  # the best two of eight may be these
    statuses = [row["status"] for row in run_rows(collect_results(recorder))]
    assert statuses == ["waiting", "pruned", "pruned", "waiting", *["incomplete"] * 4]
    assert [row["pruned"] != "" for row in run_rows(collect_results(recorder))] == [
        False,
        True,
        True,
        False,
        *[False] * 4,
    ]
    assert counted(recorder, 1) == {
        "running": 0,
        "done": 0,
        "waiting": 2,
        "pruned": 2,
        "failed": 0,
        "to do": 4,
    }
    assert [one.status for one in standings(recorder.state, ())] == ["waiting", "waiting", "pruned", "pruned"]
    assert drive(recorder, learn_from(rows), workers=1)
    assert (selection.waiting_trials(recorder.state), counted(recorder, 1)["pruned"]) == (
        set(),
        7,
    )  # c04 went on, and could not reach c06


def test_a_finished_sweep_of_the_time_when_each_task_was_a_rung_stays_finished(tmp_path: Path) -> None:
    more = grid(4) | {"scheduler": "asha", "top_k": 1, "seeds": replace(composed().sweep.seeds, reporting=[0])}
    recorder = opened(tmp_path / "s", **more)
    assert drive(recorder, learn_from([[n / 10] * 3 for n in range(4)]), workers=1)
    journal = recorder.journal.path.read_text()
    assert journal.count('"status": "pruned"') == 3  # the best came last, and went on
    recorder.journal.path.write_text("".join(
        line for line in journal.splitlines(keepends=True) if not re.search(r'p1-c0[012]-s100".*"task": 2', line)
    ))  # fmt: skip
    old = opened(tmp_path / "s", **more)
    assert [last(old, n).tasks_done for n in range(4)] == [1, 1, 1, 3]
    assert selection.is_complete(old.state) and selection.best_trials(old.state) == [3]
    assert selection.waiting_trials(old.state) == set()


def test_with_a_limit_asha_waits_for_no_setting_to_begin(tmp_path: Path) -> None:
    # c00 is the best of the first four, though not of all; of eight c04 and c06 are.
    more = grid(8) | {"scheduler": "asha", "top_k": 1, "seeds": replace(composed().sweep.seeds, reporting=[0])}
    for patience, went_on in ((None, {4, 6}), (8, {0, 4, 6})):
        recorder = opened(tmp_path / str(patience), **more, patience=patience)
        two = (0.5, 0.1, 0.2, 0.3, 0.8, 0.4, 0.9, 0.45)
        assert drive(recorder, learn_from([[one] * 2 + [0.5] * 4 for one in two]), workers=1)
        assert {n for n in range(8) if recorder.state.trial_status(1, n) == "done"} == went_on


def test_asha_ends_with_enough_to_report_and_lets_equals_go_on_together(tmp_path: Path) -> None:
    few = grid(3) | {"scheduler": "asha", "top_k": 2, "seeds": replace(composed().sweep.seeds, reporting=[0])}
    recorder = opened(tmp_path / "few", **few)  # no quarter of three is a whole one
    assert drive(recorder, learn_from([[0.1] * 3, [0.3] * 3, [0.2] * 3]), workers=1)
    assert ([recorder.state.trial_status(1, n) for n in range(3)], recorder.state.promoted_anyway) == (
        ["pruned", "done", "done"],
        {1, 2},
    )
    recorder = opened(tmp_path / "equal", **(few | grid(8)))
    assert drive(recorder, learn_from([[1.0, 0.5, 0.9 - n / 100] for n in range(8)]), workers=1)
    assert [recorder.state.trial_status(1, n) for n in range(8)] == ["done"] * 8


def test_a_trial_that_becomes_promotable_after_the_finalists_are_known_holds_nothing_up(tmp_path: Path) -> None:
    rows = [[1.0] * 3, [0.6] * 3, [0.5] * 3, [0.4] * 3, *[[0.0] * 3] * 4]
    recorder = opened(tmp_path, [1] * 4 + [3] * 4, **(grid(8) | {"scheduler": "asha", "top_k": 1}))
    # Once c00 is done, the slow ones are dominated; while phase 2 runs they reach the rung, and c01 is promotable.
    assert drive(recorder, learn_from(rows), workers=8)
    assert selection.is_complete(recorder.state)
    reason = "because it could no longer reach the best 1 after task 2 of seed 100"
    assert selection.pruned_by(recorder.state, 1) == reason


@given(
    seed=st.integers(0, 2**32), number=st.integers(1, 14), top_k=st.integers(1, 3), workers=st.integers(1, 5),
    killed=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=2),
    search=st.sampled_from(["grid", "optuna"]), tuning=st.sampled_from([[10], [10, 11]]),
)  # fmt: skip
def test_whatever_happens_asha_ends_with_just_enough_and_nobody_waits_who_should_not(
    seed: int, number: int, top_k: int, workers: int, killed: list[tuple[int, bool]], search: str, tuning: list[int]
) -> None:
    world = World(seed, number, 0.0 if killed else 0.15)
    seeds = replace(composed().sweep.seeds, tuning=tuning)
    more = grid(number) | {"scheduler": "asha", "top_k": top_k, "search": search, "num_samples": number, "seeds": seeds}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(trial_generator, "suggest_config", lambda space, tried, *rest: {"quality": len(tried) / 100})
        for events, lost in [*killed, (10**9, False)]:
            recorder = opened(Path(folder), world.waits, **more)
            drive(recorder, world.learn, workers, events, lost)
        assert selection.is_complete(recorder.state)
        best, well = selection.best_trials(recorder.state), number - int(world.at_fault[:number].sum())
        assert len(best) == min(top_k, well)
        assert (
            not recorder.state.promoted_anyway
            or sum(recorder.state.trial_status(1, n) == "done" for n in range(number)) <= top_k
        )
        assert second(Path(folder)) == {f"c{n:02d}" for n in best}
        reported = {n: report for n in range(number) if (report := recorder.state.last_report(JobId(1, n))) is not None}
        for n, report in reported.items():
            if recorder.state.trial_status(1, n) != "pruned" or "longer" in (
                selection.pruned_by(recorder.state, n) or ""
            ):
                continue
            there = {
                job: one.value
                for job, reports in recorder.state.reports.items()
                for one in reports
                if job.phase == 1 and one.tasks_done == report.tasks_done
            }
            better = sum(value > report.value for value in there.values())
            assert better >= len(there) // 4
        assert selection.best_trials(opened(Path(folder), **more).state) == best


def test_a_sweep_killed_at_any_moment_prunes_as_if_it_had_not_been(tmp_path: Path) -> None:
    rows = [[0.9] * 4, [0.8] * 4, [0.9, 0.8, 0.7, 0.7], [0.1] * 4, [0.95, 0.2, 0.2, 0.2], [0.85, 0.9, 0.9, 0.9]]
    more = grid(6) | {"scheduler": "asha", "top_k": 2, "seeds": replace(composed().sweep.seeds, reporting=[0])}

    def outcome(recorder: SweepRecorder) -> tuple[list[str], list[int], set[int], set[str]]:
        return (
            [recorder.state.trial_status(1, n) for n in range(6)],
            selection.best_trials(recorder.state),
            recorder.state.promoted_anyway,
            second(recorder.definition.folder),
        )

    whole = opened(tmp_path / "whole", **more)
    assert drive(whole, learn_from(rows), workers=1)
    assert "pruned" in outcome(whole)[0]
    assert whole.state.promoted_anyway
    for lost in (False, True):
        for events in range(1, 40):
            folder = tmp_path / f"{events}{lost}"
            if drive(opened(folder, **more), learn_from(rows), workers=1, events_left=events, lost=lost):
                break
            recorder = opened(folder, **more)
            assert drive(recorder, learn_from(rows), workers=1)
            assert outcome(recorder) == outcome(whole)
        assert events > 10


def test_a_trial_that_was_to_be_stopped_when_the_driver_died_is_stopped_by_the_next(tmp_path: Path) -> None:
    more = grid(4) | {"scheduler": "asha", "top_k": 1}
    recorder = opened(tmp_path, **more)
    for n, value in enumerate((0.5, 0.6, 0.7, 0.8)):
        recorder.record(TrialStarted(n))
        report = TaskReported(RunId(1, n, 100), task=2, tasks=3, score=value, tasks_done=2, value=value)
        recorder.report(report)  # and then Tune would have stopped the first three
    again = opened(tmp_path, **more)
    again.start(finished_runs(again.definition))
    assert [again.state.trial_status(1, n) for n in range(4)] == ["pruned"] * 3 + ["incomplete"]
    assert selection.pruned_by(again.state, 0) == "by ASHA after task 2 of seed 100"


def test_a_job_that_ends_without_a_result_has_failed(tmp_path: Path) -> None:
    recorder = opened(tmp_path, **grid(2), top_k=1)
    recorder.end_job(JobId(1, 1), None)
    assert recorder.state.ends[JobId(1, 1)] == JobEnded(JobId(1, 1), Status.FAILED, "the trial ended without a result")


# Median stopping.


def test_the_median_rule_compares_at_equal_tasks_done() -> None:
    rule = MedianPruner()

    def stopped(trial: str, values: dict[int, float]) -> list[bool]:
        for tasks, value in values.items():
            rule.observe(trial, tasks, value)
        return [rule.should_prune(tasks, value) for tasks, value in values.items()]

    assert stopped("a", {1: 0.9, 2: 0.5}) == [False] * 2
    assert stopped("b", {1: 0.8, 2: 0.6}) == [False] * 2
    assert stopped("low", {1: 0.1, 2: 0.1}) == [False] * 2  # two others are too few
    assert stopped("c", {1: 0.0, 2: 0.7}) == [False] * 2  # the first task is free
    assert stopped("d", {1: 0.9, 2: 0.54}) == [False, True]  # the median of 0.5, 0.6, 0.1, 0.7 is 0.55
    assert stopped("e", {2: 0.54}) == [False]  # of 0.1, 0.5, 0.54, 0.6, 0.7 it is 0.54
    assert stopped("e", {2: 0.54}) == [False]  # decided once
    assert stopped("f", {4: 0.0}) == [False]  # none of the others has come so far


def test_median_stopping_marks_what_it_stopped_in_every_table_and_resumes(tmp_path: Path) -> None:
    more = grid(8) | {"space": {"quality": {"grid": [0.9, 0.8, 0.7, 0.1, 0.72, 0.2, 0.85, 0.3]}}, "top_k": 1}
    more |= {"scheduler": "median", "seeds": replace(composed().sweep.seeds, reporting=[0])}

    def learn(config: dict[str, Any], phase: int) -> list[float]:
        return [1.0, config["quality"], config["quality"]]

    recorder = opened(tmp_path / "s", **more)
    assert not drive(recorder, learn, workers=1, events_left=10)
    again = opened(tmp_path / "s", **more)
    assert drive(again, learn, workers=1)
    assert [again.state.trial_status(1, n) for n in range(8)] == ["done"] * 3 + [
        "pruned",
        "pruned",
        "pruned",
        "done",
        "pruned",
    ]
    table = write_rows(collect_results(again)).set_index("run")
    assert table.loc["p1-c03-s100", "status"] == "pruned"
    assert table.loc["p1-c03-s100", "tasks_done"] == 2
    assert table.loc["p1-c03-s100", "pruned"] == "by median stopping after task 2 of seed 100"
    console = Console(record=True, width=300, file=io.StringIO())
    write_leaderboard(collect_results(again), console)
    sentence = "4 pruned (4 by median stopping after task 2 of seed 100)"
    assert sentence in " ".join(console.export_text().split())
    text = (tmp_path / "s/leaderboard.md").read_text()
    assert sentence in text
    assert "- c03: pruned by median stopping after task 2 of seed 100" in text


# Two aims.


def test_with_two_aims_phase_2_takes_the_pareto_front_and_the_table_marks_it(tmp_path: Path) -> None:
    qualities, seconds = [0.9, 0.8, 0.85, 0.7, 0.95], [4.0, 2.0, 4.0, 1.0, 9.0]

    for top_k, expected in ((3, [4, 0, 1]), (5, [4, 0, 1, 3, 2])):  # c02 is beaten by c00: the second front
        more = {"space": {"quality": {"grid": qualities}}, "search": "grid", "minimize": "seconds", "top_k": top_k}
        recorder = opened(tmp_path / str(top_k), seconds, **more)
        assert drive(recorder, constant)
        assert selection.best_trials(recorder.state) == expected
    rows = {row["trial"]: row for row in leaderboard(collect_results(recorder))}
    assert [rows[f"c{n:02d}"]["front"] for n in range(5)] == [True, True, False, True, True]
    assert rows["c01"]["seconds_mean"] == pytest.approx(4.0)  # two tasks of two seconds
    write_leaderboard(collect_results(recorder), QUIET)
    assert "| 4.0 ± 0.0 (front) |" in (tmp_path / "5/leaderboard.md").read_text()
    assert "from the Pareto fronts of mean val_average_incremental (best first) and mean seconds" in describe_protocol(
        recorder.state
    )


# Warm start.


def earlier(folder: Path, *overrides: str, runs: dict[float, float] | None = None) -> str:
    """A finished sweep over `quality`; `runs`: quality -> score."""
    runs = runs or {0.2: 0.2, 0.6: 0.9, 0.7: 0.8, 5.0: 0.99}
    space = f"sweep.space={{quality: {{grid: [{','.join(map(str, runs))}]}}}}"
    definition = with_folder(compose([*STANDIN, space, "sweep.search=grid", *overrides]), folder)
    (folder / "runs").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(definition.dump())
    for n, score in enumerate(runs.values()):
        finish(folder / f"runs/p1-c{n:02d}-s100", score)
    return str(folder)


def test_a_warm_start_tries_the_best_first_tells_optuna_all_and_needs_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[TriedConfig], Sequence[TriedConfig]]] = []

    def suggest(
        space: Any, tried: list[TriedConfig], seed: int, earlier: Sequence[TriedConfig], two: bool
    ) -> dict[str, Any]:
        asked.append((tried, earlier))
        return {"quality": len(tried) / 10}

    monkeypatch.setattr(trial_generator, "suggest_config", suggest)
    folder = earlier(tmp_path / "old")
    more: dict[str, Any] = {"space": {"quality": {"uniform": [0, 1]}}, "search": "optuna", "num_samples": 4}
    more |= {"top_k": 2, "warm_start": ["old"]}
    recorder = opened(tmp_path / "s", **more)
    warm_start(recorder)
    shutil.rmtree(folder)
    again = opened(tmp_path / "s", **more)
    warm_start(again)
    assert drive(again, constant, workers=1)
    assert [values["quality"] for values in again.state.configs] == [0.6, 0.7, 0.2, 0.3]
    assert [(one.values["quality"], one.score) for one in asked[0][1]] == [(0.2, 0.2), (0.6, 0.9), (0.7, 0.8)]
    assert [one.values["quality"] for one in asked[0][0]] == [0.6, 0.7]  # only these were tried here
    assert again.state.score(1, 0) == pytest.approx(0.6)  # run again: no score is taken over
    assert "warm start from old: 2 tried first, 3 scores passed to Optuna" in describe_protocol(again.state)


@pytest.mark.parametrize("search", ["random", "grid"])
def test_a_warm_start_reorders_a_list_and_keeps_its_length(tmp_path: Path, search: str) -> None:
    folder = earlier(tmp_path / "old", "sweep.seeds.tuning=[100]")
    space = {"grid": [0.7, 0.1, 0.6]} if search == "grid" else {"uniform": [0, 1]}
    more = {"space": {"quality": space}, "search": search, "num_samples": 3, "top_k": 2, "warm_start": [folder]}
    recorder = opened(tmp_path / "s", **more)
    listed = list(recorder.state.configs)
    warm_start(recorder)
    expected = [0.6, 0.7, 0.1] if search == "grid" else [0.6, 0.7, listed[0]["quality"]]
    assert [values["quality"] for values in recorder.state.configs] == expected
    assert [values["quality"] for values in opened(tmp_path / "s", **more).state.configs] == expected


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            ["sweep.metric=val_macro_over_tasks"],
            "sweep.metric is val_macro_over_tasks there and val_average_incremental here",
        ),
        (["dataset.max_per_class=3"], "dataset.max_per_class is 3 there and null here"),
        (["scenario.classes_per_task=[5,5]"], "scenario.classes_per_task"),
        (["learner=finetune"], "learner._target_ is ccsi.learners"),
    ],
)
def test_a_warm_start_refuses_scores_of_something_else(tmp_path: Path, theirs: list[str], said: str) -> None:
    folder = earlier(tmp_path / "old", *theirs)
    recorder = opened(tmp_path / "s", **grid(99), warm_start=[folder])
    with pytest.raises(UserError) as told:
        warm_start(recorder)
    assert f"sweep.warm_start={folder}: {said}" in str(told.value)
    assert not recorder.journal.path.exists()


def test_a_warm_start_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    def told(folder: str, **more: Any) -> str:
        with pytest.raises(UserError) as error:
            warm_start(opened(tmp_path / "s", **(grid(9) | more), warm_start=[folder]))
        return str(error.value)

    assert "nowhere: there is no sweep.yaml; expected the folder of an earlier sweep" in told("nowhere")
    folder = earlier(tmp_path / "old")
    assert "lies in this sweep's space" in told(folder)
    space = {"training.lr": {"uniform": [0.1, 0.2]}, "quality": {"uniform": [0, 1]}}
    assert "the list of keys in sweep.space is ['quality'] there" in told(folder, space=space, search="random")


def test_a_warm_start_reads_the_journal_where_the_runs_are_gone(tmp_path: Path) -> None:
    folder = Path(earlier(tmp_path / "old", runs={0.3: 0.4, 0.5: 0.6}))
    report = {"run": "p1-c01-s100", "task": 2, "tasks_done": 2, "value": 0.6}
    events = [
        {"trial": "p1-c01", "report": report},
        {"trial": "p1-c01", "end": "done", "error": ""},
    ]  # as of November 2026
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    shutil.rmtree(folder / "runs")
    (folder / "runs").mkdir()
    recorder = opened(tmp_path / "s", **(grid(9) | {"space": {"quality": {"uniform": [0, 1]}}, "search": "random"}),
                  warm_start=[str(folder)])  # fmt: skip
    warm_start(recorder)
    expected = [{"values": {"quality": 0.5}, "score": 0.6, "seconds": None}]
    assert recorder.state.warm_start.trials == expected


def test_many_trials_do_not_slow_the_sweep_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked after every event costs the same at the end of a long sweep as at its beginning."""
    monkeypatch.setattr("ccsi.sweep.journal.os.fsync", lambda descriptor: None)
    recorder = opened(tmp_path / "s", **(grid(500) | {"top_k": 3}))
    looked, status = 0, SweepState.run_status

    def counted(self: SweepState, run: RunId) -> Status:
        nonlocal looked
        looked += 1
        return status(self, run)

    monkeypatch.setattr(SweepState, "run_status", counted)
    for n in range(500):
        recorder.record(TrialStarted(n))
        finish_run(recorder, f"p1-c{n:02d}-s100", n / 1000)
        recorder.end_job(JobId(1, n), None)
        state = recorder.state
        selection.finalists_known(state), selection.finalists(state), selection.best_trials(state)
    assert selection.best_trials(recorder.state) == [499, 498, 497]
    assert looked < 10 * 500
