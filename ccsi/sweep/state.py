"""The state of a sweep: a pure fold over its events. It reads no file and decides nothing; see `selection` for that."""

from bisect import insort
from collections.abc import Callable
from functools import wraps
from statistics import fmean
from typing import Any, TypeVar

from ccsi.errors import UserError
from ccsi.sweep import events
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import Event, JobId, RunId, Status, Values
from ccsi.sweep.pruners import PRUNERS, SCHEDULER_NAMES
from ccsi.sweep.ranking import mean, select_best

T = TypeVar("T")
DOMINATED = "because it could no longer reach the best"
WORST = (Status.FAILED, Status.PRUNED, Status.INCOMPLETE)
"""A trial is what the worst of its runs is, in this order."""


class SweepState:
    """What has happened in a sweep so far; changed by `apply` alone. A trial is the index of its config.

    Attributes:
        definition: what the sweep has been so far: a resumed one may go further, from an event on.
        extended: how far the sweep went before each time that it was extended, oldest first.
        reports: by job, oldest first. results: by finished run. ends: by job.
        started: trials handed out in phase 1. incomplete: those that have not ended, the ones not started included.
        ranked: (-score, trial) of the complete ones, best first.
        arms: where candidates are compared (`each` in the space), the trials of each; else empty.
        untuned: trials that are reported without a phase 1, because their arm has no other.
        pruned_by_scheduler: why a trial is stopped, for the tables.
        warm_configs: the configs that a warm start tries first: the best `top_k` of earlier sweeps, best first.
        stopped: by tasks done, (-value, trial) of those that the scheduler stopped, best first.
        to_prune: jobs whose last report is one to be stopped at.
        promoted_anyway: trials that are not stopped again (see `TrialPromoted`).
        clock: seconds the sweep has been at work, over all starts of its driver.
        completed: with `sweep.patience`, (score, mean seconds) of each trial when it completed; `best` are the best
            `top_k`, and have been for `unchanged` trials.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition if definition.begun is None else definition.with_extent(definition.begun)
        self.extended = list[events.SweepExtended]()
        sweep = self.definition.sweep
        self.suggestions_complete = sweep.search != "optuna"
        self.configs: list[Values] = self.definition.listed_configs() if self.suggestions_complete else []
        self.reports: dict[JobId, list[events.TaskReported]] = {}
        self.results: dict[RunId, events.RunFinished] = {}
        self.ends: dict[JobId, events.JobEnded] = {}
        self.started: set[int] = set()
        self._set_arms()
        self.pruner = PRUNERS[sweep.scheduler]()
        self.pruned_by_scheduler = f"by {SCHEDULER_NAMES[sweep.scheduler]}"
        self.promoted_anyway: set[int] = set()
        self.warm_start = events.WarmStarted([], [])
        self.warm_configs: list[Values] = []
        self.gpu_share: float | None = None
        self.clock = 0.0
        self.ranked: list[tuple[float, int]] = []
        self.incomplete = set(range(len(self.configs))) - self.untuned
        self.stopped: dict[int, list[tuple[float, int]]] = {}
        self.to_prune: set[JobId] = set()
        self.completed: dict[int, tuple[float, float]] = {}
        self.best: list[int] = []
        self.unchanged = 0
        self.cache: dict[Any, Any] = {}

    def _set_arms(self) -> None:
        arms, key = dict[Any, list[int]](), self.definition.compared
        for trial, config in enumerate(self.configs):
            if key is not None:
                arms.setdefault(config[key], []).append(trial)
        self.arms = list(arms.values())
        self.untuned = {arm[0] for arm in self.arms if len(arm) == 1}

    @property
    def pruned_as_dominated(self) -> str:
        """Why a trial is stopped that can no longer be a finalist, for the tables."""
        return f"{DOMINATED} {self.definition.sweep.top_k}"

    @property
    def n_planned(self) -> int:
        """How many trials phase 1 has without a budget or patience."""
        return len(self.configs) if self.suggestions_complete else self.definition.sweep.num_samples

    def runs(self, phase: int, trial: int) -> list[RunId]:
        """The runs of a trial in a phase, a seed each."""
        seeds = self.definition.sweep.seeds
        return [RunId(phase, trial, seed) for seed in (seeds.tuning if phase == 1 else seeds.reporting)]

    def jobs(self, phase: int, trial: int) -> list[JobId]:
        """The jobs of a trial in a phase."""
        return list(dict.fromkeys(run.job for run in self.runs(phase, trial)))

    def runs_of(self, job: JobId) -> list[RunId]:
        """The runs of a job, in their order."""
        return [run for run in self.runs(job.phase, job.trial) if run.job == job]

    def is_finished(self, job: JobId) -> bool:
        """Whether all runs of a job are finished."""
        return all(run in self.results for run in self.runs_of(job))

    def run_status(self, run: RunId) -> Status:
        """How a run stands."""
        if run in self.results:
            return Status.DONE
        end = self.ends.get(run.job)
        return Status.INCOMPLETE if end is None or end.status is Status.DONE else end.status  # DONE: its result is lost

    def trial_status(self, phase: int, trial: int) -> Status:
        """How a trial stands in a phase: done only if every run is."""
        statuses = {self.run_status(run) for run in self.runs(phase, trial)}
        return next((status for status in WORST if status in statuses), Status.DONE)

    def scores(self, phase: int, trial: int) -> list[float]:
        """The val metric of each finished run of a trial."""
        metric = self.definition.sweep.metric.removeprefix("val_")
        return [self.results[run].val[metric] for run in self.runs(phase, trial) if run in self.results]

    def score(self, phase: int, trial: int) -> float | None:
        """The mean val metric of a complete trial; None for any other."""
        if (phase == 1 and trial in self.untuned) or self.trial_status(phase, trial) is not Status.DONE:
            return None
        return mean(self.scores(phase, trial))

    def seconds(self, phase: int, trial: int) -> list[float]:
        """The seconds of each finished run of a trial."""
        return [self.results[run].seconds for run in self.runs(phase, trial) if run in self.results]

    def last_report(self, job: JobId) -> events.TaskReported | None:
        """The newest report of a job."""
        return self.reports[job][-1] if job in self.reports else None

    def exhausted_by(self) -> str | None:
        """The key by which phase 1 starts no further trial (`sweep.budget.trials=40`); None if there is none."""
        budget, patience = self.definition.sweep.budget, self.definition.sweep.patience
        if budget.trials is not None and len(self.started) >= budget.trials:
            return f"sweep.budget.trials={budget.trials}"
        if budget.hours is not None and self.clock >= 3600 * budget.hours:
            return f"sweep.budget.hours={budget.hours:g}"
        return f"sweep.patience={patience}" if patience is not None and self.unchanged >= patience else None

    def _count_patience(self, trial: int) -> None:
        """Count for how many completed trials in a row the best ones have been the same."""
        sweep = self.definition.sweep
        if sweep.patience is None or self.unchanged >= sweep.patience or trial in self.completed:
            return
        score, last = self.score(1, trial), self.last_report(JobId(1, trial))
        if score is not None:
            self.completed[trial] = score, fmean(self.seconds(1, trial))
        elif last is not None:  # the first journals have no ends of runs
            self.completed[trial] = last.value, last.seconds or 0.0
        before, self.best = self.best, sorted(select_best(self.completed, sweep.top_k, sweep.minimize is not None))
        self.unchanged = self.unchanged + 1 if self.best == before else 0

    def is_held(self, tasks: int) -> bool:
        """Whether trials wait after so many tasks until all have started, so that the best quarter is that of all."""
        sweep = self.definition.sweep
        if sweep.budget.hours is not None or sweep.patience is not None or sweep.search == "optuna":
            return False  # others may never start; Optuna learns from each completed trial
        return self.pruner.is_rung(tasks) and len(self.started) < self.n_planned and self.exhausted_by() is None

    def apply(self, event: Event, clock: float | None = None) -> None:
        """Add an event, at that time (None: not noted)."""
        self.cache.clear()
        self.clock = self.clock if clock is None else clock
        match event:
            case events.ConfigSuggested(config, trial):
                n, journal = len(self.configs), self.definition.folder / "journal.jsonl"
                if trial not in (None, n):
                    raise UserError(f"{journal} is damaged: it lacks the config of trial {n}; put back a whole copy.")
                self.configs.append(config)
                self._update(JobId(1, n))
            case events.SearchEnded():
                self.suggestions_complete = True
            case events.SweepExtended():
                self._extend(event)
            case events.GpuShareMeasured(share):
                self.gpu_share = share
            case events.WarmStarted():
                ranked = sorted(event.trials, key=lambda one: -one["score"])
                different = {repr(one["values"]): one["values"] for one in ranked}
                self.warm_start = event
                self.warm_configs = list(different.values())[: self.definition.sweep.top_k]
                if self.suggestions_complete:  # its best come first, in place of the last ones
                    self.configs = _union(self.warm_configs, self.configs, len(self.configs))
            case events.TrialStarted(trial):
                self.started.add(trial)
            case events.TrialPromoted(trial, anyway):
                if anyway:
                    self.promoted_anyway.add(trial)
                self.ends.pop(JobId(1, trial), None)
                for stopped in self.stopped.values():
                    stopped[:] = [one for one in stopped if one[1] != trial]
                self._update(JobId(1, trial))
            case events.TaskReported():
                self._apply_report(event)
            case events.RunFinished(run):
                self.results[run] = event
                self._update(run.job)
            case events.RunLost(run):  # with its result, what it reported is lost
                self.results.pop(run, None)
                self.reports[run.job] = [report for report in self.reports.get(run.job, []) if report.run != run]
                if not self.reports[run.job]:
                    del self.reports[run.job]
                self._update(run.job)
            case events.JobEnded():
                self._apply_end(event)
            case events.DriverStarted():
                for job in [job for job, end in self.ends.items() if end.status is Status.FAILED]:
                    del self.ends[job]
                    self._update(job)

    def _extend(self, event: events.SweepExtended) -> None:
        """The sweep goes further: new trials come after those there are, whose numbers remain."""
        dominated = self.pruned_as_dominated
        self.extended.append(self.definition.extent)
        self.definition = self.definition.with_extent(event)
        sweep, n_known = self.definition.sweep, len(self.configs)
        if sweep.search == "optuna":
            self.suggestions_complete &= sweep.num_samples == self.extended[-1].num_samples
        else:
            listed = self.definition.listed_configs()
            self.configs = _union(self.configs, listed, max(n_known, len(listed)))
            self.incomplete |= set(range(n_known, len(self.configs)))
        untuned = self.untuned
        self._set_arms()
        if sweep.top_k > self.extended[-1].top_k:  # these may now be among the best
            for job in [job for job, end in self.ends.items() if end.reason == dominated]:
                del self.ends[job]
                self._update(job)
        for trial in untuned - self.untuned:  # it has others beside it now
            self._update(JobId(1, trial))
        if sweep.patience is not None and sweep.num_samples > self.extended[-1].num_samples:  # counts anew
            for score, trial in self.ranked:
                self.completed.setdefault(trial, (-score, fmean(self.seconds(1, trial))))
            self.best = sorted(select_best(self.completed, sweep.top_k, sweep.minimize is not None))
            self.unchanged = 0

    def _apply_report(self, event: events.TaskReported) -> None:
        job, tasks, value = event.run.job, event.tasks_done, event.value
        self.reports.setdefault(job, []).append(event)
        if job.phase == 1:
            self.started.add(job.trial)
            self.pruner.observe(job, tasks, value)
            prune = self.is_held(tasks) or self.pruner.should_prune(tasks, value)
            (self.to_prune.add if prune and job.trial not in self.promoted_anyway else self.to_prune.discard)(job)

    def _apply_end(self, event: events.JobEnded) -> None:
        job, last = event.job, self.last_report(event.job)
        self.ends[job] = event
        self.to_prune.discard(job)
        if job.phase == 2:
            return
        self.started.add(job.trial)
        if event.status is Status.PRUNED and event.reason == self.pruned_by_scheduler and last is not None:
            insort(self.stopped.setdefault(last.tasks_done, []), (-last.value, job.trial))
        self._update(job)
        if event.status is Status.DONE:
            self._count_patience(job.trial)

    def _update(self, job: JobId) -> None:
        """Bring `incomplete` and `ranked` up to date after a change of a job of phase 1."""
        trial = job.trial
        if job.phase == 2 or trial in self.untuned or trial >= len(self.configs):
            return
        status = self.trial_status(1, trial)
        (self.incomplete.add if status is Status.INCOMPLETE else self.incomplete.discard)(trial)
        self.ranked = [one for one in self.ranked if one[1] != trial]
        if status is Status.DONE:
            insort(self.ranked, (-mean(self.scores(1, trial)), trial))


def _union(first: list[Values], then: list[Values], number: int) -> list[Values]:
    """The first `number` different configs."""
    return list({repr(values): values for values in (*first, *then)}.values())[:number]


def cached(function: Callable[[SweepState], T]) -> Callable[[SweepState], T]:
    """Compute a function of a state once between two events (and again when a budget of hours runs out)."""

    @wraps(function)
    def once(state: SweepState) -> T:
        key = function, state.exhausted_by()
        if key not in state.cache:
            state.cache[key] = function(state)
        return state.cache[key]

    return once
