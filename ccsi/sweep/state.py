"""The state of a sweep: a pure fold over its events. It reads no file and decides nothing; see `selection` for that."""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from statistics import fmean
from typing import Any, TypeVar

from ccsi.sweep import events
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import Event, JobId, RunId, Status, Values
from ccsi.sweep.pruners import PRUNERS, SCHEDULER_NAMES
from ccsi.sweep.ranking import mean, select_best

T = TypeVar("T")
WORST = (Status.FAILED, Status.PRUNED, Status.INCOMPLETE)
"""A trial is what the worst of its runs is, in this order."""


class MissingConfigError(Exception):
    """The journal lacks an event that later ones build on."""


@dataclass
class Patience:
    """For how many completed trials the best ones have been the same. scores, seconds: when each completed."""

    scores: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    best: list[int] = field(default_factory=list)
    unchanged: int = 0
    exhausted: bool = False


class SweepState:
    """What has happened in a sweep so far; changed by `apply` alone.

    A trial is named by its number, the index of its config.

    Attributes:
        configs: of the trials, as far as they are suggested.
        n_planned: how many trials phase 1 has without a budget or patience.
        reports: by job, oldest first. results: by finished run. ends: by job.
        started: trials handed out in phase 1.
        arms: where candidates are compared (`each` in the space), the trials of each; else empty.
        untuned: trials that are reported without a phase 1, because their arm has no other.
        promoted_anyway: trials that are not stopped again (see `TrialPromoted`).
        warm_start: what earlier sweeps found.
        gpu_share: the fraction of a GPU a trial gets, if it was measured.
        clock: seconds the sweep has been at work, over all starts of its driver.
        completed: trials in the order in which they completed phase 1.
        ranked: (-score, trial) of the completed ones, best first. incomplete: trials that have not ended.
        stopped: by tasks done, (-value, trial) of those that the scheduler stopped, best first.
        to_prune: jobs whose last report is one to be stopped at.
        cache: for `cached` functions.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        sweep = definition.sweep
        suggested = sweep.search == "optuna"
        self.configs: list[Values] = [] if suggested else definition.listed_configs()
        self.suggestions_complete = not suggested
        self.reports: dict[JobId, list[events.TaskReported]] = {}
        self.results: dict[RunId, events.RunFinished] = {}
        self.ends: dict[JobId, events.JobEnded] = {}
        self.started: set[int] = set()
        self.arms = self._find_arms()
        self.untuned = {arm[0] for arm in self.arms if len(arm) == 1}
        self.pruner = PRUNERS[sweep.scheduler]()
        self.pruned_by_scheduler = f"by {SCHEDULER_NAMES[sweep.scheduler]}"
        self.promoted_anyway: set[int] = set()
        self.warm_start = events.WarmStarted([], [])
        self.gpu_share: float | None = None
        self.clock = 0.0
        self.completed: list[int] = []
        self.ranked: list[tuple[float, int]] = []
        self.incomplete = set(range(len(self.configs))) - self.untuned
        self.stopped: dict[int, list[tuple[float, int]]] = {}
        self.to_prune: set[JobId] = set()
        self.patience = Patience()
        self.cache: dict[Any, Any] = {}

    def _find_arms(self) -> list[list[int]]:
        key, arms = self.definition.compared, dict[Any, list[int]]()
        if key is None:
            return []
        for trial, values in enumerate(self.configs):
            arms.setdefault(values[key], []).append(trial)
        return list(arms.values())

    # runs and jobs

    @property
    def n_planned(self) -> int:
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
        return Status.INCOMPLETE if end is None or end.status is Status.DONE else end.status  # DONE: its result is gone

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

    # limits

    def exhausted_by(self) -> str | None:
        """The key by which phase 1 starts no further trial (`sweep.budget.trials=40`); None if there is none."""
        sweep = self.definition.sweep
        if sweep.budget.trials is not None and len(self.started) >= sweep.budget.trials:
            return f"sweep.budget.trials={sweep.budget.trials}"
        if sweep.budget.hours is not None and self.clock >= 3600 * sweep.budget.hours:
            return f"sweep.budget.hours={sweep.budget.hours:g}"
        if self.patience.exhausted:
            return f"sweep.patience={sweep.patience}"
        return None

    def _count_patience(self, trial: int) -> None:
        """Count for how many completed trials in a row the best ones have been the same."""
        count, sweep = self.patience, self.definition.sweep
        if sweep.patience is None or count.exhausted:
            return
        last, score, seconds = self.last_report(JobId(1, trial)), self.score(1, trial), self.seconds(1, trial)
        if score is None and last is not None:  # the first journals have no ends of runs
            score, seconds = last.value, [last.seconds or 0.0]
        if score is not None:
            count.scores[trial], count.seconds[trial] = score, fmean(seconds)
        best = sorted(select_best(count.scores, count.seconds if sweep.minimize else None, sweep.top_k))
        count.unchanged = count.unchanged + 1 if best == count.best else 0
        count.best, count.exhausted = best, count.unchanged >= sweep.patience

    def is_held(self, tasks: int) -> bool:
        """Whether all trials wait after so many tasks, because others have not been started.

        The best quarter of all is a better choice than that of the first ones. None is held with a limit on hours or
        patience, because there may be no others; nor with Optuna, which learns from each completed trial.
        """
        sweep = self.definition.sweep
        no_others = sweep.budget.hours is not None or sweep.patience is not None
        if not self.pruner.is_rung(tasks) or no_others or sweep.search == "optuna":
            return False
        return len(self.started) < self.n_planned and self.exhausted_by() is None

    def should_prune(self, tasks: int, value: float) -> bool:
        """Whether a trial of phase 1 with this value after so many tasks stops for now."""
        return self.is_held(tasks) or self.pruner.should_prune(tasks, value)

    # events

    def apply(self, event: Event, clock: float | None = None) -> None:
        """Add an event, at that time (None: not noted)."""
        self.cache.clear()
        self.clock = self.clock if clock is None else clock
        match event:
            case events.ConfigSuggested():
                self._apply_suggestion(event)
            case events.SearchEnded():
                self.suggestions_complete = True
            case events.GpuShareMeasured():
                self.gpu_share = event.share
            case events.WarmStarted():
                self._apply_warm_start(event)
            case events.TrialStarted():
                self.started.add(event.trial)
            case events.TrialPromoted():
                self._apply_promotion(event)
            case events.TaskReported():
                self._apply_report(event)
            case events.RunFinished():
                self.results[event.run] = event
                self._update_job(event.run.job)
            case events.RunLost():
                self._apply_loss(event.run)
            case events.JobEnded():
                self._apply_end(event)
            case events.DriverStarted():
                failed = [job for job, end in self.ends.items() if end.status is Status.FAILED]
                for job in failed:
                    del self.ends[job]
                    self._update_job(job)

    def _apply_suggestion(self, event: events.ConfigSuggested) -> None:
        if event.trial is not None and event.trial != len(self.configs):
            raise MissingConfigError(f"the config of trial {len(self.configs)}")
        self.configs.append(event.config)
        self._update(len(self.configs) - 1)

    def _apply_loss(self, run: RunId) -> None:
        """A run's result is gone, and with it what it reported."""
        self.results.pop(run, None)
        if run.job in self.reports:
            self.reports[run.job] = [report for report in self.reports[run.job] if report.run != run]
            if not self.reports[run.job]:
                del self.reports[run.job]
        self._update_job(run.job)

    def _apply_warm_start(self, event: events.WarmStarted) -> None:
        self.warm_start = event
        if self.suggestions_complete:  # its best come first, in place of the last ones
            configs = {repr(values): values for values in (*self.warm_configs(), *self.configs)}
            self.configs = list(configs.values())[: len(self.configs)]

    def warm_configs(self) -> list[Values]:
        """The configs that a warm start tries first: the best `top_k` of earlier sweeps, best first."""
        ranked = sorted(self.warm_start.trials, key=lambda one: -one["score"])
        different = {repr(one["values"]): one["values"] for one in ranked}
        return list(different.values())[: self.definition.sweep.top_k]

    def _apply_promotion(self, event: events.TrialPromoted) -> None:
        if event.anyway:
            self.promoted_anyway.add(event.trial)
        self.ends.pop(JobId(1, event.trial), None)
        for trials in self.stopped.values():
            trials[:] = [one for one in trials if one[1] != event.trial]
        self._update(event.trial)

    def _apply_report(self, event: events.TaskReported) -> None:
        job = event.run.job
        self.reports.setdefault(job, []).append(event)
        if job.phase == 1:
            self.started.add(job.trial)
            self.pruner.observe(job, event.tasks_done, event.value)
            prune = job.trial not in self.promoted_anyway and self.should_prune(event.tasks_done, event.value)
            (self.to_prune.add if prune else self.to_prune.discard)(job)

    def _apply_end(self, event: events.JobEnded) -> None:
        job = event.job
        self.ends[job] = event
        self.to_prune.discard(job)
        if job.phase == 2:
            return
        self.started.add(job.trial)
        last = self.last_report(job)
        if event.status is Status.PRUNED and event.reason == self.pruned_by_scheduler and last is not None:
            insort(self.stopped.setdefault(last.tasks_done, []), (-last.value, job.trial))
        self._update(job.trial)
        if event.status is Status.DONE and job.trial not in self.completed:
            self.completed.append(job.trial)
            self._count_patience(job.trial)

    def _update_job(self, job: JobId) -> None:
        if job.phase == 1:
            self._update(job.trial)

    def _update(self, trial: int) -> None:
        """Bring `incomplete` and `ranked` up to date with a trial of phase 1."""
        if trial in self.untuned or trial >= len(self.configs):
            return
        status = self.trial_status(1, trial)
        (self.incomplete.add if status is Status.INCOMPLETE else self.incomplete.discard)(trial)
        entry = (-mean(self.scores(1, trial)), trial) if status is Status.DONE else None
        if entry is not None:
            position = bisect_left(self.ranked, entry)
            if self.ranked[position : position + 1] == [entry]:
                return
        self.ranked = [one for one in self.ranked if one[1] != trial]
        if entry is not None:
            insort(self.ranked, entry)


def cached(function: Callable[[SweepState], T]) -> Callable[[SweepState], T]:
    """Compute a function of a state once between two events (and again when a budget of hours runs out)."""

    @wraps(function)
    def once(state: SweepState) -> T:
        key = function, state.exhausted_by()
        if key not in state.cache:
            state.cache[key] = function(state)
        found: T = state.cache[key]
        return found

    return once
