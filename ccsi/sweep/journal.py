"""journal.jsonl: a sweep's events, one JSON line each, synced to disk before the next thing happens."""

import json
import math
import os
from pathlib import Path
from typing import Any

from ccsi.config import current_names
from ccsi.errors import UserError
from ccsi.io.atomic import sync_folder
from ccsi.io.files import read_text
from ccsi.sweep.events import Event, from_record, to_record


class Journal:
    """An append-only file of events; only the sweep's driver writes it.

    A line that a kill, a power cut or a full disk left unfinished is skipped when the file is read (`n_skipped` counts
    them), and the next line starts on its own. (Optuna's JournalStorage cannot be read after that.)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_skipped = 0
        self._torn = False

    def read(self) -> list[tuple[Event, float | None]]:
        """All events, oldest first, each with the seconds the sweep had been at work (None: not noted).

        Raises UserError if the file is there and cannot be read.
        """
        try:
            text = current_names(read_text(self.path, errors="replace"))
        except (FileNotFoundError, NotADirectoryError):
            text = ""
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}); put back the journal.") from error
        self._torn, self.n_skipped = bool(text) and not text.endswith("\n"), 0
        events = list[tuple[Event, float | None]]()
        for line in text.splitlines():
            try:
                record: Any = json.loads(line)
                clock = record.get("clock")
                if not (clock is None or (type(clock) in (int, float) and 0 <= clock < math.inf)):
                    raise ValueError("no time")
                events.append((from_record(record), clock))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                self.n_skipped += bool(line.strip())
        return events

    def append(self, event: Event, clock: float, *more: Event) -> None:
        """Write an event, and `more` that happened at once, after `clock` seconds of work; then all are on disk."""
        lines = [json.dumps(to_record(one) | {"clock": round(clock, 1)}) + "\n" for one in (event, *more)]
        text, self._torn, is_new = "\n" * self._torn + "".join(lines), True, not self.path.exists()
        with self.path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self.path.parent)
        self._torn = False
