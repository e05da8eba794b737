"""How the settings of a sweep stand while it runs: the leaderboard so far."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table

from ccsi.tracking.files import NAME as METRICS

if TYPE_CHECKING:
    from ccsi.sweep.book import Book


@dataclass(frozen=True)
class Standing:
    """A setting in one phase.

    Attributes:
        status: `done`, `pruned`, `waiting` (stopped by ASHA, and may go on), `failed`, `running` or `incomplete`.
        seeds_done: of `seeds`. tasks_done: over all its seeds.
        value: the sweep's metric as last reported, mean over seeds. seconds: spent so far, as far as written down.
    """

    phase: int
    setting: str
    status: str
    seeds_done: int
    seeds: int
    tasks_done: int
    value: float
    seconds: float


def standings(book: "Book", most: int = 5) -> list[Standing]:
    """The best settings of phase 2, or while it has told nothing of phase 1, by what they reported last; best first."""
    phase = 2 if any(trial.startswith("p2") for trial in book.reports) else 1
    values = {}
    for n in range(len(book.settings)):
        told = [book.reports[trial][-1]["value"] for trial in trials(book, phase, n) if trial in book.reports]
        if told:
            values[n] = sum(told) / len(told)
    best = sorted(values, key=lambda n: -values[n])[:most]  # only these are looked up on disk
    return [_standing(book, phase, n, values[n]) for n in best]


def trials(book: "Book", phase: int, setting: int) -> set[str]:
    """The trials of a setting in a phase."""
    return {book.trial(phase, setting, seed) for seed, _ in book.runs(phase, setting)}


def _standing(book: "Book", phase: int, setting: int, value: float) -> Standing:
    runs, status = book.runs(phase, setting), str(book.group(phase, setting))
    mine = trials(book, phase, setting)
    if status == "incomplete" and book.running & mine:
        status = "running"
    if status == "pruned" and setting in book.waiting():
        status = "waiting"
    results = {run: result for _, run in runs if (result := book.result(run)) is not None}
    tasks, seconds = 0, 0.0
    for _, run in runs:
        if run in results:
            tasks += len(results[run]["scenario"]["classes_per_task"])
            seconds += results[run]["seconds"]["total"]
            continue
        tasks += max((r["task"] for t in mine for r in book.reports.get(t, []) if r["run"] == run), default=0)
        seconds += next((told["seconds"] for told in reversed(written(book.folder(run))) if "seconds" in told), 0.0)
    name = f"c{setting:02d}"
    if book.definition.compared is not None:
        name += f" {book.settings[setting][book.definition.compared]}"
    return Standing(phase, name, status, len(results), len(runs), tasks, value, seconds)


def written(folder: Path, tail: int = 2**16) -> list[Mapping[str, Any]]:
    """The last events in a run's metrics.jsonl, oldest first; lines that are damaged, or being written, left out."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - tail))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    events = list[Mapping[str, Any]]()
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def standings_table(rows: list[Standing], metric: str) -> Padding:
    """A few plain lines, the same in a terminal and in a log file."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("phase", "setting", "status", "seeds", "tasks_done", metric, "seconds"):
        table.add_column(head, justify="left" if head in ("setting", "status") else "right")
    for row in rows:
        seeds = f"{row.seeds_done}/{row.seeds}"
        figures = (str(row.tasks_done), f"{row.value:.3f}", f"{row.seconds:.0f}")
        table.add_row(str(row.phase), row.setting, row.status, seeds, *figures)
    return Padding(table, (0, 0, 0, 4), expand=False)
