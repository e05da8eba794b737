"""All trackers of a run as one."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ccsi.tracking.console import Console
from ccsi.tracking.events import Progress, RunStart, TaskEnd, Tracker
from ccsi.tracking.files import Files
from ccsi.tracking.weights_and_biases import WeightsAndBiases


@dataclass
class Trackers:
    """Passes every event on to the console, to W&B and, always, to `files` (which a run cannot do without).

    `watch` is one more, set by who drives the run.
    """

    console: Console = field(default_factory=Console)
    wandb: WeightsAndBiases = field(default_factory=WeightsAndBiases)
    files: Files = field(default_factory=Files, init=False)
    watch: Tracker | None = field(default=None, init=False)

    @property
    def _all(self) -> tuple[Tracker, ...]:
        return self.files, self.wandb, self.console, *([self.watch] if self.watch else [])

    def start(self, run: RunStart) -> None:
        """Before the first step.

        Raises:
            UserError: a tracker cannot work; those already started are closed again.
        """
        with ExitStack() as undo:
            for tracker in self._all:
                undo.callback(tracker.finish, None)  # before start: one that half started is closed too
                tracker.start(run)
            undo.pop_all()

    def progress(self, event: Progress) -> None:
        """At a logging point."""
        for tracker in self._all:
            tracker.progress(event)

    def task_end(self, event: TaskEnd) -> None:
        """After a task."""
        for tracker in self._all:
            tracker.task_end(event)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """At the end; every tracker is finished even if another one fails."""
        with ExitStack() as stack:
            for tracker in reversed(self._all):  # the stack is called last in, first out
                stack.callback(tracker.finish, result)


@dataclass
class NullTrackers(Trackers):
    """Tells nobody: for all workers of a run but the one that leads."""

    @property
    def _all(self) -> tuple[Tracker, ...]:
        return ()
