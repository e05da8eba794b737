"""Where a sweep stands, from its files alone; neither Ray nor PyTorch is imported, and nothing is written."""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ccsi.errors import UserError
from ccsi.io.locks import is_locked
from ccsi.sweep import selection
from ccsi.sweep.counts import count_runs, open_runs, time_left
from ccsi.sweep.events import RunFinished
from ccsi.sweep.journal import Journal
from ccsi.sweep.processes import NOTE, end_processes, left_over
from ccsi.sweep.progress import plain_table, standings, standings_table
from ccsi.sweep.recorder import reconcile, replay
from ccsi.sweep.resume import read_definition
from ccsi.sweep.runs import OpenRun, describe_failures, finished_runs
from ccsi.sweep.state import SweepState
from ccsi.tracking.console import clock


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as its files show it.

    Attributes:
        has_driver: as far as the file system shows. n_skipped: damaged lines of the journal.
        n_left_over: processes of Ray on this machine whose driver was killed.
        unread: for each result that is there and cannot be read, why.
    """

    state: SweepState
    has_driver: bool
    open_runs: list[OpenRun]
    n_skipped: int
    n_left_over: int = 0
    unread: tuple[str, ...] = ()


def read_status(folder: Path) -> SweepStatus:
    """The sweep in `folder`. A result that cannot be read counts as absent: another machine may be writing it."""
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
    unread = list[str]()
    for event in reconcile(state, finished_runs(definition, unread)):
        if definition.sweep.storage is None or isinstance(event, RunFinished):  # results may lie at the storage alone
            state.apply(event)
    has_driver = is_locked(folder / ".lock")
    n_left_over = 0 if has_driver else len(left_over(folder))
    return SweepStatus(state, has_driver, open_runs(state), journal.n_skipped, n_left_over, tuple(unread))


def end_left_over(folder: Path, console: Console) -> None:
    """End the processes of Ray that a killed driver of the sweep in `folder` left on this machine."""
    ended = end_processes(left_over(folder))
    if not is_locked(folder / ".lock"):  # otherwise a new driver's
        (folder / NOTE).unlink(missing_ok=True)
    console.print(f"{ended} processes of Ray ended." if ended else "No process of Ray is left here.")


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
        counts = {**count_runs(state, status.open_runs, phase)}
        counts[running] = counts.pop("running")
        order = ("done", running, "waiting", "pruned", "failed", "to do")
        say(f"phase {phase}  runs: " + ", ".join(f"{counts[k]} {k}" for k in order if counts[k] or k == "done"))
    if definition.sweep.storage is not None and not done:
        say(f"runs are kept at {definition.sweep.storage}: those at work are not seen from here and count as to do")
    if working and (left := time_left(state, status.open_runs)) is not None:
        say(f"about {clock(left)} left")
    if status.open_runs:
        heads = (running, "task", "phase", "step", "last sign of life")
        rows = [(str(r.run), str(r.task or "-"), r.phase, r.step, f"{clock(r.age)} ago") for r in status.open_runs]
        console.print(plain_table(heads, rows, left=(running, "phase", "last sign of life")))
    if board := standings(state, {one.run.job for one in status.open_runs if working}):
        console.print(standings_table(board, definition.sweep.metric))
    for line in describe_failures(state):
        say(line)
    for line in status.unread:
        say(f"counted as not done: {line}")
    if status.n_left_over:
        say(
            f"{status.n_left_over} processes of Ray are left of a driver that was killed; they end within a minute, "
            f"or now: ccsi status {definition.folder} --end"
        )
    if status.n_skipped:
        say(f"journal.jsonl: {status.n_skipped} damaged lines skipped")
