"""The only writer of a sweep's journal: each event goes to the journal, then to the state, then to the remote copy."""

import contextlib
import time
from collections.abc import Mapping

from ccsi.sweep import events
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import Event, JobId, RunFinished, RunId, Status
from ccsi.sweep.journal import Journal
from ccsi.sweep.remote import Remote
from ccsi.sweep.runs import traceback_file
from ccsi.sweep.state import SweepState


class SweepInterruptedError(Exception):
    """A sweep stopped early, through no fault of its configuration; what is done is on disk."""


class SweepRecorder:
    """A sweep's state, which changes as events are recorded.

    Attributes:
        running: jobs that are at work now. stopping: jobs that are being stopped, with the reason.
        error: why an event could not be written. remote: where the runs are kept, if not in this folder.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.remote: Remote | None = None
        self.journal = Journal(definition.folder / "journal.jsonl")
        self.running: set[JobId] = set()
        self.stopping: dict[JobId, str] = {}
        self.error: OSError | None = None
        self._state = replay(definition, self.journal)
        self._started: float | None = None
        self._spent = self._state.clock

    @property
    def state(self) -> SweepState:
        """The state as of now: its clock runs while a driver is at work."""
        self._state.clock = self.clock()
        return self._state

    def clock(self) -> float:
        """Seconds the sweep has been at work, over all starts."""
        return self._spent + (0.0 if self._started is None else time.monotonic() - self._started)

    def record(self, event: Event, *more: Event) -> None:
        """Add an event, and `more` that happened at once; if OSError is raised, the state is as before."""
        clock = self.clock()
        try:
            self.journal.append(event, clock, *more)
        except OSError as error:
            self.error = error
            raise
        for one in (event, *more):
            self._state.apply(one, clock)
        if self.remote is not None and isinstance(event, events.ConfigSuggested):  # before any of its runs is there
            self.remote.push(self.definition.folder, "sweep", leave=("runs", "ray"))

    def start(self, results: Mapping[RunId, RunFinished]) -> None:
        """A driver starts: the clock runs, and the journal gets what it lacks of the `results` in the run folders."""
        self._started = time.monotonic()
        self.record(events.DriverStarted(), *reconcile(self._state, results))
        for job in sorted({run.job for run in self._state.results}):
            end = self._state.ends.get(job)
            if self._state.is_finished(job) and (end is None or end.status is not Status.DONE):
                self.record(events.JobEnded(job, Status.DONE))
        for job in sorted(self._state.to_prune):  # the last driver died before it could stop them
            self.record(events.JobEnded(job, Status.PRUNED, self._state.pruned_by_scheduler))

    @property
    def is_extended(self) -> bool:
        """Whether the definition goes further than the journal; see `extend`."""
        return self.definition.extent != self._state.definition.extent

    def extend(self) -> None:
        """Record that the sweep goes further, if it does, once Ray runs: until then a mistyped number can be corrected.

        A kill before it leaves the sweep as it was, and the next start extends it.
        """
        if self.is_extended:
            self.record(self.definition.extent)

    def stop(self) -> None:
        """The driver stops; so does the clock."""
        if self._started is not None:
            self.record(events.DriverStopped())
            self._spent, self._started = self.clock(), None

    def report(self, event: events.TaskReported, end: RunFinished | None = None) -> None:
        """Record that a run has learned a task, and with its last one its end; once, even if it reports again."""
        reported = [one.task for one in self._state.reports.get(event.run.job, []) if one.run == event.run]
        new: list[Event] = [] if reported[-1:] == [event.task] else [event]
        if end is not None and self._state.results.get(end.run) != end:
            new.append(end)
        if new:
            self.record(*new)

    def end_job(self, job: JobId, error: str | None, traceback: str = "") -> None:
        """Record that a job ended by itself, was stopped (see `stopping`), or failed with `error`."""
        self.running.discard(job)
        path = traceback_file(self.definition, job)
        with contextlib.suppress(OSError):  # the journal raises for a full disk, too
            if traceback:
                path.write_text(traceback, encoding="utf-8", errors="backslashreplace")
            else:
                path.unlink(missing_ok=True)
        status, reason = Status.FAILED, error or "the trial ended without a result"
        if not error and self._state.is_finished(job):
            status, reason = Status.DONE, ""
        elif not error and self.stopping.get(job):
            status, reason = Status.PRUNED, self.stopping[job]
        self.record(events.JobEnded(job, status, reason))
        self.stopping.pop(job, None)

    def sync(self) -> None:
        """Copy the sweep's own files to the remote storage, from where another machine can resume (resume=URL)."""
        if self.remote is not None:
            self.remote.renew()
            with contextlib.suppress(OSError):  # the next time, then
                self.remote.push(self.definition.folder, "sweep", leave=("runs", "ray"))


def replay(definition: Definition, journal: Journal) -> SweepState:
    """The state that a journal describes; damaged events are skipped and counted, a missing config is a UserError."""
    state = SweepState(definition)
    for event, clock in journal.read():
        try:
            check_fits(state, event)
            state.apply(event, clock)
        except (KeyError, IndexError, ValueError, TypeError, AssertionError, OverflowError):
            journal.n_skipped += 1
    return state


def check_fits(state: SweepState, event: Event) -> None:
    """Raise ValueError or IndexError for an event of a trial that is not there, and for a config of other keys."""
    if isinstance(event, events.ConfigSuggested):
        if event.config.keys() != {dimension.key for dimension in state.definition.space}:
            raise ValueError("the config has other keys than sweep.space")
        return
    trial = getattr(getattr(event, "run", None) or getattr(event, "job", None) or event, "trial", None)
    if trial is not None and trial >= len(state.configs):
        raise IndexError(f"there is no trial {trial}")


def reconcile(state: SweepState, results: Mapping[RunId, RunFinished]) -> list[Event]:
    """The events that bring a state up to date with the `results` in the run folders, which count.

    A run may have ended while no driver listened; an older journal has no ends of runs at all.
    """
    found: list[Event] = [event for run, event in results.items() if state.results.get(run) != event]
    return found + [events.RunLost(run) for run in state.results if run not in results]
