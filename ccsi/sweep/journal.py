"""journal.jsonl: a sweep's events, one JSON line each, synced to disk before the next thing happens."""

import json
import os
from pathlib import Path
from typing import Any

from ccsi.io.atomic import sync_folder
from ccsi.sweep.events import Event, from_record, to_record


class Journal:
    """An append-only file of events; only the sweep's driver writes it.

    A line that a kill, a power cut or a full disk left unfinished is skipped when the file is read, and the next
    line starts on its own. (Optuna's JournalStorage, tried in its place, cannot be read after that.)

    Attributes:
        n_skipped: lines that the last `read` could not understand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_skipped = 0
        self._torn = False

    def read(self) -> list[tuple[Event, float | None]]:
        """All events, oldest first, each with the seconds the sweep had been at work (None: not noted)."""
        self.n_skipped = 0
        if not self.path.exists():
            return []
        events, text = list[tuple[Event, float | None]](), self.path.read_text(errors="replace")
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                record: Any = json.loads(line)
                events.append((from_record(record), record.get("clock")))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.n_skipped += bool(line.strip())
        return events

    def append(self, event: Event, clock: float, *more: Event) -> None:
        """Write an event, and `more` that happened at once; all are on disk when this returns.

        Args:
            clock: seconds the sweep has been at work.

        Raises:
            OSError: the disk is full, or gone.
        """
        lines = [json.dumps(to_record(one) | {"clock": round(clock, 1)}) + "\n" for one in (event, *more)]
        text, self._torn, is_new = "\n" * self._torn + "".join(lines), True, not self.path.exists()
        with self.path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self.path.parent)
        self._torn = False
