"""The command behind `python tune/status.py`: where a sweep stands, from its files alone; Ray and torch stay away."""

import fcntl
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ccsi.errors import UserError
from ccsi.sweep.book import Book, Report
from ccsi.sweep.definition import read
from ccsi.sweep.standings import standings, standings_table, written
from ccsi.sweep.watch import trial_of
from ccsi.tracking.console import clock

HELP = """\
Where a sweep stands, running or not, on whatever machine; nothing is written or stopped.

  python tune/status.py FOLDER            once
  python tune/status.py FOLDER --watch    every 10 seconds, until the sweep is done or Ctrl-C"""
SECONDS_BETWEEN_LOOKS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0 shown, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        folders = [argument for argument in arguments if argument != "--watch"]
        if len(folders) != 1 or folders[0].startswith("-"):
            raise UserError("expected one folder, that of a sweep, and at most --watch beside it; see --help.")
        folder = Path(folders[0]).expanduser().absolute()
        while True:
            book = look(folder)
            if "--watch" in arguments:
                console.clear()
            show(book, console)
            if "--watch" not in arguments or book.complete():
                return 0
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except UserError as error:
        print(f"status: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class Seen(Book):
    """A book that is only looked at: what cannot be read counts as not there, as it may be read halfway written."""

    def result(self, run: str) -> Report | None:
        with suppress(UserError, OSError, AssertionError, KeyError, TypeError):
            found = super().result(run)
            if found is not None and found["seconds"]["total"] >= 0 and found["val"] and found["scenario"]:
                return found
        return None

    def _apply(self, event: dict[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            super()._apply(event)


@dataclass(frozen=True)
class Run:
    """A run that was begun and did not end.

    Attributes:
        task: 1-based; None before the first line of its metrics.jsonl. age: seconds since its newest file was written.
    """

    name: str
    task: int | None
    phase: str
    step: str
    age: float


def look(folder: Path) -> Seen:
    """The sweep in `folder`.

    Raises:
        UserError: there is none, or its sweep.yaml cannot be read.
    """
    if not os.path.isfile(folder / "sweep.yaml"):
        raise UserError(f"{folder} holds no sweep.yaml; expected the folder of a sweep, e.g. sweeps/NAME.")
    book = Seen(read(folder, check=False), Console(quiet=True), forgive=False)
    book.running = {trial_of(run.name) for run in open_runs(book)}
    return book


def driven(folder: Path) -> bool:
    """Whether a sweep process holds the folder, on this machine or, as far as its file system tells, on another.

    The lock is asked for in the shared form and given back at once; a driver that starts in that moment tries twice.
    """
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file: a driver removes it when it ends; or a file system without locks
        pass
    return False


def open_runs(book: Book) -> list[Run]:
    """The runs that were begun and have neither finished nor been given up."""
    found = []
    for path in sorted((book.definition.folder / "runs").glob("p[12]-c*-s*")):
        given_up = book.ends.get(trial_of(path.name), ("", ""))[0] in ("pruned", "failed")
        if not re.fullmatch(r"p[12]-c\d+-s\d+", path.name) or given_up or book.result(path.name) is not None:
            continue
        newest = path.stat().st_mtime
        for file in path.iterdir():
            with suppress(OSError):  # a temporary file, renamed meanwhile
                newest = max(newest, file.stat().st_mtime)
        events = [event for event in written(path) if isinstance(event.get("task"), int)]
        last = events[-1] if events else {}
        step = f"{last['step']}/{last['steps']}" if {"step", "steps"} <= last.keys() else ""
        age = max(0.0, time.time() - newest)
        found.append(Run(path.name, last.get("task"), str(last.get("phase", "")), step, age))
    return found


def counts(book: Book, phase: int) -> dict[str, int]:
    """How many runs of a phase are `done`, `running`, `waiting`, `pruned`, `failed` or `to do`, as far as known."""
    sweep = book.definition.sweep
    seeds = sweep.seeds.tuning if phase == 1 else sweep.seeds.reporting
    settings = book.known() if phase == 1 else sorted({*book.known(), *book.given})
    if phase == 2:
        settings = [n for n in settings if any(book.folder(run).exists() for _, run in book.runs(2, n))]
    waiting = book.waiting() if phase == 1 else set[int]()
    found = [(book.status(phase, n, seed), n in waiting) for n in settings for seed in seeds]
    statuses = ["waiting" if status == "pruned" and waits else status for status, waits in found]
    running = sum(run.name.startswith(f"p{phase}") for run in open_runs(book))
    known = {name: statuses.count(name) for name in ("done", "waiting", "pruned", "failed")}
    planned = len(seeds) * (book.places() if phase == 2 else len(settings) + book.unknown())
    return {"running": running, **known, "to do": max(0, planned - sum(known.values()) - running)}


def time_left(book: Book) -> float | None:
    """Seconds, if the runs to come take as long as those that are done, as many at a time as now; None: no telling."""
    done = [r for path in (book.definition.folder / "runs").glob("p*") if (r := book.result(path.name)) is not None]
    running = open_runs(book)
    if not done or not running:
        return None
    mean = sum(r["seconds"]["total"] for r in done) / len(done)
    tasks = max(len(r["scenario"]["classes_per_task"]) for r in done)
    rest = sum(1 - max(0, (run.task or 1) - 1) / tasks for run in running)
    rest += sum(counts(book, phase)["to do"] for phase in (1, 2))
    return mean * max(1.0, rest / len(running))


def show(book: Book, console: Console) -> None:
    """Print it all."""
    definition, runs, held = book.definition, open_runs(book), driven(book.definition.folder)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    done = book.complete()
    stage = "done" if done else "phase 2" if book.decided() else "phase 1"
    driver = "a driver works on it" if held else "no driver" if done else "no driver: go on with resume=<folder>"
    say(f"Sweep {definition.name} in {definition.folder}: {stage}, {driver}")
    for phase in (1, 2):
        told = counts(book, phase)
        told["running" if held else "broken off"] = told.pop("running")
        order = ("done", "running", "broken off", "waiting", "pruned", "failed", "to do")
        say(f"phase {phase}  runs: " + ", ".join(f"{told[k]} {k}" for k in order if told.get(k) or k == "done"))
    if definition.sweep.storage is not None and not done:
        say(f"runs are kept at {definition.sweep.storage}: those at work are not seen from here and count as to do")
    left = time_left(book)
    if held and left is not None:
        say(f"about {clock(left)} left")
    if runs:
        table = Table(box=None, header_style="dim", pad_edge=False)
        for head in ("running" if held else "broken off", "task", "phase", "step", "last sign of life"):
            table.add_column(head, justify="left" if head not in ("task", "step") else "right")
        for run in runs:
            table.add_row(run.name, str(run.task or "-"), run.phase, run.step, f"{clock(run.age)} ago")
        console.print(Padding(table, (0, 0, 0, 4), expand=False))
    if board := standings(book):
        console.print(standings_table(board, definition.sweep.metric))
