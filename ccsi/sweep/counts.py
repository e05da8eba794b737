"""How many runs of a sweep are done and to come, and the time they will take."""

from collections import Counter
from collections.abc import Collection, Mapping
from statistics import fmean

from ccsi.sweep import selection
from ccsi.sweep.events import Status
from ccsi.sweep.runs import OpenRun, read_open_run, run_folders
from ccsi.sweep.state import SweepState


def shown_status(state: SweepState, trial: int, status: Status) -> Status:
    """How tables show a status of a trial: a pruned one waits while it may still be promoted."""
    waits = status is Status.PRUNED and trial in selection.waiting_trials(state)
    return Status.WAITING if waits else status


def open_runs(state: SweepState) -> list[OpenRun]:
    """The runs that were started and have neither finished nor been pruned or failed; none of former finalists."""
    known, finalists = selection.finalists_known(state), selection.finalists(state)
    return [
        read_open_run(run, folder)
        for run, folder in run_folders(state.definition)
        if state.run_status(run) is Status.INCOMPLETE
        and folder.is_dir()
        and (run.phase == 1 or not known or run.trial in finalists)
    ]


def count_runs(state: SweepState, at_work: Collection[OpenRun], phase: int) -> Mapping[str, int]:
    """How many runs of a phase are `done`, `running`, `waiting`, `pruned`, `failed` or `to do`, as far as known."""
    trials = selection.known_trials(state) if phase == 1 else selection.finalists(state)
    runs = [run for trial in trials for run in state.runs(phase, trial)]
    counts = Counter(str(shown_status(state, run.trial, state.run_status(run))) for run in runs)
    running = sum(one.run.phase == phase for one in at_work)
    known = {name: counts[name] for name in ("done", "waiting", "pruned", "failed")}
    per_trial = len(state.runs(phase, 0))
    expected = selection.n_finalists(state) if phase == 2 else len(trials) + selection.n_unsuggested(state)
    return {"running": running, **known, "to do": max(0, per_trial * expected - sum(known.values()) - running)}


def time_left(state: SweepState, at_work: Collection[OpenRun], at_once: int = 0) -> float | None:
    """Seconds, if the runs to come take as long as the finished ones, `at_once` (0: as many as now) at a time.

    None while that is unknown.
    """
    done = state.results.values()
    if not done or not at_work:
        return None
    tasks = max(result.tasks for result in done)
    rest = sum(1 - max(0, (run.task or 1) - 1) / tasks for run in at_work)
    rest += sum(count_runs(state, at_work, phase)["to do"] for phase in (1, 2))
    return fmean(result.seconds for result in done) * max(1.0, rest / (at_once or len(at_work)))
