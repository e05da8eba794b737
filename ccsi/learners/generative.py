"""The bases of learners that make images of old classes: by inversion of the net, or by a generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.saved import Shaped, check_count, check_range, check_saved
from ccsi.stage import Stages
from ccsi.synthesis import ClassMemory, Generation, Synthesis
from ccsi.synthesis.generation import Generator
from ccsi.training import Objective, TrainingData


@dataclass(kw_only=True, eq=False)
class InversionLearner(NetLearner):
    """A learner that replays images of old classes, optimised under its own net.

    Args:
        synthesis: how the images are optimised.

    Attributes:
        impressions: those made for the last task; None for the first.
    """

    kind = "inversion"

    synthesis: Synthesis

    def __post_init__(self) -> None:
        super().__post_init__()
        self.impressions: Labelled | None = None

    def n_trained(self, task: int, counts: Sequence[Sequence[int]]) -> tuple[int, int, float | None]:
        n_old = sum(map(len, counts[:task]))
        made = self.synthesis.count(n_old, task) if n_old else 0
        return sum(counts[task]), made, self.replay_ratio(task)

    def replay_ratio(self, task: int) -> float | None:
        """The share of impressions in an epoch of the 0-based `task`; None: each image once an epoch."""
        return None

    def synthesize(self, task: Task, memory: ClassMemory, stages: Stages) -> Labelled | None:
        """`impressions` of the teacher's classes, which the stage `synthesis` makes; None if it has no classes."""
        self.impressions, net = None, self.teacher
        if net.n_classes:
            run = self.synthesis.run
            made = stages.run("synthesis", lambda stage: run(net, memory, task.index, self.streams, stage))
            images, labels = Shaped((None, *task.train.images.shape[1:]), torch.uint8), Shaped((None,), torch.int64)
            check_saved(made, {"images": images, "labels": labels}, "the result of synthesis")
            check_count(len(made["images"]), len(made["labels"]), "the number of impressions")
            for label in made["labels"].unique().tolist():
                check_range(label, 0, net.n_classes - 1, "an impression's label")
            self.impressions = Labelled(made["images"].to(self.device), made["labels"].to(self.device))
        return self.impressions


@dataclass(kw_only=True, eq=False)
class GenerationLearner(NetLearner):
    """A learner that replays images of old classes from a generator, trained on its own net before each task.

    Args:
        generation: how the generator is trained.

    Attributes:
        generator, draws: of images for the present task, and of their noise; None in the first and between tasks.
    """

    kind = "inversion"

    generation: Generation

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator: Generator | None = None
        self.draws: torch.Generator | None = None

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        if self.generator is not None:
            self.refine(task, stages)
        self.generator = self.draws = None  # for large images the generator is larger than the net

    def refine(self, task: Task, stages: Stages) -> None:
        """Train further, with `generated` images, at the end of each task but the first; by default not."""

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        """The task's images; also trains the generator, which `loss_terms` needs."""
        if self.teacher.n_classes:
            self.train_generator(task, stages)
        return super().training_data(task, stages)

    def objective(self, task: Task) -> Objective:
        return Loss(self.loss_terms, self.draws)

    def train_generator(self, task: Task, stages: Stages) -> None:
        """Run the stage `generation`, which makes `generator` and `draws` from the teacher."""
        net, shape, run = self.teacher, task.train.images.shape[1:], self.generation.run
        state = stages.run("generation", lambda stage: run(net, shape, task.index, self.streams, stage))
        self.generator = self.generation.trained(state, net, shape, task.index, self.streams)
        self.draws = self.streams.generator("dreams", task.index)

    @torch.no_grad()
    def generated(self, n: int) -> tuple[Tensor, Tensor]:
        """n new images for this worker, [n, C, S, S] in [0, 1], and the teacher's pseudo-labels, int64 [n]."""
        assert self.generator is not None and self.draws is not None
        whole = self.net.process_group.count(n)
        images = self.generator.sample(whole, self.draws, self.net.process_group.shard(whole))
        return images, self.teacher(images).argmax(1)
