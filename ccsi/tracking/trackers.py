"""All trackers of a run as one."""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ccsi.io.text import first_line, printable, warn
from ccsi.tracking.console import Console, show_result
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
        self._started: list[Tracker] = []

    @property
    def shows_time(self) -> bool:
        """Whether a tracker shows the time that is left, which is then worth a measurement."""
        return self.enabled and any(getattr(tracker, "shows_time", False) for tracker in self.named.values())

    def start(self, run: RunStart) -> None:
        """Start all; if one cannot work, those that have started are finished again, this one too."""
        try:
            for tracker in [self.files, *self.named.values(), self.watch] if self.enabled else []:
                if tracker is not None:
                    self._started.append(tracker)  # first: one that half started is finished too
                    tracker.start(run)
        except BaseException:
            self.finish(None)
            raise

    def show_finished(self, result: Mapping[str, Any], folder: Path) -> None:
        """Show the figures of a run that an earlier call finished, on the consoles only."""
        for tracker in self.named.values() if self.enabled else ():
            if isinstance(tracker, Console) and not tracker.quiet:
                said = f"{printable(folder)} holds this run, finished: these are its figures; no image was read again."
                print(said, file=sys.stderr)
                show_result(result, folder)

    def progress(self, event: Progress) -> None:
        for tracker in [*self._started]:
            self._call(tracker, tracker.progress, event)

    def task_end(self, event: TaskEnd) -> None:
        for tracker in [*self._started]:
            self._call(tracker, tracker.task_end, event)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Finish every tracker that has started, once, even if another one fails."""
        started, self._started = self._started, []
        with ExitStack() as stack:
            for tracker in reversed(started):  # the stack is called last in, first out
                stack.callback(self._call, tracker, tracker.finish, result)

    def _call(self, tracker: Tracker, method: Callable[[Any], None], argument: Any) -> None:
        """Call a tracker's method. One of `named` that fails is finished, with a warning, and gets no more events."""
        try:
            method(argument)
        except Exception as error:
            name = next((name for name, own in self.named.items() if own is tracker), None)
            if name is None:  # `files`, or a `watch` (Ray's handles its errors itself)
                raise
            warn(f"tracking.{name} failed ({first_line(error)}); the run continues without it.")
            if tracker in self._started:
                self._started.remove(tracker)
                with suppress(Exception):
                    tracker.finish(None)
