"""A sweep of two phases on a cluster that is not there: a discrete-event simulation of what `ccsi.sweep` does.

Settings are handed out in order to whatever place is free; ASHA or nothing prunes, without a limit on hours; a
setting goes on to phase 2 when it is certain to be among the best, as in `ccsi.sweep.book`. The driver and the storage
are each one queue served in order of arrival, a place is held by its trial while that waits, and a node that dies takes
its trials' work since their last checkpoint with it. Time is in seconds, sizes in bytes.
"""

import heapq
import itertools
import math
from bisect import insort
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ccsi.sweep.rungs import Halving

Steps = Generator[float, None, None]
"""A process: it yields when it is to go on."""


@dataclass(frozen=True)
class Trial:
    """A setting's run: seconds of each task, and its score, a mean over the tasks so far, after each; both phases."""

    seconds: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Rules:
    """The sweep's own settings.

    Args:
        top_k, reporting: settings that go on to phase 2, and seeds of each there.
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
        start, report, end: the driver's work when a trial starts, tells of a task that is not its last, ends.
        per_trial, per_place: what each of these grows by with every trial so far, and with every place at work.
        hop: from the driver's word to the trial's first step, when neither works.
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
    """A trial of the sweep: of phase 1, or one seed of phase 2.

    Attributes:
        task: tasks done. saved: seconds of the next one that a checkpoint holds.
        since, step: when its present work began, if not saved yet, and how long that takes.
        worked: seconds of its work that count. stopped: by ASHA.
    """

    setting: int
    phase: int
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
            a setting's trial of phase 1 and then one of phase 2, whichever is longest.
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


class Sweep:
    """One sweep: `Sweep(…).run()`. `per_node` trials fit a node; `seed` is of the nodes' deaths."""

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
        self.spared: set[int] = set()  # stopped by ASHA, and going on to their end all the same
        self.waiting: dict[int, list[tuple[float, int, Job]]] = {}  # by tasks done: those ASHA stopped, best first
        self.driver, self.storage = Server(), Server()
        self.free = deque(self.places)
        self.jobs = [Job(number, 1) for number in range(len(trials))]
        self.queue = deque(self.jobs)
        self.unfinished: dict[int, float] = {}  # settings of phase 1 at work -> what their score can still become
        self.ranked: list[tuple[float, int]] = []  # (-score, setting) of the completed ones
        self.rule = Halving()
        self.chosen: set[int] = set()
        self.left = min(rules.top_k, len(trials)) * rules.reporting  # trials of phase 2 that have not ended
        self.heap: list[tuple[float, int, Steps, Place | None, int]] = []
        self.order = itertools.count()

    def run(self) -> Outcome:
        """Until phase 2 is over."""
        if self.costs.mtbf < math.inf:
            for node in range(max(place.node for place in self.places) + 1):
                self._go_on(self._node([place for place in self.places if place.node == node]), None)
        self._hand_out()
        while self.left:
            self.now, _, steps, place, life = heapq.heappop(self.heap)
            if place is None or place.life == life:
                self._go_on(steps, place)
        paths = [
            job.worked + (sum(self.trials[job.setting].seconds) if job.setting in self.chosen else 0.0)
            for job in self.jobs
            if job.phase == 1
        ]
        work = sum(job.worked for job in self.jobs)
        bound = max(work / len(self.places), *paths, 0.0)
        shares = self.driver.busy / self.now, self.storage.busy / self.now
        return Outcome(self.now, bound, work, self.lost, *shares, self.begun, sum(map(len, self.waiting.values())))

    def _go_on(self, steps: Steps, place: Place | None) -> None:
        when = next(steps, None)
        if when is not None:
            heapq.heappush(self.heap, (when, next(self.order), steps, place, place.life if place else 0))

    def _hand_out(self) -> None:
        while self.free:
            again = self._recalled()
            if again is not None:
                self.queue.appendleft(self._let_go(*again))
            if not self.queue:
                return
            place, job = self.free.popleft(), self.queue.popleft()
            place.job = job
            if job.phase == 1:
                self.unfinished.setdefault(job.setting, 1.0)
            self._go_on(self._trial(place, job), place)

    # processes

    def _trial(self, place: Place, job: Job) -> Steps:
        costs, seconds = self.costs, self.trials[job.setting].seconds
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
                if job.phase == 1 and self._stops(job):
                    break
        yield self._driver(costs.end)
        place.job = None
        self.free.append(place)
        self._ended(job)
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
            self.queue.extendleft(place.job for place in places if place.job is not None)
            self._hand_out()
            yield self.now + self.costs.repair
            for place in places:
                place.job = None
            self.free.extend(places)
            self._hand_out()

    # what the driver decides

    def _stops(self, job: Job) -> bool:
        """Whether a trial of phase 1 that has done a task, but not its last, ends here."""
        trial, done = self.trials[job.setting], job.task
        score, tasks = trial.scores[done - 1], len(trial.seconds)
        self.unfinished[job.setting] = (done * score + tasks - done) / tasks if self.rules.bounded else 1.0
        if job.setting in self._hopeless():
            return True
        if self.rules.asha:
            self.rule.note(str(job.setting), done, score)
            held = self.rule.is_rung(done) and not self._all_begun()
            if job.setting not in self.spared and (held or self.rule.lags(done, score)):
                job.stopped = True
                return True
        self._choose()
        return False

    def _ended(self, job: Job) -> None:
        if job.phase == 2:
            self.left -= 1
            return
        del self.unfinished[job.setting]
        trial = self.trials[job.setting]
        if job.stopped:
            one = (-trial.scores[job.task - 1], job.setting, job)
            insort(self.waiting.setdefault(job.task, []), one, key=lambda one: one[:2])
        elif job.task == len(trial.seconds):
            insort(self.ranked, (-trial.scores[-1], job.setting))
            self.rule.note(str(job.setting), job.task, trial.scores[-1])
        self._choose()

    def _recalled(self) -> tuple[int, bool] | None:
        """After how many tasks the one waits that goes on next, and whether it is spared; see `Book.recalled`."""
        rungs = sorted((done for done, ones in self.waiting.items() if ones), reverse=True)
        for done in rungs if self._all_begun() else ():
            if self.rule.may_go_on(done, -self.waiting[done][0][0], len(self.rule.values[done])):
                return done, False
        enough = len(self.ranked) + len(self.unfinished) >= self.rules.top_k
        if not rungs or enough or not self._all_begun() or self.unfinished.keys() - self.spared:
            return None
        return rungs[0], True

    def _let_go(self, done: int, spared: bool) -> Job:
        job = self.waiting[done].pop(0)[2]
        job.stopped = False
        if spared:
            self.spared.add(job.setting)
        return job

    def _contenders(self) -> list[float]:
        """What the scores of those that wait and may still go on can become."""
        bounds = []
        for done, ones in self.waiting.items():
            for score, setting, _ in ones:
                if not self.rule.may_go_on(done, -score, len(self.trials)):
                    break
                tasks = len(self.trials[setting].seconds)
                bounds.append((tasks - done - done * score) / tasks if self.rules.bounded else 1.0)
        return bounds

    def _all_begun(self) -> bool:
        return not any(job.phase == 1 and job.setting not in self.unfinished for job in self.queue)

    def _hopeless(self) -> set[int]:
        """See `ccsi.sweep.book.Book.hopeless`."""
        if len(self.ranked) < self.rules.top_k or not self._all_begun():
            return set()
        worst = -self.ranked[self.rules.top_k - 1][0]
        found = {setting for setting, bound in self.unfinished.items() if bound < worst}
        waits = self.rules.asha and any(bound >= worst for bound in self._contenders())
        return set() if self.rules.asha and (waits or len(found) < len(self.unfinished)) else found

    def _choose(self) -> None:
        """Queue phase 2 of the settings that have become certain, see `ccsi.sweep.book.Book.chosen`."""
        if not self._all_begun():
            return
        over = not self.unfinished and self._recalled() is None
        bounds = [] if over else [*self.unfinished.values(), *self._contenders()]
        for place, (negative, setting) in enumerate(self.ranked[: self.rules.top_k]):
            if place + sum(bound >= -negative for bound in bounds) >= self.rules.top_k:
                break
            if setting not in self.chosen:
                self.chosen.add(setting)
                new = [Job(setting, 2) for _ in range(self.rules.reporting)]
                self.jobs += new
                self.queue += new
