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
        trackers: by their keys under `tracking`.

    Attributes:
        watch: one more, set by a run. enabled: false in workers that are not the main one; events are dropped.
    """

    def __init__(self, **trackers: Tracker) -> None:
        self.named, self.files = trackers, Files()
        self.watch: Tracker | None = None
        self.enabled = True

    @property
    def _all(self) -> list[Tracker]:
        trackers = [self.files, *self.named.values(), self.watch] if self.enabled else []
        return [tracker for tracker in trackers if tracker is not None]

    def start(self, run: RunStart) -> None:
        """Start all; if one cannot work, all are closed again, those that have not started too."""
        try:
            for tracker in self._all:
                tracker.start(run)
        except BaseException:
            self.finish(None)
            raise

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
