"""A sweep that is resumed with more samples, finalists or reporting seeds: what was run stays, only the rest is run."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ray")
import driver
from commands import sweep
from driver import drive, finish
from rich.console import Console

from ccsi.errors import UserError
from ccsi.report.sweep import read_rows, reporting_curves
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.counts import count_runs, open_runs
from ccsi.sweep.definition import Definition
from ccsi.sweep.driver import write_tables
from ccsi.sweep.events import JobId, RunId, SweepExtended, from_record, to_record
from ccsi.sweep.folder import prepare_folder
from ccsi.sweep.plan import describe_plan
from ccsi.sweep.progress import progress_line, standings
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.report import report_sweep
from ccsi.sweep.resume import extended_to, read_definition, resumed, with_folder
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.leaderboard import describe_protocol, leaderboard
from ccsi.sweep.tables.rows import collect_results, trial_rows

pytestmark = pytest.mark.usefixtures("workplace")
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=1.0", "+tasks=2", "+fault=none"]
UNIFORM = {"quality": {"uniform": [0.0, 0.9]}}


@cache
def composed() -> Definition:
    return compose([*STANDIN, "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0,1]"])


def opened(folder: Path, then: dict[str, Any] | None = None, **changes: Any) -> SweepRecorder:
    """A sweep in `folder`, its definition in sweep.yaml. changes: of `sweep`. then: what it is extended to."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    definition = with_folder(replace(composed(), sweep=replace(composed().sweep, **changes)), folder)
    if then is not None:
        definition = extended_to(definition, SweepExtended(**vars(definition.extent) | then))

    def run_config(values: dict[str, Any], phase: int, seed: int, run_dir: Path) -> dict[str, Any]:
        return values | {"seed": seed, "run_dir": str(run_dir), "wait": 5.0 if values.get("quality") == 0.1 else 1.0}

    (folder / "sweep.yaml").write_text(definition.dump())
    object.__setattr__(definition, "run_config", run_config)  # whole ones take 12 ms each to put together
    return SweepRecorder(definition)


class Learner:
    """Made-up accuracies after four tasks; `asked`: the names of the runs that were started."""

    def __init__(self) -> None:
        self.asked = list[str]()

    def __call__(self, config: dict[str, Any], phase: int) -> Sequence[float]:
        self.asked.append(Path(config["run_dir"]).name)
        quality = config["quality"] if "quality" in config else config["learner"].count("a") / 10
        return [min(1.0, quality + config["seed"] / 10000 + task / 100) for task in range(4)]


def outcome(recorder: SweepRecorder) -> list[tuple[dict[str, Any], list[float], list[float]]]:
    """The finalists' configs, best first, with their scores in both phases."""
    state = recorder.state
    assert selection.is_complete(state)
    return [(state.configs[n], state.scores(1, n), state.scores(2, n)) for n in selection.finalists(state)]


@settings(max_examples=100 if os.environ.get("CCSI_TEST_SLOW") else 5)
@given(
    first=st.integers(1, 6), more=st.integers(1, 6), seeds=st.integers(0, 2), kill=st.integers(1, 60),
    seed=st.integers(0, 99), workers=st.integers(1, 3),
)  # fmt: skip
def test_an_extended_sweep_comes_to_what_a_larger_one_comes_to(
    tmp_path_factory: pytest.TempPathFactory, first: int, more: int, seeds: int, kill: int, seed: int, workers: int
) -> None:
    folder = tmp_path_factory.mktemp("extended")
    fixed: dict[str, Any] = {"space": UNIFORM, "search": "random", "scheduler": "none", "top_k": 2, "seed": seed}
    grown = {"num_samples": first + more, "reporting": [0, 1, 2, 3][: 2 + seeds]}
    learner = Learner()
    drive(opened(folder / "s", num_samples=first, **fixed), learner, workers, events_left=kill)  # killed, or finished
    before = set(opened(folder / "s", num_samples=first, **fixed).state.results)
    n_asked = len(learner.asked)
    assert drive(opened(folder / "s", then=grown, num_samples=first, **fixed), learner, workers)
    extended = opened(folder / "s", then=grown, num_samples=first, **fixed)
    assert not {str(run) for run in before} & set(learner.asked[n_asked:])  # nothing is run again
    larger = fixed | {"num_samples": first + more}
    reporting = replace(composed().sweep.seeds, reporting=grown["reporting"])
    assert drive(opened(folder / "t", seeds=reporting, **larger), Learner(), workers)
    fresh = opened(folder / "t", seeds=reporting, **larger)
    assert extended.state.configs == fresh.state.configs
    assert outcome(extended) == outcome(fresh)
    assert len(extended.state.extended) == 1


@pytest.mark.parametrize("changes", [{"num_samples": 4}, {"num_samples": 12, "patience": 2}])
def test_only_the_new_reporting_seeds_run_and_the_table_says_so(tmp_path: Path, changes: dict[str, int]) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "top_k": 2, **changes}
    learner = Learner()
    assert drive(opened(tmp_path / "s", **fixed), learner)
    before = opened(tmp_path / "s", **fixed).state
    assert not before.extended and bool(before.exhausted_by()) == ("patience" in changes)
    n_asked = len(learner.asked)
    then = {"reporting": [4, 1, 0]}
    assert drive(opened(tmp_path / "s", then=then, **fixed), learner)
    again = opened(tmp_path / "s", then=then, **fixed)
    finalists = selection.finalists(again.state)
    assert finalists == selection.finalists(before)
    assert sorted(learner.asked[n_asked:]) == sorted(f"p2-c{trial:02d}-s4" for trial in finalists)
    assert again.definition.sweep.seeds.reporting == [0, 1, 4]  # best.yaml keeps its seed
    assert [row["n"] for row in leaderboard(collect_results(again, wait=0.0))] == [3, 3]
    assert "extended from [0, 1] to [0, 1, 4] reporting seeds" in describe_protocol(again.state)


def test_a_larger_top_k_takes_back_trials_that_were_stopped_for_the_smaller(tmp_path: Path) -> None:
    qualities = [0.9, 0.8, 0.1, 0.2]
    fixed: dict[str, Any] = {"space": {"quality": {"grid": qualities}}, "search": "grid", "top_k": 1}
    learner = Learner()
    assert drive(opened(tmp_path / "s", **fixed), learner, workers=4)
    smaller = opened(tmp_path / "s", **fixed)
    assert "pruned" in {row["status"] for row in trial_rows(collect_results(smaller, wait=0.0))}
    assert drive(opened(tmp_path / "s", then={"top_k": 4}, **fixed), learner, workers=4)
    again = opened(tmp_path / "s", then={"top_k": 4}, **fixed)
    assert {row["status"] for row in trial_rows(collect_results(again, wait=0.0))} == {"done"}
    assert [row["trial"] for row in leaderboard(collect_results(again, wait=0.0))] == ["c00", "c01", "c03", "c02"]
    assert "extended from 1 to 4 finalists" in describe_protocol(again.state)


@pytest.mark.parametrize(("scheduler", "promoted"), [("asha", {7}), ("median", set())])
def test_pruned_trials_stay_pruned_unless_asha_promotes_them(
    tmp_path: Path, scheduler: str, promoted: set[int]
) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 8, "top_k": 2, "scheduler": scheduler, "seed": 7}
    assert drive(opened(tmp_path / "s", **fixed), Learner())
    before = opened(tmp_path / "s", **fixed).state
    assert drive(opened(tmp_path / "s", then={"num_samples": 16}, **fixed), Learner())
    after = opened(tmp_path / "s", then={"num_samples": 16}, **fixed).state
    assert selection.is_complete(after) and len(after.started) == 16
    pruned = {job.trial for job, end in before.ends.items() if end.status == "pruned"}
    assert pruned > promoted
    assert {trial for trial in pruned if after.trial_status(1, trial) == "done"} == promoted
    assert {trial for trial in pruned if after.trial_status(1, trial) == "pruned"} == pruned - promoted
    if scheduler == "asha":  # c07 is third after two tasks: among the best quarter of 16, not of 8
        values = {n: after.reports[JobId(1, n)][1].value for n in range(16)}
        assert sorted(values, key=values.__getitem__)[-3] == 7
    worst = [min(scores_of_finalists(state)) for state in (before, after)]
    assert worst[1] >= worst[0]


def scores_of_finalists(state: SweepState) -> list[float]:
    scores = [state.score(1, trial) for trial in selection.finalists(state)]
    return [score for score in scores if score is not None]


def test_optuna_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 3, "top_k": 1, "search": "optuna"}
    assert drive(opened(tmp_path / "s", **fixed), Learner(), workers=1)
    before = opened(tmp_path / "s", **fixed).state
    assert before.suggestions_complete and len(before.configs) == 3
    assert drive(opened(tmp_path / "s", then={"num_samples": 6}, **fixed), Learner(), workers=1)
    after = opened(tmp_path / "s", then={"num_samples": 6}, **fixed).state
    assert after.configs[:3] == before.configs and len({repr(one) for one in after.configs}) == 6
    assert drive(opened(tmp_path / "t", **fixed | {"num_samples": 6}), Learner(), workers=1)
    assert opened(tmp_path / "t", **fixed | {"num_samples": 6}).state.configs == after.configs


def test_the_arms_of_a_comparison_grow_alike_and_an_arm_of_one_gets_a_phase_1(tmp_path: Path) -> None:
    candidates = {"ccsi": {"quality": {"uniform": [0.0, 0.5]}}, "acil": {"quality": {"uniform": [0.0, 0.5]}}}
    fixed: dict[str, Any] = {"space": {"learner": {"each": candidates}}, "num_samples": 1, "top_k": 1}
    assert drive(opened(tmp_path / "s", **fixed), Learner())
    before = opened(tmp_path / "s", **fixed).state
    assert before.untuned == {0, 1}
    learner = Learner()
    assert drive(opened(tmp_path / "s", then={"num_samples": 3}, **fixed), learner)
    after = opened(tmp_path / "s", then={"num_samples": 3}, **fixed).state
    assert after.configs[:2] == before.configs and after.arms == [[0, 2, 3], [1, 4, 5]] and not after.untuned
    assert {name for name in learner.asked if name.startswith("p1")} == {f"p1-c{n:02d}-s100" for n in range(6)}
    assert drive(opened(tmp_path / "t", **fixed | {"num_samples": 3}), Learner())
    fresh = opened(tmp_path / "t", **fixed | {"num_samples": 3}).state
    assert sorted(map(repr, fresh.configs)) == sorted(map(repr, after.configs))
    assert [fresh.configs[n] for n in selection.finalists(fresh)] == [
        after.configs[n] for n in selection.finalists(after)
    ]


def test_a_larger_top_k_does_not_restart_a_search_that_patience_ended(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 12, "top_k": 1, "patience": 2}
    learner = Learner()
    assert drive(opened(tmp_path / "s", **fixed), learner, workers=1)
    before, n_asked = opened(tmp_path / "s", **fixed).state, len(learner.asked)
    assert drive(opened(tmp_path / "s", then={"top_k": 2}, **fixed), learner, workers=1)
    after = opened(tmp_path / "s", then={"top_k": 2}, **fixed).state
    assert after.started == before.started and after.exhausted_by()
    first, second = selection.finalists(after)
    assert [first] == selection.finalists(before)
    assert {name for name in learner.asked[n_asked:] if name[:2] == "p2"} == {f"p2-c{second:02d}-s{s}" for s in (0, 1)}


def test_patience_counts_anew_in_an_extended_sweep(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 12, "top_k": 1, "patience": 2}
    assert drive(opened(tmp_path / "s", **fixed), Learner(), workers=1)
    before = opened(tmp_path / "s", **fixed).state
    assert before.exhausted_by() and len(before.started) < 12
    assert drive(opened(tmp_path / "s", then={"num_samples": 20}, **fixed), Learner(), workers=1)
    after = opened(tmp_path / "s", then={"num_samples": 20}, **fixed).state
    assert len(before.started) + 2 <= len(after.started) <= 20


def test_a_kill_at_any_byte_of_the_change_leaves_a_sweep_that_is_extended_at_the_next_start(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 3, "top_k": 1}
    folder, then = tmp_path / "s", {"num_samples": 5, "reporting": [0, 1, 2]}
    assert drive(opened(folder, **fixed), Learner())
    journal = (folder / "journal.jsonl").read_bytes()
    recorder = opened(folder, then=then, **fixed)
    recorder.start({}), recorder.extend()  # writes the change
    changed = (folder / "journal.jsonl").read_bytes()
    assert changed.startswith(journal) and b"SweepExtended" in changed
    for cut in range(len(journal), len(changed) + 1, 7):
        (folder / "journal.jsonl").write_bytes(changed[:cut])
        recorder = opened(folder, then=then, **fixed)
        assert len(recorder.state.configs) in (3, 5)
        recorder.start({}), recorder.extend()
        assert len(recorder.state.configs) == 5 and recorder.state.extended == [SweepExtended(3, 1, [0, 1])]
        assert recorder.state.definition.extent == SweepExtended(5, 1, [0, 1, 2])


def test_the_command_line_extends_and_refuses_to_shrink(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    more = ["sweep.num_samples=4", "sweep.seeds.reporting=[0,1,2]", "sweep.top_k=2"]
    made = with_folder(compose([*STANDIN, "sweep.space={quality: {uniform: [0, 1]}}", *more]), folder)
    folder.mkdir()
    prepare_folder(made)
    larger = resumed(folder, ["sweep.num_samples=10", "sweep.seeds.reporting=[0,1,2,3]"])
    assert larger.extent == SweepExtended(10, 2, [0, 1, 2, 3]) and larger.begun == made.extent
    assert "at most 10 trials" in "\n".join(describe_plan(larger))
    prepare_folder(larger)
    assert read_definition(folder) == larger == resumed(folder, [])
    recorder = SweepRecorder(larger)
    recorder.start({}), recorder.extend()
    again = resumed(folder, ["sweep.num_samples=10"])  # the same command again
    assert (again.extent, again.begun) == (larger.extent, larger.begun)
    assert resumed(folder, ["sweep.top_k=3"]).begun == made.extent  # the journal has what lies between
    for typed, problem in (
        ("sweep.num_samples=4", "sweep.num_samples was 10 and is now 4"),
        ("sweep.top_k=1", "sweep.top_k was 2 and is now 1"),
        ("sweep.seeds.reporting=[0,3]", "lacks 1, 2, which the sweep has"),
        ("sweep.seeds.reporting=[0,1,2,3,100]", "share 100"),
        ("sweep.seeds.tuning=[100,101,102]", "one may change .*, and increase sweep.num_samples, sweep.top_k"),
        ("sweep.seed=5", "leave it, or start a new sweep"),
    ):
        with pytest.raises(UserError, match=problem):
            resumed(folder, [typed])
    assert read_definition(folder) == larger


def test_a_journal_holds_any_seed_that_a_sweep_may_have() -> None:
    extended = SweepExtended(10, 2, [0, 5_000_000_000])
    assert from_record(to_record(extended)) == extended


def test_a_mistyped_number_can_be_corrected_until_ray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 4, "top_k": 1}
    folder = tmp_path / "s"
    assert drive(opened(folder, **fixed), Learner())
    typed = ["sweep.num_samples=4", "sweep.top_k=1", "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0,1]"]
    prepare_folder(with_folder(compose([*STANDIN, "sweep.space={quality: {uniform: [0, 0.9]}}", *typed]), folder))

    def interrupted(recorder: SweepRecorder, console: Console) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccsi.sweep.driver.run_phases", interrupted)
    assert sweep([f"resume={folder}", "sweep.num_samples=4000"]) == 130
    assert read_definition(folder).sweep.num_samples == 4000
    corrected = resumed(folder, ["sweep.num_samples=40"])
    assert corrected.extent == SweepExtended(40, 1, [0, 1]) and corrected.begun == SweepExtended(4, 1, [0, 1])
    prepare_folder(corrected)
    recorder = SweepRecorder(read_definition(folder))
    recorder.start(finished_runs(recorder.definition)), recorder.extend()
    assert len(recorder.state.configs) == 40 and recorder.state.extended == [SweepExtended(4, 1, [0, 1])]
    with pytest.raises(UserError, match=r"sweep.num_samples was 40 and is now 39"):
        resumed(folder, ["sweep.num_samples=39"])


@pytest.mark.parametrize(("search", "kind"), [("grid", "grid"), ("random", "grid"), ("random", "choice")])
def test_a_space_without_more_combinations_has_no_more_samples(tmp_path: Path, search: str, kind: str) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    space = [f"sweep.space={{quality: {{{kind}: [0, 1]}}}}", f"sweep.search={search}", "sweep.num_samples=4"]
    prepare_folder(with_folder(compose([*STANDIN, *space]), folder))
    with pytest.raises(UserError, match=r"changes nothing, because sweep.space has no more combinations"):
        resumed(folder, ["sweep.num_samples=100"])


def test_the_report_of_a_search_that_is_not_finished_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 6, "top_k": 2}
    assert not drive(opened(tmp_path / "s", **fixed), Learner(), workers=1, events_left=17)
    assert report_sweep(tmp_path / "s", Console(quiet=True)) == 1
    said = "phase 1 is not finished (4 of 6 trials); resume it with resume="
    assert f"ccsi: nothing to report: {said}{tmp_path}/s, or see runs.csv\n" in capsys.readouterr().err


def test_former_finalists_are_in_no_count_and_no_picture_of_phase_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "finish", with_curve)
    fixed: dict[str, Any] = {"space": UNIFORM, "num_samples": 1, "top_k": 1}
    folder, then = tmp_path / "s", {"num_samples": 8}
    assert drive(opened(folder, **fixed), Learner())
    assert not drive(opened(folder, then=then, **fixed), Learner(), events_left=6)  # killed in phase 1
    state = opened(folder, then=then, **fixed).state
    counts = count_runs(state, open_runs(state), 2)
    assert (counts["done"], counts["to do"]) == (0, 2)
    assert {one.phase for one in standings(state, [])} == {"1"}
    (folder / "runs/p2-c00-s1/result.json").unlink()  # as if it had been interrupted
    assert drive(opened(folder, then=then, **fixed), Learner())
    state = opened(folder, then=then, **fixed).state
    (best,) = selection.finalists(state)
    assert best != 0 and state.results.keys() >= {RunId(2, 0, 0), RunId(2, best, 0)}
    assert open_runs(state) == []
    counts = count_runs(state, [], 2)
    assert counts == {"done": 2} | dict.fromkeys(("running", "waiting", "pruned", "failed", "to do"), 0)
    assert [(one.phase, one.trial) for one in standings(state, [])] == [("2", f"c{best:02d}")]
    assert progress_line(state, [], 2, 2).startswith("2 of 2 done, 0 running, best ")
    assert write_tables(opened(folder, then=then, **fixed), Console(quiet=True)) == 0
    runs = read_rows(folder / "runs.csv")
    assert {run["trial"] for run in runs if run["phase"] == "2"} == {"c00", f"c{best:02d}"}
    assert [curve.name for curve in reporting_curves(folder, runs)] == [f"trial c{best:02d}"]
    assert (folder / "plots/top_trials.png").exists()


def with_curve(folder: Path, val: float, tasks: int = 2, seconds: float = 1.5) -> dict[str, Any]:
    """A finished run whose test accuracies can be drawn."""
    result = finish(folder, val, tasks, seconds, test=val)
    result["test"]["accuracy_after_task"] = [val] * tasks
    (folder / "result.json").write_text(json.dumps(result))
    return result
