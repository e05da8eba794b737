"""Where a sweep stands, from its files alone; neither Ray nor PyTorch is imported, and nothing is written."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console

from ccsi.errors import UserError
from ccsi.io.locks import is_locked
from ccsi.sweep import selection
from ccsi.sweep.events import RunFinished, Status
from ccsi.sweep.journal import Journal
from ccsi.sweep.processes import NOTE, end_processes, left_over
from ccsi.sweep.progress import plain_table, shown_status, standings, standings_table
from ccsi.sweep.recorder import reconcile, replay
from ccsi.sweep.resume import read_definition
from ccsi.sweep.runs import OpenRun, describe_failures, finished_runs, read_open_run, run_folders
from ccsi.sweep.state import SweepState
from ccsi.tracking.console import clock


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as its files show it.

    Attributes:
        has_driver: as far as the file system shows. n_skipped: damaged lines of the journal.
        n_left_over: processes of Ray on this machine whose driver was killed.
    """

    state: SweepState
    has_driver: bool
    open_runs: list[OpenRun]
    n_skipped: int
    n_left_over: int = 0


def read_status(folder: Path) -> SweepStatus:
    """The sweep in `folder`. A result that cannot be read counts as absent, because it may be half written."""
    try:
        os.stat(folder / "sweep.yaml")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        problem = "holds no sweep.yaml; expected the folder of a sweep, e.g. sweeps/NAME."
        raise UserError(f"{folder} {problem}") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}).") from error
    definition = read_definition(folder, check=False, key="folder")
    journal = Journal(folder / "journal.jsonl")
    state = replay(definition, journal)
    for event in reconcile(state, finished_runs(definition, damaged_as_absent=True)):
        if definition.sweep.storage is None or isinstance(event, RunFinished):  # results may lie at the storage alone
            state.apply(event)
    has_driver = is_locked(folder / ".lock")
    n_left_over = 0 if has_driver else len(left_over(folder))
    return SweepStatus(state, has_driver, open_runs(state), journal.n_skipped, n_left_over)


def end_left_over(folder: Path, console: Console) -> None:
    """End the processes of Ray that a killed driver of the sweep in `folder` left on this machine."""
    ended = end_processes(left_over(folder))
    if not is_locked(folder / ".lock"):  # otherwise a new driver's
        (folder / NOTE).unlink(missing_ok=True)
    console.print(f"{ended} processes of Ray ended." if ended else "No process of Ray is left here.")


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


def count_runs(status: SweepStatus, phase: int) -> Mapping[str, int]:
    """How many runs of a phase are `done`, `running`, `waiting`, `pruned`, `failed` or `to do`, as far as known."""
    state = status.state
    trials = selection.known_trials(state) if phase == 1 else selection.finalists(state)
    runs = [run for trial in trials for run in state.runs(phase, trial)]
    counts = Counter(str(shown_status(state, run.trial, state.run_status(run))) for run in runs)
    running = sum(one.run.phase == phase for one in status.open_runs)
    known = {name: counts[name] for name in ("done", "waiting", "pruned", "failed")}
    per_trial = len(state.runs(phase, 0))
    expected = selection.n_finalists(state) if phase == 2 else len(trials) + selection.n_unsuggested(state)
    return {"running": running, **known, "to do": max(0, per_trial * expected - sum(known.values()) - running)}


def time_left(status: SweepStatus) -> float | None:
    """Seconds, if the runs to come take as long as the finished ones, as many at a time as now; None: unknown."""
    done = status.state.results.values()
    if not done or not status.open_runs:
        return None
    tasks = max(result.tasks for result in done)
    rest = sum(1 - max(0, (run.task or 1) - 1) / tasks for run in status.open_runs)
    rest += sum(count_runs(status, phase)["to do"] for phase in (1, 2))
    return fmean(result.seconds for result in done) * max(1.0, rest / len(status.open_runs))


def print_status(status: SweepStatus, console: Console) -> None:
    """Print it all."""
    state, definition, working = status.state, status.state.definition, status.has_driver

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    done, running = selection.is_complete(state), "running" if working else "interrupted"
    stage = "done" if done else "phase 2" if selection.finalists_known(state) else "phase 1"
    driver = "a driver works on it" if working else "no driver" if done else "no driver: ccsi sweep resume=<folder>"
    say(f"Sweep {definition.name} in {definition.folder}: {stage}, {driver}")
    for phase in (1, 2):
        counts = {**count_runs(status, phase)}
        counts[running] = counts.pop("running")
        order = ("done", running, "waiting", "pruned", "failed", "to do")
        say(f"phase {phase}  runs: " + ", ".join(f"{counts[k]} {k}" for k in order if counts[k] or k == "done"))
    if definition.sweep.storage is not None and not done:
        say(f"runs are kept at {definition.sweep.storage}: those at work are not seen from here and count as to do")
    if working and (left := time_left(status)) is not None:
        say(f"about {clock(left)} left")
    if status.open_runs:
        heads = (running, "task", "phase", "step", "last sign of life")
        rows = [(str(r.run), str(r.task or "-"), r.phase, r.step, f"{clock(r.age)} ago") for r in status.open_runs]
        console.print(plain_table(heads, rows, left=(running, "phase", "last sign of life")))
    if board := standings(state, {one.run.job for one in status.open_runs if working}):
        console.print(standings_table(board, definition.sweep.metric))
    for line in describe_failures(state):
        say(line)
    if status.n_left_over:
        say(
            f"{status.n_left_over} processes of Ray are left of a driver that was killed; they end within a minute, "
            f"or now: ccsi status {definition.folder} --end"
        )
    if status.n_skipped:
        say(f"journal.jsonl: {status.n_skipped} damaged lines skipped")
