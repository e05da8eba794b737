"""What has happened in a sweep so far, from two sources: the runs' own folders, and a journal beside them.

Whether a run is done is read from its result.json alone. The journal (journal.jsonl, one JSON line per event,
written by the driver) holds what no run knows: Optuna's suggestions, each report, what was pruned, what failed.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from ccsi.config import Config
from ccsi.sweep.definition import Definition
from ccsi.sweep.space import Tried, Values
from ccsi.sweep.standings import Standing, standings, standings_table
from ccsi.sweep.statistics import summary
from ccsi.sweep.trial import LIVE, finished, reason, tasks_of

if TYPE_CHECKING:  # status.py has no use for it
    from ccsi.sweep.storage import Storage

Status = Literal["done", "pruned", "failed", "incomplete"]
Report = dict[str, Any]


class BrokenOffError(Exception):
    """A sweep came to its end early, through no fault of its configuration; what is done is on disk."""


class Book:
    """The state of a sweep, read from its folder; events are added as they come.

    Args:
        forgive: leave what failed to be tried again.

    Attributes:
        settings: the settings of phase 1 by number, as far as they are known.
        reports: by trial, oldest first: `run`, `task`, `tasks_done`, `value`.
        ends: by trial: how it ended, `pruned` or `failed`, and the error.
        gpu: the share of a card a trial gets, if it was measured (resources.gpu=auto).
        storage: where the runs are, if not in this folder; results are fetched from there.
    """

    def __init__(self, definition: Definition, console: Console, forgive: bool = True) -> None:
        self.definition, self.console = definition, console
        self.path = definition.folder / "journal.jsonl"
        self.settings: list[Values] = [] if definition.sweep.search == "optuna" else definition.listed()
        self.reports: dict[str, list[Report]] = {}
        self.ends: dict[str, tuple[Status, str]] = {}
        self.gpu: float | None = None
        self.suggested_all = definition.sweep.search != "optuna"
        self.running: set[str] = set()
        self.heading, self.prefix, self.planned = "", "", 0
        self.began, self.shown_at, self.shown = time.monotonic(), 0.0, ""
        self.board_at, self.board = time.monotonic(), list[Standing]()
        self._results: dict[Path, Report] = {}
        self.storage: Storage | None = None
        self._torn = False
        for event in self._read():
            self._apply(event)
        if forgive:  # what failed is tried again when a sweep goes on: the disk may have been full
            self.ends = {trial: end for trial, end in self.ends.items() if end[0] != "failed"}

    # names and folders

    def runs(self, phase: int, setting: int) -> list[tuple[int, str]]:
        """The seeds of a setting in a phase, each with its run's name."""
        seeds = self.definition.sweep.seeds.tuning if phase == 1 else self.definition.sweep.seeds.reporting
        return [(seed, f"p{phase}-c{setting:02d}-s{seed}") for seed in seeds]

    def folder(self, run: str) -> Path:
        """Where a run lives."""
        return self.definition.folder / "runs" / run

    def result(self, run: str) -> Report | None:
        """The contents of a run's result.json; None while it is not finished."""
        folder = self.folder(run)
        if folder not in self._results and (result := finished(folder)) is not None:
            self._results[folder] = result
        return self._results.get(folder)

    def trial(self, phase: int, setting: int, seed: int) -> str:
        """The trial a run belongs to: in phase 1 a trial is a setting with all its seeds, in phase 2 one run."""
        return f"p1-c{setting:02d}" if phase == 1 else f"p2-c{setting:02d}-s{seed}"

    def config(self, phase: int, setting: int, seed: int, run: str) -> Config:
        """The configuration of a run."""
        return self.definition.run_config(self.settings[setting], phase, seed, self.definition.runs / run)

    # what is known

    def status(self, phase: int, setting: int, seed: int) -> Status:
        """How a run stands; `incomplete`: not begun, running, or broken off."""
        run = next(run for s, run in self.runs(phase, setting) if s == seed)
        if self.result(run) is not None:
            return "done"
        end = self.ends.get(self.trial(phase, setting, seed), ("incomplete", ""))[0]
        return "incomplete" if end == "done" else end  # its folder was removed

    def group(self, phase: int, setting: int) -> Status:
        """How a setting's group of seeds stands: `done` only if every one is."""
        statuses = [self.status(phase, setting, seed) for seed, _ in self.runs(phase, setting)]
        worst: tuple[Status, ...] = ("failed", "pruned", "incomplete")
        return next((status for status in worst if status in statuses), "done")

    def scores(self, phase: int, setting: int) -> list[float]:
        """The val metric of each finished run of a group."""
        results = [self.result(run) for _, run in self.runs(phase, setting)]
        key = LIVE[self.definition.sweep.metric]
        return [float(result["val"][key]) for result in results if result is not None]

    def score(self, phase: int, setting: int) -> float | None:
        """The mean val metric of a complete group; None for any other."""
        if self.group(phase, setting) != "done":
            return None
        return summary(self.scores(phase, setting), resamples=1).mean

    def searched(self) -> bool:
        """Whether phase 1 is over."""
        return self.suggested_all and all(
            self.group(1, setting) != "incomplete" for setting in range(len(self.settings))
        )

    def best(self) -> list[int]:
        """The settings that go on to phase 2: the best `top_k` complete groups of phase 1, best first."""
        scored = [(score, n) for n in range(len(self.settings)) if (score := self.score(1, n)) is not None]
        return [n for _, n in sorted(scored, key=lambda one: (-one[0], one[1]))[: self.definition.sweep.top_k]]

    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.searched() and all(self.group(2, setting) == "done" for setting in self.best())

    def tried(self) -> list[Tried]:
        """The settings so far, as the search wants them."""
        tried = []
        for n, values in enumerate(self.settings):
            group = self.group(1, n)
            last = self.reports.get(f"p1-c{n:02d}")
            score = self.score(1, n) if group == "done" else last[-1]["value"] if last else None
            tried.append(Tried(values, score, "running" if group == "incomplete" else group))
        return tried

    def history(self) -> dict[str, list[Report]]:
        """The reports of phase 1's trials that ended: what a scheduler must know when a sweep goes on."""
        return {
            name: self.reports[name]
            for n in range(len(self.settings))
            if (name := f"p1-c{n:02d}") in self.reports and self.group(1, n) in ("done", "pruned")
        }

    def rows(self) -> list[dict[str, Any]]:
        """One dict per run: the trials table. Of phase 2 the best settings' runs, and whatever else is finished.

        The latter happens when a setting that failed in phase 1 is tried again: who is best is then open once more.
        """
        best, known = self.best() if self.searched() else [], range(len(self.settings))
        rows = [self._row(1, n, seed, run) for n in known for seed, run in self.runs(1, n)]
        others = [n for n in known if n not in best]
        return rows + [
            self._row(2, n, seed, run)
            for n in [*best, *others]
            for seed, run in self.runs(2, n)
            if n in best or self.result(run) is not None
        ]

    def _row(self, phase: int, setting: int, seed: int, run: str) -> dict[str, Any]:
        trial, result = self.trial(phase, setting, seed), self.result(run)
        figures = ["average_incremental_accuracy", "final_accuracy_macro", "final_accuracy_micro", "forgetting"]
        row: dict[str, Any] = {"phase": phase, "trial": run, "setting": f"c{setting:02d}", "seed": seed}
        row["status"] = self.status(phase, setting, seed)
        row["protocol"] = result["protocol"] if result else None
        told = [report["task"] for report in self.reports.get(trial, []) if report["run"] == run]
        row["tasks_done"] = tasks_of(result) if result else max(told, default=0)
        row |= {f"val_{figure}": result["val"].get(figure) if result else None for figure in figures}
        if phase == 1:  # test is out of reach there
            row |= {f"test_{figure}": None for figure in figures}
        else:
            row |= {f"test_{figure}": result.get(figure) if result else None for figure in figures}
        row["seconds"] = result["seconds"]["total"] if result else None
        row |= {f"config/{key}": value for key, value in self.settings[setting].items()}
        row["run_dir"] = str(self.folder(run))
        row["error"] = self.ends.get(trial, ("incomplete", ""))[1] if row["status"] == "failed" else ""
        return row

    # what happens

    def begin(self, heading: str, prefix: str, planned: int) -> None:
        """A phase begins, whose `planned` trials' names start with `prefix`; some may have ended before."""
        self.heading, self.prefix, self.planned, self.began = heading, prefix, planned, time.monotonic()
        self.running.clear()
        self.shown_at = 0.0
        self.tick()

    def add(self, values: Values) -> int:
        """A new suggestion of the search; returns its number."""
        self._write({"setting": values})
        return len(self.settings) - 1

    def search_ended(self) -> None:
        """The search will suggest nothing more."""
        self._write({"searched": True})

    def measured(self, gpu: float) -> None:
        """How much of a card a trial gets."""
        self._write({"gpu": gpu})

    def started(self, trial: str) -> None:
        """A trial starts, or starts again."""
        self.running.add(trial)
        if self.shown.endswith(" 0 running"):  # that a phase has really begun is news at once
            self.shown_at = 0.0

    def reported(self, trial: str, report: Report) -> None:
        """A trial finished a task."""
        self._write({"trial": trial, "report": report})

    def ended(self, trial: str, error: str | None, text: str = "") -> None:
        """A trial ended by itself, was stopped by the scheduler, or gave up; `text`: a traceback, to be kept."""
        if self.storage is not None:
            for run in self._runs_of(trial):
                self.storage.fetch_result(run, self.folder(run))
        self.running.discard(trial)
        if text:
            (self.definition.folder / "runs" / f"{trial}.error.txt").write_text(text)
        if error:
            self._write({"trial": trial, "end": "failed", "error": error})
        elif any(self.result(run) is None for run in self._runs_of(trial)):
            self._write({"trial": trial, "end": "pruned", "error": ""})
        else:
            self._write({"trial": trial, "end": "done", "error": ""})

    def broke(self, trial: str, text: str) -> None:
        """A trial broke off for good; `text` is the traceback, kept beside the runs."""
        self.running.discard(trial)
        (self.definition.folder / "runs" / f"{trial}.error.txt").write_text(text)
        self._write({"trial": trial, "end": "failed", "error": reason(text)})

    def keep(self) -> None:
        """Copy the sweep's own files to its storage, from where another machine can go on (resume=URL)."""
        if self.storage is not None:
            with contextlib.suppress(OSError):  # the next time, then
                self.storage.push(self.definition.folder, "sweep", leave=("runs", "ray"))

    def tick(self) -> None:
        """Print one line about where the sweep stands, every ten seconds if there is news, every minute if not.

        Every thirty seconds, if there is news, also the best settings so far.
        """
        now = time.monotonic()
        if now - self.board_at >= 30:
            self.board_at, board = now, standings(self)
            if board != self.board:
                self.console.print(standings_table(board, self.definition.sweep.metric))
                self.board = board
        if now - self.shown_at < 10:
            return
        mine = {name: end for name, (end, _) in self.ends.items() if name.startswith(self.prefix)}
        ends = [end for name, end in mine.items() if name not in self.running]
        counts = [f"{ends.count('done')} of {self.planned} done", f"{len(self.running)} running"]
        counts += [f"{ends.count(end)} {end}" for end in ("pruned", "failed") if end in ends]
        values = {name: self.reports[name][-1]["value"] for name in self.reports if mine.get(name) == "done"}
        if values:
            name = max(values, key=lambda key: values[key])
            counts.append(f"best {self.definition.sweep.metric} {values[name]:.3f} ({name})")
        line = ", ".join(counts)
        if line != self.shown or now - self.shown_at > 60:
            seconds = int(now - self.began)
            self.console.print(f"{self.heading}  {seconds // 60:2d}:{seconds % 60:02d}  {line}", highlight=False)
            self.shown_at, self.shown = now, line

    def _runs_of(self, trial: str) -> list[str]:
        phase, setting = int(trial[1]), int(trial.split("-")[1][1:])
        return [run for seed, run in self.runs(phase, setting) if self.trial(phase, setting, seed) == trial]

    # the journal

    def _write(self, event: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write("\n" * self._torn + json.dumps(event) + "\n")
        self._torn = False
        self._apply(event)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        events, text = [], self.path.read_text(errors="replace")
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue  # torn by kill -9 or a full disk
        return events

    def _apply(self, event: dict[str, Any]) -> None:
        if "setting" in event:
            self.settings.append(event["setting"])
        elif "report" in event:
            self.reports.setdefault(event["trial"], []).append(event["report"])
        elif "gpu" in event:
            self.gpu = float(event["gpu"])
        elif "searched" in event:
            self.suggested_all = True
        elif "end" in event:
            self.ends[event["trial"]] = (event["end"], event["error"])
