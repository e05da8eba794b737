"""How long the rest of a run takes: from what it has measured, else from a few steps of a copy of the learner on noise.

A forecast holds numbers and no image. The copy draws from generators of its own, so the run computes the same bits.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import torch

from ccsi.data import Dataset, Labelled, Task
from ccsi.evaluation import metrics
from ccsi.learners import NetLearner
from ccsi.stage import LOG_EVERY, Stage, Stages
from ccsi.synthesis import Synthesis

T = TypeVar("T")
WARM_UP = 2  # steps of a stage that are not timed
ENOUGH = 6, 0.15  # timed steps and seconds after which a stage ends
SLOW = 0.15  # seconds of a step; of slower ones two end a stage, the first to warm up
BUDGET = 5.0  # seconds for a probe; a net that needs more has no estimate until its times are measured
PARTS = 8  # slow steps that a probe takes at least
BATCHES = {False: 8, True: 3}  # of noise in an epoch; True: of a slow net
SCORED = {False: 256, True: 32}  # images of noise that are scored
FORWARD = 3  # a training step takes at least so many times as long as a forward pass of its batch


@dataclass(frozen=True)
class TaskSize:
    """A task in numbers: its training and val images, images scored after it in all splits, old and new classes."""

    n_train: int
    n_val: int
    n_scored: int
    n_old: int
    n_new: int


def task_sizes(data: Dataset, plan: Sequence[Sequence[int]], everything: bool, splits: Sequence[str]) -> list[TaskSize]:
    """The sizes of a plan's tasks; everything: each trains on all classes so far; splits: those that are scored."""
    n = len(data.class_names)
    counts = {split: getattr(data, split).labels.bincount(minlength=n).tolist() for split in ("train", "val", "test")}

    def images(split: str, classes: Sequence[int]) -> int:
        return sum(counts[split][c] for c in classes)

    sizes = []
    for index, own in enumerate(plan):
        seen = [c for classes in plan[: index + 1] for c in classes]
        trained = seen if everything else own
        scored = sum(images(split, seen) for split in splits)
        sizes.append(TaskSize(images("train", trained), images("val", trained), scored, len(seen) - len(own), len(own)))
    return sizes


@dataclass
class Timed:
    """The times of a stage's steps, as its `Stage` hears of them.

    Attributes:
        steps, own, replayed: see `Stage.plan`. stamps: when each step was over. seconds: of all that was done.
    """

    device: torch.device
    steps: int = 0
    own: int = 0
    replayed: int = 0
    stamps: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def plan(self, steps: int, own: int, replayed: int) -> None:
        self.steps, self.own, self.replayed = steps, own, replayed

    def due(self) -> bool:
        """Called after each step; no checkpoint is due."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.stamps.append(time.perf_counter())
        return False

    def measured(self) -> bool:
        timed, gaps = self.stamps[WARM_UP:], self.gaps()
        if len(gaps) > 1 and min(gaps) > SLOW:
            return True
        return len(timed) > ENOUGH[0] and timed[-1] - timed[0] > ENOUGH[1]

    def gaps(self) -> list[float]:
        """Seconds of each step but the first."""
        return [after - before for before, after in zip(self.stamps, self.stamps[1:], strict=False)]

    def step(self) -> float:
        """Seconds of a step: the median, because an epoch's end takes longer than a step."""
        gaps = self.gaps()
        return median(gaps[WARM_UP:] or gaps[-1:] or [self.seconds / max(1, self.steps)])


class OutOfTimeError(Exception):
    """A probe needs more than its `BUDGET`."""


def seconds_of_a_step(learner: NetLearner, shape: torch.Size) -> float:
    """At least so long does a step of training take; from forward passes of a few images."""
    net, seconds = copy.deepcopy(learner.net).eval(), 0.0
    for n in (1, 2, 16):  # the first to warm up, the last only if the net is not slow by far
        images = torch.zeros(n, *shape, dtype=net.scale.dtype, device=learner.device)
        began = time.perf_counter()
        with torch.no_grad():
            net.features(images).sum().item()  # waits for the device
        seconds = (time.perf_counter() - began) * FORWARD * learner.training.batch_size / n
        if n > 1 and seconds > BUDGET:
            break
    return seconds


class TimedStages(Stages):
    """The stages of a task, each ended after the few steps that say how long one takes."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.timed = device, dict[str, Timed]()

    def run(self, name: str, work: Callable[[Stage], T]) -> T:
        timed, began = Timed(self.device), time.perf_counter()
        self.timed[name] = timed
        result = work(Stage(due=timed.due, plan=timed.plan, measured=timed.measured))
        timed.seconds = time.perf_counter() - began
        return result


class Forecast:
    """Estimates the seconds that are left of a run, task by task and stage by stage.

    A stage's time is proportional to its images: those drawn in training, those made in synthesis; others always take
    the same. The first task, whose net is new, says nothing of later ones: these are known from `probe`, until one was
    learned.

    Attributes:
        tasks: sizes of all tasks. n_done: how many have been learned in this process.
        rates: of the stages of the first task (True) and of later ones (False), seconds for each unit of `weight`.
        later_known: whether the stages of later tasks are known, which may be none.
        other, scoring: seconds for each training image outside of stages, and for each image scored.
    """

    def __init__(self, tasks: Sequence[TaskSize], learner: NetLearner) -> None:
        self.tasks, self.n_done, self.later_known, self.too_slow = tasks, 0, False, False
        self.synthesis: Synthesis | None = getattr(learner, "synthesis", None)
        self.replay_grows = getattr(getattr(learner, "budget", None), "total", None) is None
        self.replayed: dict[str, float] = {}  # by a stage of training, for each old class if that grows
        self.rates: dict[bool, dict[str, float]] = {True: {}, False: {}}
        self.other = self.scoring = 0.0

    def weight(self, stage: str, task: int) -> float:
        """What a stage's time is proportional to."""
        size = self.tasks[task]
        if stage == "synthesis" and self.synthesis is not None and size.n_old:
            return self.synthesis.labels(size.n_old, task).numel()
        if stage in self.replayed:
            return size.n_train + self.replayed[stage] * (size.n_old if self.replay_grows else 1)
        return 1.0

    def cost(self, stage: str, task: int) -> float:
        """Seconds of a stage of a task."""
        return self.rates[task == 0][stage] * self.weight(stage, task)

    def learn_cost(self, stage: str, task: int, seconds: float) -> None:
        """Take over how long a stage of a task took, or will take."""
        self.rates[task == 0][stage] = seconds / self.weight(stage, task)

    def after_stages(self, task: int) -> float:
        """Seconds of a task outside of its stages."""
        return self.other * self.tasks[task].n_train + self.scoring * self.tasks[task].n_scored

    def left(self, task: int) -> float | None:
        """Seconds of the tasks from number `task` on; None while nothing is known of them."""
        if task < len(self.tasks) and not self.later_known:
            return None
        later = range(task, len(self.tasks))
        return sum(self.after_stages(k) + sum(self.cost(name, k) for name in self.rates[k == 0]) for k in later)

    def start_task(self, task: int, whole: bool) -> None:
        """A task starts; whole: from its beginning, and not from a checkpoint inside it."""
        self.task, self.whole, self.began = task, whole, time.monotonic()
        self.seen: list[str] = []

    def progress(self, stage: str, step: int, steps: int) -> float | None:
        """The seconds left at a logging point; what a stage has taken so far corrects what is expected of it."""
        now = time.monotonic()
        if stage not in self.seen:
            self.seen.append(stage)
            self.stage_began, self.first_step = now, step
        done = step - self.first_step
        if done >= min(LOG_EVERY, steps / 10):  # fewer steps may include the end of an epoch
            self.learn_cost(stage, self.task, (now - self.stage_began) / done * steps)
        rates, later = self.rates[self.task == 0], self.left(self.task + 1)
        if later is None or stage not in rates:
            return None
        waiting = sum(self.cost(name, self.task) for name in rates if name not in self.seen)
        rest = self.cost(stage, self.task) * (steps - step) / steps
        return rest + waiting + self.after_stages(self.task) + later

    def end_task(self, stages: Mapping[str, float], scoring: float) -> None:
        """A task has been learned and scored; stages, scoring: their seconds in this process."""
        size, wall = self.tasks[self.task], time.monotonic() - self.began
        self.n_done += 1
        self.scoring = scoring / max(1, size.n_scored)
        if self.whole:
            for name, seconds in stages.items():
                self.learn_cost(name, self.task, seconds)
            self.other = max(0.0, wall - sum(stages.values()) - scoring) / size.n_train
            self.later_known |= self.task > 0

    def probe(self, learner: NetLearner, task: int, shape: torch.Size) -> None:
        """Time a few steps of each stage of a task, and if it is the first one, of the next, on `shape` images.

        This takes about `BUDGET` seconds at most (and one batch more); if they do not suffice, nothing is probed again.
        """
        if self.too_slow:
            return
        try:
            with torch.random.fork_rng(devices=[]):  # nothing of ours draws there; a learner of the user's may
                step, twin = seconds_of_a_step(learner, shape), copy.deepcopy(learner)
                if step > BUDGET / PARTS:
                    raise OutOfTimeError
                end = time.perf_counter() + BUDGET

                def check_time(*_: object) -> None:
                    if time.perf_counter() > end:
                        raise OutOfTimeError

                twin.net.backbone.register_forward_pre_hook(check_time)  # all that takes long passes here
                for number in range(task, min(max(task, 1) + 1, len(self.tasks))):
                    self.probe_task(twin, number, shape, step > SLOW)
        except Exception as error:  # whatever a learner does not like about noise: an estimate must not end a run
            self.later_known, self.too_slow = False, isinstance(error, OutOfTimeError)

    def probe_task(self, twin: NetLearner, task: int, shape: torch.Size, slow: bool) -> None:
        """Let a learner learn a task of noise, as far as needed to know its times; of less noise if it is slow."""
        size, device, draws = self.tasks[task], twin.device, torch.Generator().manual_seed(0)
        first, end = 0 if "all_tasks" in twin.permissions else size.n_old, size.n_old + size.n_new

        def noise(n: int, first: int) -> Labelled:
            images = torch.randint(0, 256, (n, *shape), generator=draws, dtype=torch.uint8)
            return Labelled(images.to(device), (first + torch.arange(n) % (end - first)).to(device))

        n = min(size.n_train, max(BATCHES[slow] * twin.training.batch_size, 2 * (end - first)))
        stages, began = TimedStages(device), time.perf_counter()
        data = noise(n, first), noise(min(size.n_val, SCORED[slow]), first)
        twin.learn(Task(task, range(size.n_old, end), *data), stages)
        wall = time.perf_counter() - began
        for name, timed in stages.timed.items():
            seconds = timed.step() * timed.steps or timed.seconds
            if timed.own:
                self.replayed[name] = timed.replayed / (max(1, size.n_old) if self.replay_grows else 1)
                whole = size.n_train * timed.own / n + timed.replayed  # images of an epoch; those of val follow it
                seconds *= whole / (timed.own + timed.replayed) * (1 + size.n_val / FORWARD / whole)
            self.learn_cost(name, task, seconds)
        scored = noise(SCORED[slow], 0)
        for _ in range(2):  # the first time, modules are imported
            began = time.perf_counter()
            scores = twin.scores(scored.images / 255).cpu().double()
            metrics.auc(scored.labels.cpu().numpy(), scores.detach().numpy())
            scoring = (time.perf_counter() - began) / len(scored)
        if not self.n_done:
            self.scoring = scoring
            self.other = max(0.0, wall - sum(timed.seconds for timed in stages.timed.values())) / n
        self.later_known |= task > 0
