"""A sweep of two phases on a cluster that is not there: a discrete-event simulation of what `ccsi.sweep` does.

What is run next, pruned, promoted and reported is decided by `ccsi.sweep` itself, from made-up events; simulated is
the time. The driver and the storage are each one queue served in order of arrival, a place is held by its job while
that waits, and a node that dies takes its jobs' work since their last checkpoint with it. Time is in seconds, sizes in
bytes.
"""

import heapq
import itertools
import math
import os
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import Event, JobId, RunFinished, RunId, TaskReported
from ccsi.sweep.journal import Journal
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder
from ccsi.sweep.trial_generator import generate_jobs, reason_to_stop

Steps = Generator[float, None, None]
"""A process: it yields the time at which it continues."""


@dataclass(frozen=True)
class Trial:
    """A trial's run: seconds of each task, and its score, a mean over the tasks so far, after each; both phases."""

    seconds: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Rules:
    """The sweep's own settings.

    Args:
        top_k, reporting: trials that phase 2 reports, and seeds of each there.
        asha: whether ASHA prunes phase 1.
        bounded: whether the metric is a mean over tasks (val_average_incremental), of which a part bounds the whole.
    """

    top_k: int = 2
    reporting: int = 3
    asha: bool = False
    bounded: bool = True


@dataclass(frozen=True)
class Costs:
    """What there is beside the trials' own work; by default nothing.

    Args:
        start, report, end: the driver's work when a job starts, reports a task that is not its last, ends.
        per_trial, per_place: what each of these grows by with every trial so far, and with every place at work.
        hop: from the driver's order to the trial's first step, when neither works.
        worker: until a worker process is there, the first trial's wait at each place; or of each place.
        checkpoint, bandwidth, interval: bytes of one, bytes a second of the storage all share, and seconds of work
            between two; there is one after each task too.
        mtbf, detect, repair: mean seconds between failures of a node; until a death is noticed; until it is back.
    """

    start: float = 0.0
    report: float = 0.0
    end: float = 0.0
    per_trial: float = 0.0
    per_place: float = 0.0
    hop: float = 0.0
    worker: float | Sequence[float] = 0.0
    checkpoint: float = 0.0
    bandwidth: float = math.inf
    interval: float = math.inf
    mtbf: float = math.inf
    detect: float = 17.0
    repair: float = 600.0

    def driver_seconds(self, tasks: int, trials: float, places: float) -> float:
        """The driver's work for a trial, when so many have been and so many places are at work."""
        grown = self.per_trial * trials + self.per_place * places
        return self.start + self.end + (tasks - 1) * self.report + (tasks + 1) * grown

    def checkpoints(self, trial: Trial) -> int:
        """How many a trial writes."""
        return sum(max(1, math.ceil(seconds / self.interval)) for seconds in trial.seconds)


@dataclass
class Job:
    """A job of the sweep.

    Attributes:
        task: tasks done. saved: seconds of the next one that a checkpoint holds.
        since, step: when its present work began, if not saved yet, and how long that takes.
        worked: seconds of its work that count. stopped: by the driver.
    """

    id: JobId
    task: int = 0
    saved: float = 0.0
    since: float | None = None
    step: float = 0.0
    worked: float = 0.0
    stopped: bool = False


@dataclass
class Server:
    """One after another, in order of arrival."""

    free: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When it is done."""
        self.free = max(self.free, now) + seconds
        self.busy += seconds
        return self.free


@dataclass(eq=False)
class Place:
    """Room for one trial on a node; `life` counts the node's deaths."""

    node: int
    worker: float
    warm: bool = False
    life: int = 0
    job: Job | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        makespan: until phase 2 was over.
        bound: no schedule does the same work sooner: the work divided by the places, the longest trial of phase 1, or
            a trial in phase 1 and then a run of it in phase 2, whichever is longest.
        work, lost: seconds of the trials' work that counts, and that was done again.
        driver, storage: the share of the time each was busy.
        trials, pruned: how many started, and how many of them ASHA stopped.
    """

    makespan: float
    bound: float
    work: float
    lost: float
    driver: float
    storage: float
    trials: float
    pruned: float

    @property
    def efficiency(self) -> float:
        """The lower bound over the makespan."""
        return self.bound / self.makespan


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Of each figure."""
    return Outcome(**{one.name: float(np.mean([getattr(o, one.name) for o in outcomes])) for one in fields(Outcome)})


class NoJournal(Journal):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def read(self) -> list[tuple[Event, float | None]]:
        return []

    def append(self, event: Event, clock: float, *more: Event) -> None:
        pass


class Recorder(SweepRecorder):
    """A sweep that is written nowhere."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition)
        self.journal = NoJournal()


@cache
def composed() -> Definition:
    return compose(["_target_=standin.run", "+quality=0.5", "sweep.space={}", "sweep.search=grid"])


def define(n_trials: int, rules: Rules) -> Definition:
    """A sweep of so many trials; the configurations of its runs are empty."""
    seeds = replace(composed().sweep.seeds, tuning=[100], reporting=list(range(rules.reporting)))
    space = {"quality": {"grid": list(range(n_trials))}}
    metric: Any = "val_average_incremental" if rules.bounded else "val_macro_over_tasks"
    sweep = replace(composed().sweep, space=space, seeds=seeds, top_k=rules.top_k, metric=metric)
    sweep = replace(sweep, scheduler="asha" if rules.asha else "none")
    definition = with_folder(replace(composed(), sweep=sweep), Path(os.devnull))
    object.__setattr__(definition, "run_config", lambda *given: {})  # it is frozen
    return definition


class Sweep:
    """One sweep: `Sweep(…).run()`. `per_node` jobs fit a node; `seed` is of the nodes' deaths."""

    def __init__(
        self,
        trials: Sequence[Trial],
        nodes: int,
        per_node: int = 1,
        rules: Rules = Rules(),
        costs: Costs = Costs(),
        seed: int = 0,
    ) -> None:
        self.trials, self.rules, self.costs, self.rng = trials, rules, costs, np.random.default_rng(seed)
        starts = [costs.worker] * nodes * per_node if isinstance(costs.worker, int | float) else costs.worker
        self.places = [Place(number % nodes, start) for number, start in enumerate(starts)]
        self.now, self.lost, self.begun = 0.0, 0.0, 0
        self.recorder = Recorder(define(len(trials), rules))
        self.offered = generate_jobs(self.recorder)
        self.jobs: dict[JobId, Job] = {}
        self.again: deque[Job] = deque()  # of nodes that died
        self.driver, self.storage = Server(), Server()
        self.free = deque(self.places)
        self.heap: list[tuple[float, int, Steps, Place | None, int]] = []
        self.order = itertools.count()

    @property
    def chosen(self) -> set[int]:
        """The trials that phase 2 has reported."""
        return {job.trial for job in self.jobs if job.phase == 2}

    def run(self) -> Outcome:
        """Until phase 2 is over."""
        if self.costs.mtbf < math.inf:
            for node in range(max(place.node for place in self.places) + 1):
                self._continue(self._node([place for place in self.places if place.node == node]), None)
        self._hand_out()
        while not selection.is_over(self.recorder.state):
            self.now, _, steps, place, life = heapq.heappop(self.heap)
            if place is None or place.life == life:
                self._continue(steps, place)
        paths = [
            job.worked + (sum(self.trials[job.id.trial].seconds) if job.id.trial in self.chosen else 0.0)
            for job in self.jobs.values()
            if job.id.phase == 1
        ]
        work = sum(job.worked for job in self.jobs.values())
        bound = max(work / len(self.places), *paths, 0.0)
        shares = self.driver.busy / self.now, self.storage.busy / self.now
        pruned = sum(map(len, self.recorder.state.stopped.values()))
        return Outcome(self.now, bound, work, self.lost, *shares, self.begun, pruned)

    def _continue(self, steps: Steps, place: Place | None) -> None:
        when = next(steps, None)
        if when is not None:
            heapq.heappush(self.heap, (when, next(self.order), steps, place, place.life if place else 0))

    def _hand_out(self) -> None:
        while self.free:
            if self.again:
                job = self.again.popleft()
            else:
                offered = next(self.offered, None)
                if offered is None:
                    return
                name = JobId.parse(offered["name"])
                job = self.jobs.setdefault(name, Job(name))
                job.stopped = False
            place = self.free.popleft()
            place.job = job
            self._continue(self._job(place, job), place)

    # processes

    def _job(self, place: Place, job: Job) -> Steps:
        costs, seconds = self.costs, self.trials[job.id.trial].seconds
        self.begun += 1
        yield self._driver(costs.start)
        yield self.now + costs.hop + (0.0 if place.warm else place.worker)
        place.warm = True
        while job.task < len(seconds) and not job.stopped:  # it is, if its node died before the driver heard its end
            whole = seconds[job.task]
            while job.saved < whole:
                job.since, job.step = self.now, min(whole - job.saved, costs.interval)
                yield self.now + job.step
                if costs.checkpoint:
                    yield self.storage.serve(self.now, costs.checkpoint / costs.bandwidth)
                left = whole - job.saved - job.step
                job.saved = whole if left < 1e-9 else whole - left
                job.worked, job.since = job.worked + job.step, None
            job.task, job.saved = job.task + 1, 0.0
            if job.task < len(seconds):
                yield self._driver(costs.report)
                job.stopped = self._reported(job)
        yield self._driver(costs.end)
        place.job = None
        self.free.append(place)
        if not job.stopped:
            self._reported(job)
        self.recorder.end_job(job.id, None)
        self._hand_out()

    def _driver(self, seconds: float) -> float:
        grown = self.costs.per_trial * self.begun + self.costs.per_place * (len(self.places) - len(self.free))
        return self.driver.serve(self.now, seconds + grown)

    def _node(self, places: Sequence[Place]) -> Steps:
        while True:
            yield self.now + self.rng.exponential(self.costs.mtbf)
            for place in places:
                place.life, place.warm = place.life + 1, False
                if place.job is None:
                    self.free.remove(place)
                elif place.job.since is not None:
                    self.lost += min(self.now - place.job.since, place.job.step)
                    place.job.since = None
            yield self.now + self.costs.detect
            self.again.extendleft(place.job for place in places if place.job is not None)
            self._hand_out()
            yield self.now + self.costs.repair
            for place in places:
                place.job = None
            self.free.extend(places)
            self._hand_out()

    def _reported(self, job: Job) -> bool:
        """Record that a job has done a task; returns whether it is to stop, though it is not finished."""
        trial, tasks = self.trials[job.id.trial], len(self.trials[job.id.trial].seconds)
        run = RunId(job.id.phase, job.id.trial, 100 if job.id.seed is None else job.id.seed)
        score = trial.scores[job.task - 1]
        report = TaskReported(run, job.task, job.task, score, tasks, score, job.worked)
        if job.task == tasks:
            val = {"average_incremental": score, "macro_over_tasks": score}
            self.recorder.report(report, RunFinished(run, tasks, val, sum(trial.seconds)))
            return False
        self.recorder.report(report)
        reason = reason_to_stop(self.recorder, job.id)
        if reason is not None:
            self.recorder.stopping[job.id] = reason
        return reason is not None
