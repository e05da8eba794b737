"""The bases of learners that make images of old classes: by inversion of the net, or by a generator."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.synthesis import ClassMemory, Generation, Synthesis
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

    def synthesize(self, task: Task, memory: ClassMemory, ratio: float | None, stages: Stages) -> TrainingData:
        """Run the stage `synthesis`: the task's images, and `impressions` of the teacher's classes if it has any."""
        self.impressions, teacher, run = None, self.teacher, self.synthesis.run
        if teacher.n_classes:
            made = stages.run("synthesis", lambda stage: run(teacher, memory, task.index, self.streams, stage))
            self.impressions = Labelled(made["images"].to(self.device), made["labels"].to(self.device))
        return TrainingData(task.train, task.val, self.impressions, ratio)


@dataclass(kw_only=True, eq=False)
class GenerationLearner(NetLearner):
    """A learner that replays images of old classes from a generator, trained on its own net before each task.

    Args:
        generation: how the generator is trained.

    Attributes:
        generator, draws: of images for the last task, and of their noise; none for the first.
    """

    kind = "inversion"

    generation: Generation

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        if self.teacher.n_classes:
            self.train_generator(task, stages)
        return super().training_data(task, stages)

    def objective(self, task: Task) -> Objective:
        return Loss(self.replay_terms, self.draws) if self.teacher.n_classes else super().objective(task)

    @abstractmethod
    def replay_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted loss terms of a batch of a task after the first, with `generated` images."""

    def train_generator(self, task: Task, stages: Stages) -> None:
        """Run the stage `generation`, which makes `generator` and `draws` from the teacher."""
        generation, source = self.generation, (self.teacher, task.train.images.shape[1:], task.index, self.streams)
        state = stages.run("generation", lambda stage: generation.run(*source, stage))
        self.generator = generation.trained(state, *source)
        self.draws = self.streams.generator("dreams", task.index)

    @torch.no_grad()
    def generated(self, n: int) -> tuple[Tensor, Tensor]:
        """n new images for this worker, [n, C, S, S] in [0, 1], and the teacher's pseudo-labels, int64 [n]."""
        whole = self.net.process_group.count(n)
        images = self.generator.sample(whole, self.draws, self.net.process_group.shard(whole))
        return images, self.teacher(images).argmax(1)
