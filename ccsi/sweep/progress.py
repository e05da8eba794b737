"""Where a sweep stands while it runs: a line of counts, and the best trials so far."""

import os
import sys
import time
from collections import Counter, namedtuple
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ccsi.sweep import selection
from ccsi.sweep.counts import open_runs, shown_status, time_left
from ccsi.sweep.events import JobId, RunId, Status, trial_name
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.runs import describe_failures, last_events, run_folder
from ccsi.sweep.state import SweepState
from ccsi.tracking.console import clock, terminal

LINE_SECONDS = 10.0
"""Seconds between two lines, if there is news; without news it is a minute."""
BOARD_SECONDS = 30.0
"""Seconds between two tables of the best trials."""
Standing = namedtuple("Standing", ("phase", "trial", "status", "runs", "tasks", "value", "seconds"))
"""A trial's cells in `standings_table`, as text; value: see `latest_value`."""


def open_console() -> Console:
    """Standard output, as wide as the terminal or COLUMNS says; 120 characters in a log file.

    Text is printed as it is: a path may hold [brackets].
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return terminal(width=width)


def standings(state: SweepState, running: Collection[JobId], n_best: int = 5) -> list[Standing]:
    """The best finalists in phase 2, or trials in phase 1 while finalists are unknown or have not reported.

    They are compared at equal tasks.

    Those with the most tasks done come first, because accuracy falls as classes are added; of those with equally many,
    seed by seed, the one with the best value.
    """
    finalists = selection.finalists(state) if selection.finalists_known(state) else []
    in_phase_2 = any(latest_value(state, state.runs(2, trial)) is not None for trial in finalists)
    phase, trials = (2, finalists) if in_phase_2 else (1, range(len(state.configs)))
    values, tasks = dict[int, float](), dict[int, list[int]]()
    for trial in trials:
        if (value := latest_value(state, state.runs(phase, trial))) is not None:
            values[trial] = value
            tasks[trial] = sorted((tasks_done(state, run) for run in state.runs(phase, trial)), reverse=True)
    order = sorted(values, key=lambda trial: (sum(tasks[trial]), tasks[trial], values[trial]), reverse=True)
    return [_standing(state, running, phase, trial, values[trial]) for trial in order[:n_best]]  # looks into folders


def latest_value(state: SweepState, runs: Iterable[RunId]) -> float | None:
    """The mean metric of runs: of a finished one as in its result, else as last reported; None if none has reported."""
    metric, values = state.definition.sweep.metric.removeprefix("val_"), list[float]()
    for run in runs:
        reports = [report for report in state.reports.get(run.job, []) if report.run == run]
        if run in state.results:
            values.append(state.results[run].val[metric])
        elif reports:  # the first journals have no scores
            values.append(reports[-1].value if reports[-1].score is None else reports[-1].score)
    return fmean(values) if values else None


def _standing(state: SweepState, running: Collection[JobId], phase: int, trial: int, value: float) -> Standing:
    status = shown_status(state, trial, state.trial_status(phase, trial))
    if status is Status.INCOMPLETE and any(job in running for job in state.jobs(phase, trial)):
        status = Status.RUNNING
    runs, done, tasks, seconds = state.runs(phase, trial), 0, 0, 0.0
    for run in runs:
        tasks += tasks_done(state, run)
        if run in state.results:
            done, seconds = done + 1, seconds + state.results[run].seconds
            continue
        written = last_events(run_folder(state.definition, run))
        seconds += next((s for event in reversed(written) if isinstance(s := event.get("seconds"), float)), 0.0)
    key = state.definition.compared
    name = trial_name(trial) + (f" {state.configs[trial][key]}" if key else "")
    return Standing(str(phase), name, str(status), f"{done}/{len(runs)}", str(tasks), f"{value:.3f}", f"{seconds:.0f}")


def tasks_done(state: SweepState, run: RunId) -> int:
    """How many tasks a run has learned; all of them once it is finished, even if the last report was lost in a kill."""
    if run in state.results:
        return state.results[run].tasks
    return max((report.task for report in state.reports.get(run.job, []) if report.run == run), default=0)


def standings_table(rows: Sequence[Standing], metric: str) -> Padding:
    """The table of `standings`."""
    heads = ("phase", "trial", "status", "runs", "tasks", metric.replace("_", " "), "seconds")
    return plain_table(heads, rows, left=("trial", "status"))


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str]) -> Padding:
    """A few plain lines, the same in a terminal and in a log file. left: heads of columns that are text."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 4), expand=False)


class ProgressPrinter:
    """Prints where a sweep stands, as often as there is news."""

    def __init__(self, recorder: SweepRecorder, console: Console) -> None:
        self.recorder, self.console = recorder, console
        self._phase = self._n_jobs = self._at_once = 0
        self._phase_began = self._line_at = 0.0
        self._line = ""
        self._board_at, self._board = time.monotonic(), list[Standing]()

    def start_phase(self, phase: int, n_jobs: int) -> None:
        """A phase starts; some of its jobs may have ended before."""
        self._phase, self._n_jobs = phase, n_jobs
        self._phase_began, self._line_at = time.monotonic(), 0.0
        self.tick()

    def job_started(self) -> None:
        """Print at once that a phase has really started."""
        if self._line.endswith(" 0 running"):
            self._line_at = 0.0

    def job_ended(self, job: JobId) -> None:
        """Print at once why a job failed, if it did."""
        for line in describe_failures(self.recorder.state, [job]):
            self.console.print(line, soft_wrap=True)

    def tick(self) -> None:
        """Print a line, and the best trials, if it is time for them."""
        now, state = time.monotonic(), self.recorder.state
        if now - self._board_at >= BOARD_SECONDS:
            self._board_at, board = now, standings(state, self.recorder.running)
            if board != self._board:
                self.console.print(standings_table(board, self.recorder.definition.sweep.metric))
                self._board = board
        if not self._n_jobs or now - self._line_at < LINE_SECONDS:
            return
        line = progress_line(state, self.recorder.running, self._phase, self._n_jobs)
        if line != self._line or now - self._line_at > 60:
            minutes, seconds = divmod(int(now - self._phase_began), 60)
            line_start = f"phase {self._phase}  {minutes:2d}:{seconds:02d}"
            self._at_once = max(self._at_once, len(self.recorder.running))  # now and then one is just starting
            left = time_left(state, open_runs(state), self._at_once)  # of the whole sweep
            rest = "" if left is None else f", {clock(left)} left"
            self.console.print(f"{line_start}  {line}{rest}", soft_wrap=True)
            self._line_at, self._line = now, line


def progress_line(state: SweepState, running: Collection[JobId], phase: int, n_jobs: int) -> str:
    """`3 of 6 done, 1 running, best 0.945 (p2-c05-s1)`; what pruned and failed is counted where there is any.

    Former finalists of an extended sweep are not counted in phase 2.
    """
    finalists = selection.finalists(state)
    ends = {
        job: end for job, end in state.ends.items() if job.phase == phase and (phase == 1 or job.trial in finalists)
    }
    ended = {job: shown_status(state, job.trial, end.status) for job, end in ends.items()}
    counts = Counter(status for job, status in ended.items() if job not in running)
    width = 80 - len("phase 1  9999:59  , 99:59:59 left")  # of a terminal in which the whole line must not wrap
    parts = [f"{counts[Status.DONE]} of {n_jobs} done", f"{len(running)} running"]
    parts += [f"{counts[one]} {one}" for one in (Status.WAITING, Status.PRUNED, Status.FAILED) if counts[one]]
    done = [job for job, status in ended.items() if status is Status.DONE]
    values = {job: value for job in done if (value := latest_value(state, state.runs_of(job))) is not None}
    if values:
        best = max(values, key=values.__getitem__)
        parts.append(f"best {values[best]:.3f} ({best})")
        if len(", ".join(parts)) > width:
            parts[-1] = f"best {values[best]:.3f}"
    while len(", ".join(parts)) > width:
        parts.pop()
    return ", ".join(parts)
