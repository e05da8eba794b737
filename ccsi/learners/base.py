"""What the spine asks of a learner, and what most learners share."""

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ccsi.data import Labelled, Task
from ccsi.errors import UserError, diverged
from ccsi.learners.parts.exemplars import ExemplarBudget
from ccsi.losses import cross_entropy
from ccsi.models import Backbone, IncrementalNet, imprinted_prototypes, random_prototypes
from ccsi.rng import Streams
from ccsi.stage import Stage, Stages, State
from ccsi.synthesis import ClassMemory, Generation, Generator, Synthesis
from ccsi.training import Objective, Training


class ModelFactory(Protocol):
    """A configured network, still without its number of input channels and its random start."""

    def __call__(self, *, in_channels: int, generator: torch.Generator) -> Backbone: ...


@dataclass(frozen=True)
class Stored:
    """Something a method keeps from real data.

    Attributes:
        kind: `exemplars`, `class means`, `moments`, … count: how many of them. bytes: in all.
    """

    kind: str
    count: int
    bytes: int


class Learner(ABC):
    """A method of class-incremental learning.

    The spine hands it one `Task` after the other and never the scenario, old tasks or test images.

    Attributes:
        name: as configured. kind: what tables and pictures group it by.
        permissions: what it is allowed beyond its tasks' own data, each named in the record: `all_tasks` (joint),
            `unlabeled_pool`, `test_images`. Empty for data-free methods.
    """

    name: str
    kind: ClassVar[str] = "other"
    permissions: tuple[str, ...] = ()

    @abstractmethod
    def learn(self, task: Task, stages: Stages) -> None:
        """Learn one task; long work goes through `stages`."""

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Class scores [N, n_seen] of float images [N, C, S, S] in [0, 1]."""

    @abstractmethod
    def stored(self) -> list[Stored]:
        """What is kept from real data now."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """The model's parameters and buffers by name."""

    @abstractmethod
    def state_dict(self) -> State:
        """Everything needed to go on with the next task."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""

    def check(self, sizes: Sequence[int]) -> None:  # noqa: B027  # most learners fit any
        """Raise UserError if the settings do not fit a sequence of tasks of so many classes each."""


@dataclass(kw_only=True, eq=False)
class NetLearner(Learner):
    """A learner that is one `IncrementalNet`, trained task by task: plain fine-tuning unless overridden.

    All of them share the network's cosine classifier (σ learnable, no bias), whatever their papers use: logits, and
    what is distilled from them, are within ±σ.

    A method with settings of its own is a dataclass too (`@dataclass(kw_only=True, eq=False)`): a field each.

    Attributes:
        default_name: what it is called unless configured otherwise.
        stored_buffers: what it keeps of real data: attributes that hold tensors or lists of tensors, each with its
            kind. They are part of a checkpoint and counted; those with the kind "" are the model's own: not counted.
    """

    default_name: ClassVar[str] = "finetune"
    stored_buffers: ClassVar[Mapping[str, str]] = {}

    model: ModelFactory
    in_channels: int
    training: Training
    streams: Streams
    device: torch.device
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.default_name
        self.net = self.fresh_net()
        self.heads: list[range] = []  # the classes of each task so far

    def fresh_net(self) -> IncrementalNet:
        """A net with no classes yet, at the random start the run's seed gives."""
        backbone = self.model(in_channels=self.in_channels, generator=self.streams.generator("initialisation"))
        dtype = torch.float64 if self.training.precision == "float64" else torch.float32
        return IncrementalNet(backbone).to(self.device, dtype)

    def frozen_net(self) -> IncrementalNet:
        """A copy of the net as it is now, in eval mode, that no gradient reaches: the teacher of the next task."""
        return copy.deepcopy(self.net).requires_grad_(False).eval()

    def random_prototypes(self, n: int, task: int) -> Tensor:
        """[n, D] from the stream `prototypes` of task number `task`."""
        return random_prototypes(n, self.net.backbone.n_features, self.streams.generator("prototypes", task))

    def grow(self, task: Task, prototypes: Tensor | None = None) -> None:
        """Room for the task's classes in the net; `prototypes` [n_new, D], random if not given."""
        n_new = len(task.classes)
        self.net.grow(self.random_prototypes(n_new, task.index) if prototypes is None else prototypes)
        self.heads.append(task.classes)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """This worker's part of a batch's mean cross-entropy, with the configured label smoothing."""
        return cross_entropy(
            logits, labels, smoothing=self.training.label_smoothing, process_group=self.net.process_group
        )

    def first_of(self, task: Task) -> int:
        """The first class of a task's own ("local") cross-entropy: its own first.

        Or 0, all classes seen, where the task has only one: alone it would have nothing to be told from.
        """
        return task.classes.start if len(task.classes) > 1 else 0

    def old_heads(self) -> list[range]:
        """The heads that are distilled apart from each other: each task's.

        Or all classes as one, where a task has only one: a softmax over it says nothing.
        """
        return self.all_as_one() if any(len(head) == 1 for head in self.heads) else list(self.heads)

    def all_as_one(self) -> list[range]:
        """All classes so far as one head; none before the first task."""
        return [range(self.net.n_classes)] if self.heads else []

    def imprinted(self, task: Task) -> Tensor:
        """[n_new, D]: prototypes for the task's classes from their images' features (METHOD section 3)."""
        old = torch.cat([self.net.old, self.net.new])
        return imprinted_prototypes(self.features(task.train.images), task.train.labels, task.classes, old.detach())

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """f of uint8 images, [N, C, S, S] to [N, D], in eval mode; workers share the images."""
        self.net.eval()
        own = images[self.net.process_group.shard(len(images))]
        dtype = self.net.scale.dtype
        parts = [self.net.features(x.to(dtype) / 255) for x in own.split(batch_size)]
        return self.net.process_group.all_gather_rows(
            torch.cat(parts) if parts else self.net.scale.new_empty(0, self.net.old.shape[1])
        )

    def learn(self, task: Task, stages: Stages) -> None:
        self.grow(task)
        self.fit(task, self.classify(), stages)

    def classify(self) -> "Loss":
        """Plain cross-entropy over all classes of the net."""
        return Loss(lambda net, images, labels: {"ce": self.cross_entropy(net(images), labels)})

    def fit(
        self,
        task: Task,
        objective: Objective,
        stages: Stages,
        synthetic: Labelled | None = None,
        synthetic_ratio: float | None = None,
        train_old_prototypes: bool = True,
        stage: str = "training",
        training: Training | None = None,
    ) -> None:
        """A stage of training: see `Training.fit`. Leaves the net trained, in eval mode, and the objective at its end.

        Args:
            stage: its name, unique within a task. training: other settings than the learner's own.
        """

        if len(task.train) and int(task.train.labels.max()) >= self.net.n_classes:
            raise RuntimeError(
                f"{type(self).__name__}.learn: no room for the task's classes; expected self.grow(task)."
            )
        purpose = "" if stage == "training" else f"{stage} "

        def work(stage: Stage) -> State:
            net = (training or self.training).fit(
                self.net,
                task.train,
                task.val,
                objective,
                task.index,
                self.streams,
                stage,
                synthetic,
                synthetic_ratio,
                train_old_prototypes,
                purpose,
            )
            # a copy: a later stage may train the net on, while this one's result waits for a checkpoint
            return copy.deepcopy({"net": net, "objective": objective.state_dict()})

        done = stages.run(stage, work)
        self.net.load_state_dict(done["net"])
        objective.load_state_dict(done["objective"])

    def corrective(self, epochs: int, lr: float) -> Training:
        """How a second stage is trained, which evens out old and new classes: `lr` times the first's rate.

        To its end, and on a fixed schedule: the task's val images have only new classes, and would undo it.
        """
        schedule = "cosine" if self.training.schedule == "plateau" else self.training.schedule
        return dataclasses.replace(
            self.training, epochs=epochs, lr=self.training.lr * lr, schedule=schedule, select="last"
        )

    def scores(self, images: Tensor) -> Tensor:
        self.net.eval()
        logits: Tensor = self.net(images.to(self.net.scale.dtype))
        return logits

    def stored(self) -> list[Stored]:
        """One entry for each of `stored_buffers` that is not empty; its count: a tensor's rows, a list's values.

        Raises:
            TypeError: bytes, which images are, of another kind than `exemplars`, by which a run counts as data-free.
        """
        found = []
        for name, kind in self.stored_buffers.items():
            value = getattr(self, name)
            tensors = value if isinstance(value, list) else [value]
            if kind != "exemplars" and any(t.dtype == torch.uint8 for t in tensors):
                raise TypeError(
                    f"{type(self).__name__}.stored_buffers: {name} are images; expected their kind to be exemplars."
                )
            by_rows = kind == "exemplars" or not isinstance(value, list)
            count = sum(len(t) if by_rows and t.ndim else t.numel() for t in tensors)
            if kind and count:
                found.append(Stored(kind, count, sum(t.numel() * t.element_size() for t in tensors)))
        return found

    def weights(self) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self.net.state_dict()
        return state

    def state_dict(self) -> State:
        kept = {name: getattr(self, name) for name in self.stored_buffers}
        return {"net": self.net.state_dict(), "heads": [len(head) for head in self.heads], "kept": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.net.resize(len(state["net"]["old"]), len(state["net"]["new"]))
        self.net.load_state_dict(state["net"])
        ends = list(accumulate(state["heads"]))
        self.heads = [range(end - n, end) for n, end in zip(state["heads"], ends, strict=True)]
        for name, value in state["kept"].items():
            there = [t.to(self.device) for t in value] if isinstance(value, list) else value.to(self.device)
            setattr(self, name, there)


@dataclass(kw_only=True, eq=False)
class ReplayLearner(NetLearner):
    """A learner that keeps some real images of each class: those of an `ExemplarBudget`.

    Attributes:
        kept_images: uint8 [M, C, S, S], class by class, the best of each first. kept_labels: int64 [M].
    """

    kind: ClassVar = "exemplars"
    stored_buffers: ClassVar[Mapping[str, str]] = {"kept_images": "exemplars", "kept_labels": "exemplar labels"}

    budget: ExemplarBudget

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kept_images = torch.empty(0, dtype=torch.uint8, device=self.device)
        self.kept_labels = torch.empty(0, dtype=torch.int64, device=self.device)

    def check(self, sizes: Sequence[int]) -> None:
        if not self.budget.quota(sum(sizes)):
            raise UserError(
                f"learner.budget.total={self.budget.total} is less than one image for each of {sum(sizes)} classes; "
                "expected at least so many."
            )

    def exemplars(self) -> Labelled | None:
        """What is kept; None if that is nothing."""
        return Labelled(self.kept_images, self.kept_labels) if len(self.kept_labels) else None

    def remember(self, task: Task) -> None:
        """Keep images of the task's classes as the net sees them now, and of older ones what the budget leaves."""
        quota = self.budget.quota(task.classes.stop)
        features, labels = self.features(task.train.images), task.train.labels
        parts = [((self.kept_labels == c).nonzero()[:quota, 0], c) for c in range(task.classes.start)]
        images = [self.kept_images[chosen] for chosen, _ in parts]
        for c in task.classes:
            members = (labels == c).nonzero()[:, 0]
            best = self.budget.ranked(features[members], quota, self.streams, c)
            parts.append((members[best], c))
            images.append(task.train.images[members[best]])
        self.kept_images = torch.cat([part for part in images if len(part)] or [self.kept_images[:0]])
        self.kept_labels = torch.cat([torch.full_like(chosen, c) for chosen, c in parts])


@dataclass(kw_only=True, eq=False)
class InversionLearner(NetLearner):
    """A learner that replays images of old classes which it makes from its own net.

    Attributes:
        impressions: those made for the last task; None for the first.
    """

    kind: ClassVar = "inversion"

    synthesis: Synthesis

    def __post_init__(self) -> None:
        super().__post_init__()
        self.impressions: Labelled | None = None

    def synthesize(self, task: Task, teacher: IncrementalNet, memory: ClassMemory, stages: Stages) -> None:
        """The stage `synthesis`: make `impressions` of the teacher's classes, if it has any."""
        self.impressions = None
        if teacher.n_classes:
            made = stages.run(
                "synthesis", lambda stage: self.synthesis.run(teacher, memory, task.index, self.streams, stage)
            )
            self.impressions = Labelled(made["images"].to(self.device), made["labels"].to(self.device))


@dataclass(kw_only=True, eq=False)
class GenerationLearner(NetLearner):
    """A learner that replays images of old classes by a generator, trained on its own net before each task."""

    kind: ClassVar = "inversion"

    generation: Generation

    def learn(self, task: Task, stages: Stages) -> None:
        teacher = self.frozen_net()
        dreams = self.dreams(task, teacher, stages)
        self.grow(task)
        if dreams is None:
            self.fit(task, self.classify(), stages)
        else:
            self.replay(task, teacher, dreams, stages)

    @abstractmethod
    def replay(self, task: Task, teacher: IncrementalNet, dreams: "Dreams", stages: Stages) -> None:
        """Learn a task after the first; the net has grown for it."""

    def dreams(self, task: Task, teacher: IncrementalNet, stages: Stages) -> "Dreams | None":
        """The stage `generation`; None if the teacher knows no classes."""
        if not teacher.n_classes:
            return None
        generation, shape = self.generation, task.train.images.shape[1:]
        state = stages.run("generation", lambda stage: generation.run(teacher, shape, task.index, self.streams, stage))
        generator = generation.trained(state, teacher, shape, task.index, self.streams)
        return Dreams(generator, teacher, self.streams.generator("dreams", task.index))


@dataclass
class Dreams:
    """Images a generator makes, as many as a worker asks for, new ones each time; an objective's `draws` are its."""

    generator: Generator
    teacher: IncrementalNet
    draws: torch.Generator

    @torch.no_grad()
    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        """n images, [N, C, S, S] in [0, 1], and the teacher's pseudo-labels, int64 [N]."""
        process_group = self.teacher.process_group
        whole = process_group.count(n)
        images = self.generator.sample(whole, self.draws, process_group.shard(whole))
        return images, self.teacher(images).argmax(1)


@dataclass(kw_only=True, eq=False)
class FrozenLearner(NetLearner):
    """A learner whose backbone is trained on the first task and then stays; what follows is computed from features.

    The papers give the first task half of the classes: `scenario.classes_per_task={first: …, increment: …}`.
    """

    kind: ClassVar = "prototypes"

    def learn(self, task: Task, stages: Stages) -> None:
        if not self.heads:
            super().learn(task, stages)
        else:
            self.heads.append(task.classes)
        features = self.features(task.train.images)
        if not features.isfinite().all():
            raise diverged(self.name, "features", task.index + 1)
        self.update_statistics(task, features)
        self.refit()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.heads:
            self.refit()

    @abstractmethod
    def update_statistics(self, task: Task, features: Tensor) -> None:
        """Learn a task from its images' features [N, D]: put into `stored_buffers` what they say."""

    def refit(self) -> None:
        """Work out from `stored_buffers` what `classify_features` needs beside it."""

    @abstractmethod
    def classify_features(self, features: Tensor) -> Tensor:
        """Class scores [N, n_seen] of features [N, D]."""

    def scores(self, images: Tensor) -> Tensor:
        self.net.eval()
        return self.classify_features(self.net.features(images.to(self.net.scale.dtype)))


class Loss:
    """An objective that is a function of net, images and labels to weighted loss parts by name.

    Args:
        draws: the generator `parts` draws from, if any: where it stands is part of a checkpoint.
    """

    def __init__(
        self, parts: Callable[[IncrementalNet, Tensor, Tensor], dict[str, Tensor]], draws: torch.Generator | None = None
    ) -> None:
        self.parts, self.draws = parts, draws

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.parts(net, images, labels)

    def state_dict(self) -> State:
        return {} if self.draws is None else {"draws": self.draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.draws is not None:
            self.draws.set_state(state["draws"])
