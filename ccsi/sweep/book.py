"""What has happened in a sweep so far, from two sources: the runs' own folders, and a journal beside them.

Whether a run is done is read from its result.json alone. The journal (journal.jsonl, one JSON line per event,
written by the driver) holds what no run knows: Optuna's suggestions, each report, what was pruned and by whom, what
failed, what was taken over from earlier sweeps, and how long the sweep has been at work.

Who goes on to phase 2 is decided here, and as early as it is certain: see `chosen`.
"""

import contextlib
import json
import time
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from ccsi.config import Config
from ccsi.sweep.definition import SCHEDULERS, Definition
from ccsi.sweep.rungs import RULES
from ccsi.sweep.space import Tried, Values
from ccsi.sweep.standings import Standing, standings, standings_table
from ccsi.sweep.tables.statistics import fronts, summary
from ccsi.sweep.trial import LIVE, finished, reason, tasks_of

if TYPE_CHECKING:  # status.py has no use for it
    from ccsi.sweep.storage import Storage

Status = Literal["done", "pruned", "failed", "incomplete"]
Report = dict[str, Any]

RESULT_WITHIN = 90.0
"""Seconds after which the driver sees what a trial's machine has written; NFS remembers 30 to 60 what was not there."""
CLOSE = 1e-9
"""Scores closer than this may be equal: a bound is computed in another order than the score it bounds."""


class BrokenOffError(Exception):
    """A sweep came to its end early, through no fault of its configuration; what is done is on disk."""


class Book:
    """The state of a sweep, read from its folder; events are added as they come.

    Args:
        forgive: leave what failed to be tried again.

    Attributes:
        settings: the settings of phase 1 by number, as far as they are known.
        reports: by trial, oldest first: `run`, `task` of `tasks` and the run's `score` and `seconds` so far;
            `tasks_done` and `value` of the trial (see `run_trial`).
        ends: by trial: how it ended; if `pruned`, by whom, if `failed`, the error.
        begun: the settings handed out in phase 1.
        lots: where candidates are compared, the settings of each: they compete among themselves. Else empty.
        given: the settings that are reported without a phase 1, as they have no competitors.
        rule: who lags in phase 1. scheduler: how tables call it.
        spared: the settings that lag and go on all the same (see `recalled`).
        earlier: what a warm start took over: `folders`, and `tried`, the settings and scores of each.
        gpu: the share of a card a trial gets, if it was measured (resources.gpu=auto).
        stopping: by trial, who stops it; the trial's end is still to come.
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
        self.begun: set[int] = set()
        self.rule = RULES[definition.sweep.scheduler]()
        self.scheduler = f"by {SCHEDULERS.get(definition.sweep.scheduler)}"
        self.spared: set[int] = set()
        self.earlier: dict[str, Any] = {"folders": [], "tried": []}
        self.stopping: dict[str, str] = {}
        self._lagging: set[str] = set()  # trials whose last report was one to be stopped at
        self.running: set[str] = set()
        self.heading, self.prefix, self.planned = "", "", 0
        self.began, self.shown_at, self.shown = time.monotonic(), 0.0, ""
        self.board_at, self.board = time.monotonic(), list[Standing]()
        self.storage: Storage | None = None
        self._results: dict[str, Report | None] = {}
        # phase 1, kept up to date rather than worked out again: with 1,000 settings each is asked for at every event
        self.lots = self._lots()
        self.given = {n for lot in self.lots if len(lot) == 1 for n in lot}
        self._news: set[int] = set(range(len(self.settings))) - self.given  # settings whose status may have changed
        self._status: dict[int, Status] = {}
        self._incomplete: set[int] = set()
        self._ranked: list[tuple[float, int]] = []  # (-score, setting) of the completed ones, best first
        self._waiting: dict[int, list[tuple[float, int]]] = {}  # by tasks done, (-value, setting): lags, best first
        self._standing: tuple[Any, ...] = ()
        self._completed: list[int] = []  # settings in the order of their completion
        self._top, self._seen, self._unchanged, self._impatient = list[int](), 0, 0, False
        self._spent: float = 0.0
        self._since: float | None = None
        self._torn = False
        for event in self._read():
            self._apply(event)
        if forgive:  # what failed is tried again when a sweep goes on: the disk may have been full
            self.ends = {trial: end for trial, end in self.ends.items() if end[0] != "failed"}

    def _lots(self) -> list[list[int]]:
        key, lots = self.definition.compared, dict[Any, list[int]]()
        if key is None:
            return []
        for n, values in enumerate(self.settings):
            lots.setdefault(values[key], []).append(n)
        return list(lots.values())

    # names and folders

    def runs(self, phase: int, setting: int) -> list[tuple[int, str]]:
        """The seeds of a setting in a phase, each with its run's name."""
        seeds = self.definition.sweep.seeds.tuning if phase == 1 else self.definition.sweep.seeds.reporting
        return [(seed, f"p{phase}-c{setting:02d}-s{seed}") for seed in seeds]

    def folder(self, run: str) -> Path:
        """Where a run lives."""
        return self.definition.folder / "runs" / run

    def result(self, run: str) -> Report | None:
        """The contents of a run's result.json; None while it is not finished.

        Looked for once, and again after each event of its trial: thousands of runs that have not begun cost nothing.
        """
        if run not in self._results:
            self._results[run] = finished(self.folder(run))
        return self._results[run]

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
        if phase == 1:
            self._catch_up()
            return self._status[setting]
        return self._worst(phase, setting)

    def _worst(self, phase: int, setting: int) -> Status:
        statuses = [self.status(phase, setting, seed) for seed, _ in self.runs(phase, setting)]
        worst: tuple[Status, ...] = ("failed", "pruned", "incomplete")
        return next((status for status in worst if status in statuses), "done")

    def _catch_up(self) -> None:
        """Look at the settings of phase 1 of which there is news."""
        while self._news:
            n = self._news.pop()
            self._status[n] = self._worst(1, n)
            self._incomplete.discard(n)
            if self._status[n] == "incomplete":
                self._incomplete.add(n)
            elif self._status[n] == "done":
                entry = (-summary(self.scores(1, n), resamples=1).mean, n)
                place = bisect_left(self._ranked, entry)
                if self._ranked[place : place + 1] != [entry]:
                    self._ranked.insert(place, entry)

    def scores(self, phase: int, setting: int) -> list[float]:
        """The val metric of each finished run of a group."""
        results = [self.result(run) for _, run in self.runs(phase, setting)]
        return [float(result["val"][self._metric]) for result in results if result is not None]

    def score(self, phase: int, setting: int) -> float | None:
        """The mean val metric of a complete group; None for any other."""
        if (phase == 1 and setting in self.given) or self.group(phase, setting) != "done":
            return None
        return summary(self.scores(phase, setting), resamples=1).mean

    def seconds(self, phase: int, setting: int) -> list[float]:
        """The seconds of each finished run of a group."""
        results = [self.result(run) for _, run in self.runs(phase, setting)]
        return [float(result["seconds"]["total"]) for result in results if result is not None]

    def pruned(self, setting: int) -> str:
        """By whom and where a setting was pruned (`by ASHA after task 2 of seed 100`); empty if it was not."""
        trial = self.trial(1, setting, 0)
        if self.group(1, setting) != "pruned":
            return ""
        by, last = self.ends[trial][1], self.reports.get(trial)
        where = (
            f"after task {last[-1]['task']} of seed {last[-1]['run'].rpartition('-s')[2]}"
            if last
            else "before its first task ended"
        )
        return f"{by} {where}".strip()

    # how far phase 1 goes

    def clock(self) -> float:
        """Seconds the sweep has been at work, over all its starts."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    def exhausted(self) -> str:
        """The key by which phase 1 begins no further setting, if any."""
        sweep = self.definition.sweep
        if sweep.budget.trials is not None and len(self.begun) >= sweep.budget.trials:
            return f"sweep.budget.trials={sweep.budget.trials}"
        if sweep.budget.hours is not None and self.clock() >= 3600 * sweep.budget.hours:
            return f"sweep.budget.hours={sweep.budget.hours:g}"
        if sweep.patience is not None and self._out_of_patience(sweep.patience):
            return f"sweep.patience={sweep.patience}"
        return ""

    def _out_of_patience(self, patience: int) -> bool:
        """Whether the best settings have once been the same for `patience` completed settings in a row."""
        while self._seen < len(self._completed) and not self._impatient:
            self._seen += 1
            rivals = self._completed[: self._seen] if self.definition.sweep.minimize else self._top
            rivals = [n for n in {*rivals, self._completed[self._seen - 1]} if self.score(1, n) is not None]
            top = sorted(self.pick(rivals))
            self._unchanged = self._unchanged + 1 if top == self._top else 0
            self._top, self._impatient = top, self._unchanged >= patience
        return self._impatient

    def planned_settings(self) -> int:
        """How many settings phase 1 has without a budget or patience."""
        return len(self.settings) if self.suggested_all else self.definition.sweep.num_samples

    def unbegun(self) -> set[int]:
        """The settings known but not begun (nor done: the journal may be gone)."""
        self._catch_up()
        return self._incomplete - self.begun

    def unfinished(self) -> set[int]:
        """The settings that have not ended, without those that a budget leaves out."""
        self._catch_up()
        return self._incomplete & self.begun if self.exhausted() else self._incomplete

    def known(self) -> list[int]:
        """The settings phase 1 has had or will have, without those that a budget leaves out."""
        left_out = self.unbegun() if self.exhausted() else self.given
        return [n for n in range(len(self.settings)) if n not in left_out]

    def unknown(self) -> int:
        """How many settings may still be suggested."""
        return 0 if self.exhausted() else self.planned_settings() - len(self.settings)

    def searched(self) -> bool:
        """Whether phase 1 is over."""
        return not self.unknown() and not self.unfinished() and self.recalled() is None

    def recalled(self) -> int | None:
        """The stopped setting that goes on from its checkpoint next, if any: of those that came furthest, the best.

        It is one that no longer lags (see `lags`), now that others have been there; or any, if phase 1 would end with
        fewer than `top_k` complete ones.
        """
        self._catch_up()
        rungs = sorted((tasks for tasks, ones in self._waiting.items() if ones), reverse=True)
        for tasks in rungs:
            value, setting = self._waiting[tasks][0]
            if not self._held(tasks) and self.rule.may_go_on(tasks, -value, len(self.rule.values[tasks])):
                return setting
        if not rungs or self.unknown() or len(self._ranked) + len(self.unfinished()) >= self.definition.sweep.top_k:
            return None
        if self.unfinished() - self.spared:  # who may still be stopped
            return None
        return self._waiting[rungs[0]][0][1]

    def lags(self, tasks: int, value: float) -> bool:
        """Whether a trial of phase 1, with this value after so many tasks, is not to go on for now."""
        return self._held(tasks) or self.rule.lags(tasks, value)

    def _held(self, tasks: int) -> bool:
        """Whether all wait after so many tasks, as there are settings that have not been begun.

        The best quarter of all is a better choice than that of those that came first. Nobody is held with a limit on
        hours or patience, as there may be no others; nor with Optuna, which learns from whoever is through.
        """
        sweep = self.definition.sweep
        no_others = sweep.budget.hours is not None or sweep.patience is not None
        if not self.rule.is_rung(tasks) or no_others or sweep.search == "optuna":
            return False
        return len(self.begun) < self.planned_settings() and not self.exhausted()

    def waiting(self) -> set[int]:
        """The stopped settings that may still go on; none once phase 1 is over."""
        if self.searched():
            return set()
        waiting = self._contenders()
        if len(self._ranked) + len(self.unfinished()) + len(waiting) < self.definition.sweep.top_k:
            waiting = {n for ones in self._waiting.values() for _, n in ones}  # some of them: see `recalled`
        return waiting

    def _contenders(self) -> set[int]:
        """The stopped settings that the rule may still let go on."""
        most = len(self.known()) + self.unknown()
        return {
            n for tasks, ones in self._waiting.items() for value, n in ones if self.rule.may_go_on(tasks, -value, most)
        }

    # who goes on to phase 2

    def pick(self, settings: Iterable[int]) -> list[int]:
        """The best `top_k` of complete groups of phase 1, best first.

        By score; with `sweep.minimize` from the first Pareto front, then the second, …, each by score.
        """
        among = {n: self.score(1, n) or 0.0 for n in settings}
        front = dict.fromkeys(among, 0)
        if self.definition.sweep.minimize:
            seconds = [fmean(self.seconds(1, n)) for n in among]
            front = dict(zip(among, fronts(list(among.values()), seconds), strict=True))
        return sorted(among, key=lambda n: (front[n], -among[n], n))[: self.definition.sweep.top_k]

    def best(self) -> list[int]:
        """The best `top_k` settings of phase 1 so far, best first; of each lot, if there are several."""
        self._catch_up()
        if self.definition.sweep.minimize:
            return self.pick(n for _, n in self._ranked)
        ranked, top_k = [n for _, n in self._ranked], self.definition.sweep.top_k
        if not self.lots:
            return ranked[:top_k]
        place = {n: place for place, n in enumerate(ranked)} | dict.fromkeys(self.given, 0)
        return [min(found, key=place.__getitem__) for lot in self.lots if (found := place.keys() & set(lot))]

    def places(self) -> int:
        """How many settings phase 2 has, if as many complete phase 1."""
        if self.decided():
            return len(self.best())
        return len(self.lots) or self.definition.sweep.top_k

    def chosen(self) -> list[int]:
        """The settings that are certain to go on to phase 2, best first: all of them once phase 1 is over.

        A completed setting is, as soon as fewer than `top_k` others can still beat it: the completed ones better
        than it, the unfinished ones whose bound (see `_bound`) reaches it (those that ASHA stopped and may let go on
        among them), and any not yet suggested. (With `sweep.minimize` none is before the end: seconds have no such
        bound.)
        """
        return self._stand()[0]

    def hopeless(self) -> set[int]:
        """The unfinished settings that can no longer be among the best `top_k`, once they are all that is waited for.

        None while phase 1 has settings to begin: Optuna learns from every end. With a scheduler, none before all the
        unfinished are hopeless: what others are compared with must not depend on who was stopped here.
        """
        return self._stand()[1]

    def decided(self) -> bool:
        """Whether it is known who goes on to phase 2, though hopeless settings may still run."""
        return not self.unknown() and len(self.hopeless()) == len(self.unfinished()) and self.recalled() is None

    def over(self) -> bool:
        """Whether nothing that is still wanted is left to do."""
        return self.decided() and not any(
            self.status(2, n, seed) == "incomplete" for n in self.chosen() for seed, _ in self.runs(2, n)
        )

    def _stand(self) -> tuple[list[int], set[int]]:
        """`chosen` and `hopeless`; worked out once after each event."""
        key = self.exhausted()
        if self._standing[:1] != (key,):
            self._standing = (key, *self._work_out())
        return self._standing[1], self._standing[2]

    def _work_out(self) -> tuple[list[int], set[int]]:
        sweep = self.definition.sweep
        if self.searched():
            return self.best(), set()
        if sweep.minimize:
            return [], set()
        if not self.lots:
            return self._work_out_lot(None)
        chosen, hopeless = list[int](), set[int]()
        for lot in self.lots:
            certain, lost = (lot, set[int]()) if lot[0] in self.given else self._work_out_lot(set(lot))
            chosen, hopeless = [*chosen, *certain], hopeless | lost
        return chosen, hopeless if not self.unbegun() else set()

    def _work_out_lot(self, lot: set[int] | None) -> tuple[list[int], set[int]]:
        """Who of a lot (None: of all) is `chosen` and `hopeless`."""
        sweep, unfinished, unknown, ranked = self.definition.sweep, self.unfinished(), self.unknown(), self._ranked
        if lot is not None:
            unfinished, ranked = unfinished & lot, [(score, n) for score, n in ranked if n in lot]
        unknown += len(unfinished - self.begun)  # known, but as good as any
        contenders = self._contenders()
        bounds = {n: self._bound(n) for n in unfinished & self.begun | contenders}
        best = [(n, -score) for score, n in ranked[: sweep.top_k]]
        chosen = [
            n
            for place, (n, score) in enumerate(best)
            if place + unknown + sum(bound >= score - CLOSE for bound in bounds.values()) < sweep.top_k
        ]
        hopeless = set[int]()
        if not unknown and len(best) == sweep.top_k:
            hopeless = {n for n, bound in bounds.items() if bound < best[-1][1] - CLOSE}
            if sweep.scheduler != "none" and len(hopeless) < len(bounds):
                hopeless = set()
        return chosen, hopeless - contenders

    def _bound(self, setting: int) -> float:
        """What the score of an unfinished setting of phase 1 can still become: all that is to come is at most 1.

        Average incremental accuracy is the mean over tasks of what is known after each, so that k of T tasks with
        mean m leave room for (k m + T - k) / T; a final accuracy may still be anything.
        """
        last = {report["run"]: report for report in self.reports.get(self.trial(1, setting, 0), [])}
        bounds = []
        for _, run in self.runs(1, setting):
            report, result = last.get(run, {}), self.result(run)
            if result is not None:
                bounds.append(float(result["val"][self._metric]))
            elif "score" in report and self.definition.sweep.metric == "val_average_incremental":
                done, tasks = report["task"], report["tasks"]
                bounds.append((done * report["score"] + tasks - done) / tasks)
            else:
                bounds.append(1.0)
        return fmean(bounds)

    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.searched() and all(self.group(2, setting) == "done" for setting in self.best())

    def tried(self) -> list[Tried]:
        """The settings so far, as the search wants them."""
        self._catch_up()
        tried, scores = [], {n: -score for score, n in self._ranked}
        for n, values in enumerate(self.settings):
            if n in scores:
                tried.append(Tried(values, scores[n], "done", fmean(self.seconds(1, n))))
                continue
            group = self.group(1, n)
            last = self.reports.get(self.trial(1, n, 0), [{"value": None, "tasks_done": 0}])[-1]
            state = "running" if group == "incomplete" else group
            tried.append(Tried(values, last["value"], state, tasks=last["tasks_done"]))
        return tried

    def taken_over(self) -> list[Tried]:
        """What earlier sweeps found, as the search wants it."""
        return [Tried(one["values"], one["score"], "done", one["seconds"]) for one in self.earlier["tried"]]

    def rows(self) -> list[dict[str, Any]]:
        """One dict per run: the trials table. Of phase 2 the chosen settings' runs, and whatever else is finished.

        The latter happens when a setting that failed in phase 1 is tried again, or a budget is raised: who is best is
        then open once more.
        """
        best, known, waiting = self.chosen(), self.known(), self.waiting()
        rows = [self._row(1, n, seed, run) for n in known for seed, run in self.runs(1, n)]
        for row in rows:
            if row["status"] == "pruned" and int(row["setting"][1:]) in waiting:
                row["status"], row["pruned"] = "waiting", ""
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
        told = [report for report in self.reports.get(trial, []) if report["run"] == run]
        row["tasks_done"] = tasks_of(result) if result else max((report["task"] for report in told), default=0)
        row |= {f"val_{figure}": result["val"].get(figure) if result else None for figure in figures}
        if phase == 1:  # test is out of reach there
            row |= {f"test_{figure}": None for figure in figures}
        else:
            row |= {f"test_{figure}": result.get(figure) if result else None for figure in figures}
        row["seconds"] = result["seconds"]["total"] if result else told[-1].get("seconds") if told else None
        row |= {f"config/{key}": value for key, value in self.settings[setting].items()}
        row["run_dir"] = str(self.folder(run))
        row["pruned"] = self.pruned(setting) if phase == 1 else ""
        row["error"] = self.ends.get(trial, ("incomplete", ""))[1] if row["status"] == "failed" else ""
        return row

    # what happens

    def begin(self, heading: str, prefix: str, planned: int) -> None:
        """A phase begins, whose `planned` trials' names start with `prefix`; some may have ended before."""
        self.heading, self.prefix, self.planned, self.began = heading, prefix, planned, time.monotonic()
        self.shown_at = 0.0
        self.tick()

    def take_up(self) -> None:
        """A driver begins work: the clock runs, and what ended without its predecessor noticing is noted."""
        self._since = time.monotonic()
        for n in self.known():
            if self.group(1, n) == "done" and self.ends.get(self.trial(1, n, 0), ("incomplete", ""))[0] != "done":
                self.ended(self.trial(1, n, 0), None)
        for trial in sorted(self._lagging):  # the driver died before it could stop them
            if not self._complete(trial):
                self.stopping[trial] = self.scheduler
                self.ended(trial, None)

    def lay_down(self) -> None:
        """The driver's work ends: the clock is noted."""
        self._write({})
        self._spent, self._since = self.clock(), None

    def take_over(self, folders: Sequence[str], tried: Sequence[Tried]) -> None:
        """A warm start: what earlier sweeps found; noted, so that their folders are not needed again."""
        found = [{"values": one.values, "score": one.score, "seconds": one.seconds} for one in tried]
        self._write({"earlier": {"folders": list(folders), "tried": found}})

    def add(self, values: Values) -> int:
        """A new suggestion of the search; returns its number."""
        self._write({"setting": values})
        if self.storage is not None:  # before any run of it is there: a suggestion is never made twice
            self.storage.push(self.definition.folder, "sweep", leave=("runs", "ray"))
        return len(self.settings) - 1

    def start(self, setting: int) -> None:
        """A setting is handed out in phase 1."""
        self._write({"begun": setting})

    def recall(self, setting: int) -> None:
        """A stopped setting goes on; one that still lags is not stopped again."""
        last = self.reports[self.trial(1, setting, 0)][-1]
        rung = len(self.rule.values[last["tasks_done"]])
        spared = not self.rule.may_go_on(last["tasks_done"], last["value"], rung)
        self._write({"recalled": setting, "spared": spared})

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
        """A trial finished a task; one that goes on from there tells it again, as its word may have been lost."""
        told = [one["task"] for one in self.reports.get(trial, []) if one["run"] == report["run"]]
        if told[-1:] == [report["task"]]:
            return
        self._write({"trial": trial, "report": report})

    def ended(self, trial: str, error: str | None, text: str = "") -> None:
        """A trial ended by itself, was stopped by the scheduler, or gave up; `text`: a traceback, to be kept."""
        if self.storage is not None:
            for run in self._runs_of(trial):
                self.storage.fetch_result(run, self.folder(run))
        self._look_again(trial)
        self.running.discard(trial)
        by = self.stopping.pop(trial, "")
        last = self.reports.get(trial, [{"run": "", "task": 0, "tasks": 1}])[-1]
        if last["run"] == self._runs_of(trial)[-1] and last["task"] == last["tasks"]:
            by = ""  # it was through
        if text:
            (self.definition.folder / "runs" / f"{trial}.error.txt").write_text(text)
        if not error and not by and not self._complete(trial):
            # another machine wrote it, and this one does not see it yet: NFS remembers that a file was not there
            deadline = time.monotonic() + RESULT_WITHIN
            while not self._complete(trial) and time.monotonic() < deadline:
                time.sleep(1)
                self._look_again(trial)
            error = None if self._complete(trial) else "the run ended, but its result.json is not there"
        if error:
            self._write({"trial": trial, "end": "failed", "error": error})
        elif self._complete(trial):
            self._write({"trial": trial, "end": "done", "error": ""})
        else:
            self._write({"trial": trial, "end": "pruned", "error": by})

    def broke(self, trial: str, text: str) -> None:
        """A trial broke off for good; `text` is the traceback, kept beside the runs."""
        self.running.discard(trial)
        (self.definition.folder / "runs" / f"{trial}.error.txt").write_text(text)
        self._write({"trial": trial, "end": "failed", "error": reason(text)})

    def keep(self) -> None:
        """Copy the sweep's own files to its storage, from where another machine can go on (resume=URL)."""
        if self.storage is not None:
            self.storage.renew()
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
        if not self.planned or now - self.shown_at < 10:
            return
        mine = {name: end for name, (end, _) in self.ends.items() if name.startswith(self.prefix)}
        waiting = {self.trial(1, n, 0) for n in self.waiting()} if self.prefix == "p1" else set[str]()
        stopped = [(name in waiting, end) for name, end in mine.items() if name not in self.running]
        ends = ["waiting" if waits and end == "pruned" else end for waits, end in stopped]
        counts = [f"{ends.count('done')} of {self.planned} done", f"{len(self.running)} running"]
        counts += [f"{ends.count(end)} {end}" for end in ("waiting", "pruned", "failed") if end in ends]
        values = {name: self.reports[name][-1]["value"] for name in self.reports if mine.get(name) == "done"}
        if values:
            name = max(values, key=lambda key: values[key])
            counts.append(f"best {self.definition.sweep.metric} {values[name]:.3f} ({name})")
        line = ", ".join(counts)
        if line != self.shown or now - self.shown_at > 60:
            seconds = int(now - self.began)
            self.console.print(f"{self.heading}  {seconds // 60:2d}:{seconds % 60:02d}  {line}", highlight=False)
            self.shown_at, self.shown = now, line

    @property
    def _metric(self) -> str:
        """The sweep's metric, as result.json names it under `val`."""
        return LIVE[self.definition.sweep.metric]

    def _look_again(self, trial: str) -> None:
        """There may be results now that were not there before."""
        for run in self._runs_of(trial):
            if self._results.get(run, ...) is None:
                del self._results[run]

    def _complete(self, trial: str) -> bool:
        return all(self.result(run) is not None for run in self._runs_of(trial))

    def _runs_of(self, trial: str) -> list[str]:
        phase, setting = numbers(trial)
        return [run for seed, run in self.runs(phase, setting) if self.trial(phase, setting, seed) == trial]

    # the journal

    def _write(self, event: dict[str, Any]) -> None:
        event["clock"] = round(self.clock(), 1)
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
        self._standing = ()
        if "clock" in event and self._since is None:
            self._spent = event["clock"]
        if "setting" in event:
            self.settings.append(event["setting"])
            self._news.add(len(self.settings) - 1)
        elif "searched" in event:
            self.suggested_all = True
        elif "gpu" in event:
            self.gpu = float(event["gpu"])
        elif "earlier" in event:
            self.earlier = event["earlier"]
            if self.suggested_all:  # the first of them come first, in place of the last
                mine = {repr(values): values for values in (*self.first(), *self.settings)}
                self.settings = list(mine.values())[: len(self.settings)]
                self._news = set(range(len(self.settings)))
        elif "begun" in event:
            self.begun.add(event["begun"])
        elif "recalled" in event:
            n = event["recalled"]
            if event["spared"]:
                self.spared.add(n)
            self.ends.pop(self.trial(1, n, 0), None)
            for ones in self._waiting.values():
                ones[:] = [one for one in ones if one[1] != n]
            self._news.add(n)
        elif "trial" in event:
            trial = event["trial"]
            phase, setting = numbers(trial)
            if phase == 1:
                self.begun.add(setting)
                self._news.add(setting)
            self._look_again(trial)
            if "report" in event:
                report = event["report"]
                self.reports.setdefault(trial, []).append(report)
                if phase == 1:
                    self.rule.note(trial, report["tasks_done"], report["value"])
                    lags = setting not in self.spared and self.lags(report["tasks_done"], report["value"])
                    (self._lagging.add if lags else self._lagging.discard)(trial)
            else:
                self._lagging.discard(trial)
                self.ends[trial] = (event["end"], event["error"])
                if self.ends[trial] == ("pruned", self.scheduler):
                    last = self.reports[trial][-1]
                    insort(self._waiting.setdefault(last["tasks_done"], []), (-last["value"], setting))
                if phase == 1 and event["end"] == "done" and setting not in self._completed:
                    self._completed.append(setting)

    def first(self) -> list[Values]:
        """The settings a warm start tries first: the best `top_k` of earlier sweeps, best first."""
        ranked = sorted(self.earlier["tried"], key=lambda one: -one["score"])
        unlike = {repr(one["values"]): one["values"] for one in ranked}
        return list(unlike.values())[: self.definition.sweep.top_k]


def numbers(trial: str) -> tuple[int, int]:
    """Phase and setting of a trial, from its name."""
    phase, setting = trial.split("-")[:2]
    return int(phase[1:]), int(setting[1:])
