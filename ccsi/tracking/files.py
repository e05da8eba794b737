"""metrics.jsonl: one JSON object a line, which survives a kill and can be cut back to a checkpoint."""

import json
import os
from collections.abc import Mapping
from typing import Any, TextIO

from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.files import read_bytes
from ccsi.io.run_files import finite
from ccsi.tracking.events import Progress, RunStart, TaskEnd

NAME = "metrics.jsonl"


class Files:
    """Appends every event to `metrics.jsonl` in the run's folder.

    A logging point is {"task", "phase", "step", "steps", metrics…}, a task's end {"task", "phase":
    "task_end", figures…, "stored"}; `task` is 1-based, as in `impressions/task<k>.npz`. What is not finite is null.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._lines = 0

    @property
    def lines(self) -> int:
        """How many lines are safely on disk: what a checkpoint stores, to come back as `RunStart.resumed_at`."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self._lines

    def start(self, run: RunStart) -> None:
        """Keep the first `run.resumed_at` lines of an existing file (UserError if it has fewer); append from there."""
        path, self._lines = run.folder / NAME, run.resumed_at
        try:
            kept = read_bytes(path).splitlines(keepends=True)[: run.resumed_at]
        except FileNotFoundError:
            kept = []
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); expected the file as the run left it."
            ) from error
        complete = sum(line.endswith(b"\n") for line in kept)
        if complete < run.resumed_at:
            raise UserError(
                f"{path} holds {complete} whole lines, but the checkpoint was made after {run.resumed_at}; "
                "expected the file as the run left it: put it back, or start anew with another run_dir."
            )
        with replacing(path) as file:
            file.writelines(kept)
        self._file = path.open("a", buffering=1, encoding="utf-8")  # line-buffered: a kill loses no whole line

    def progress(self, event: Progress) -> None:
        where = {"task": event.task + 1, "phase": event.phase, "step": event.step, "steps": event.steps}
        self._write({**where, **event.metrics})

    def task_end(self, event: TaskEnd) -> None:
        more = {"left": event.left, "stored": [*event.stored]}
        self._write({"task": event.task + 1, "phase": "task_end", **event.figures, **more})

    def finish(self, result: Mapping[str, Any] | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("Files.start was not called")
        self._file.write(json.dumps(finite(record), allow_nan=False) + "\n")
        self._lines += 1
