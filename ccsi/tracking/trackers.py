"""All trackers of a run as one."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ccsi.tracking.events import Progress, RunStart, TaskEnd, Tracker
from ccsi.tracking.files import Files


class Trackers:
    """Passes every event on to each tracker, and always to `files`, which a run cannot do without.

    A tracker of your own is a class (see `Tracker`) and a file that names it, `tracking/mine.yaml`:

        defaults: [default, _self_]
        mine:
          _target_: my_module.MyTracker

    Args:
        trackers: by name; the names are the keys under `tracking`.

    Attributes:
        watch: one more, set by the function that drives the run.
    """

    def __init__(self, **trackers: Tracker) -> None:
        self.named, self.files = trackers, Files()
        self.watch: Tracker | None = None

    @property
    def _all(self) -> tuple[Tracker, ...]:
        return self.files, *self.named.values(), *([self.watch] if self.watch else [])

    def start(self, run: RunStart) -> None:
        """Start all; if one cannot work, those already started are closed again."""
        with ExitStack() as undo:
            for tracker in self._all:
                undo.callback(tracker.finish, None)  # before start: one that half started is closed too
                tracker.start(run)
            undo.pop_all()

    def progress(self, event: Progress) -> None:
        for tracker in self._all:
            tracker.progress(event)

    def task_end(self, event: TaskEnd) -> None:
        for tracker in self._all:
            tracker.task_end(event)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Finish every tracker, even if another one fails."""
        with ExitStack() as stack:
            for tracker in reversed(self._all):  # the stack is called last in, first out
                stack.callback(tracker.finish, result)


class NullTrackers(Trackers):
    """Drops every event: for the workers of a run that are not the main one."""

    @property
    def _all(self) -> tuple[Tracker, ...]:
        return ()
