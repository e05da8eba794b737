"""The base of all learners: one network, trained task by task."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ccsi.data import Task
from ccsi.errors import UserError
from ccsi.learners.needs import TaskNeeds
from ccsi.losses import cross_entropy
from ccsi.models import Backbone, IncrementalNet, imprinted_prototypes, random_prototypes
from ccsi.precision import float64_on
from ccsi.rng import Streams, TaskStreams
from ccsi.saved import Shaped, check_range, check_saved, restore_generator
from ccsi.stage import Stage, Stages, State
from ccsi.training import Objective, Training, TrainingData


class ModelFactory(Protocol):
    """A configured network without its number of input channels and its random start."""

    def __call__(self, *, in_channels: int, generator: torch.Generator) -> Backbone: ...


@dataclass(frozen=True)
class Stored:
    """Data derived from real images that a method keeps: their kind (`class means`, …), their number and total size."""

    kind: str
    count: int
    bytes: int


@dataclass(kw_only=True, eq=False)
class NetLearner(TaskNeeds):
    """A method of class-incremental learning: a net that is trained on one `Task` after the other.

    All share the network's cosine classifier (σ learnable, no bias), whatever their papers use: logits, and what is
    distilled from them, are within ±σ.

    Args:
        model: makes the network.
        in_channels: channels of the images, 1 or 3.
        training: how each task is trained.
        streams: the run's random streams.
        device: where the network and the tasks' images are.
        name: in tables; "": `default_name`.

    Attributes:
        default_name: the name by which it is found; "" for bases.
        kind: the group that tables and pictures put it in.
        permissions: what it may use beside its tasks' own data, each named in the record: `all_tasks` (joint),
            `unlabeled_pool`, `test_images`. Empty for data-free methods.
        stored_buffers: attributes that hold what is kept of real data, tensors or lists of tensors, each with its
            kind. They are part of a checkpoint and counted in bytes; the kind "" marks parts of the model, which are
            not counted.
        drawn_buffers: tensors that are drawn from `streams` once, when the learner is made. A checkpoint does not have
            them; a model folder does, because another version of PyTorch may draw others.
        imprint: new prototypes start at their class's mean feature, otherwise at random.
        freeze_prototypes: old prototypes are fixed while a new task is learned.
        first_is_shortest: no later task is trained in fewer steps than the first, or only the first is trained.
        net: the network. heads: the classes of each task so far. teacher: a frozen copy of `net` from before the task.
    """

    default_name: ClassVar[str] = ""
    kind: ClassVar[str] = "other"
    stored_buffers: ClassVar[Mapping[str, str]] = {}
    drawn_buffers: ClassVar[tuple[str, ...]] = ()
    permissions = tuple[str, ...]()
    imprint = False
    freeze_prototypes = False
    first_is_shortest = False

    model: ModelFactory
    in_channels: int
    training: Training
    streams: Streams
    device: torch.device
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.default_name
        self.net = self.fresh_net()
        self.heads: list[range] = []

    def fresh_net(self) -> IncrementalNet:
        """A net without classes, at the random start that the run's seed gives."""
        backbone = self.model(in_channels=self.in_channels, generator=self.streams.generator("initialisation"))
        dtype = torch.float64 if self.training.precision == "float64" else torch.float32
        if dtype == torch.float64 and float64_on(self.device) != dtype:
            raise UserError("training.precision=float64: an Apple GPU has no float64; expected float32, or device=cpu.")
        return IncrementalNet(backbone).to(self.device, dtype)

    def frozen_net(self) -> IncrementalNet:
        """A copy of the net in eval mode, whose outputs have no gradient."""
        return copy.deepcopy(self.net).requires_grad_(False).eval()

    def random_prototypes(self, n: int, task: int) -> Tensor:
        """[n, D] from the stream `prototypes` of the 0-based `task`."""
        return random_prototypes(n, self.net.backbone.n_features, self.streams.generator("prototypes", task))

    def imprinted(self, task: Task) -> Tensor:
        """[n_new, D]: prototypes of the task's classes from their images' features (METHOD section 3)."""
        old = torch.cat([self.net.old, self.net.new])
        return imprinted_prototypes(self.features(task.train.images), task.train.labels, task.classes, old.detach())

    def grow(self, task: Task) -> None:
        """Add the task's classes to the net, with random prototypes or imprinted ones."""
        imprint = self.imprint and self.heads
        self.net.grow(self.imprinted(task) if imprint else self.random_prototypes(len(task.classes), task.index))
        self.heads.append(task.classes)

    def cross_entropy(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """This worker's part of a batch's mean cross-entropy, with the configured label smoothing."""
        return cross_entropy(logits, labels, weights, self.training.label_smoothing, self.net.process_group)

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """f of uint8 images, [N, C, S, S] to [N, D], in eval mode; workers share the images."""
        self.net.eval()
        own = images[self.net.process_group.shard(len(images))]
        parts = [self.net.features(x.to(self.net.scale.dtype) / 255) for x in own.split(batch_size)]
        return self.net.process_group.all_gather_rows(torch.cat(parts))

    def learn(self, task: Task, stages: Stages) -> None:
        """Learn one task; long computations run as `stages`."""
        self.teacher = self.frozen_net()
        data = self.training_data(task, stages)
        self.grow(task)
        self.fit(task, self.objective(task), stages, data)

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        """The task's images, and those of old classes that are replayed; the net does not have the task's classes."""
        return TrainingData(task.train, task.val)

    def objective(self, task: Task) -> Objective:
        """What the net is trained with, once it has the task's classes."""
        return Loss(self.loss_terms)

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted loss terms of a batch by name; by default cross-entropy over all classes."""
        return {"ce": self.cross_entropy(net(images), labels)}

    def fit(
        self,
        task: Task,
        objective: Objective,
        stages: Stages,
        data: TrainingData | None = None,
        stage: str = "training",
        training: Training | None = None,
    ) -> None:
        """Train the net as one stage; afterwards it is in eval mode, and the objective in its last state.

        `data` and `training` are by default the task's images and the learner's own; `stage` is unique within a task.
        """
        data, config = TrainingData(task.train, task.val) if data is None else data, training or self.training
        if len(data.train) and int(data.train.labels.max()) >= self.net.n_classes:
            raise RuntimeError(
                f"{type(self).__name__}.learn: no room for the task's classes; expected self.grow(task)."
            )
        streams = TaskStreams(self.streams, task.index, "" if stage == "training" else f"{stage} ")

        def work(stage: Stage) -> State:
            net = config.fit(self.net, data, objective, streams, stage, not self.freeze_prototypes)
            # a copy: a later stage may train the net before this stage's result is in a checkpoint
            return copy.deepcopy({"net": net, "objective": objective.state_dict()})

        done = stages.run(stage, work)
        check_saved(done, {"net": self.net.state_dict(), "objective": objective.state_dict()}, f"the result of {stage}")
        self.net.load_state_dict(done["net"])
        objective.load_state_dict(done["objective"])

    def scores(self, images: Tensor) -> Tensor:
        """Class scores [N, n_seen] of float images [N, C, S, S] in [0, 1]."""
        self.net.eval()
        return self.classify_features(self.net.features(images.to(self.net.scale.dtype)))

    def classify_features(self, features: Tensor) -> Tensor:
        """Class scores [N, n_seen] of features [N, D]."""
        return self.net.scale * self.net.cosines(features)

    def stored(self) -> list[Stored]:
        """What is kept from real data now; the count of an entry: a tensor's rows, a list's values.

        Raises:
            TypeError: images (uint8) of another kind than `exemplars`, the kind that ends a run's being data-free.
        """
        found = []
        for name, kind in self.stored_buffers.items():
            value = getattr(self, name)
            tensors, by_rows = (value, kind == "exemplars") if isinstance(value, list) else ([value], True)
            if kind != "exemplars" and any(t.dtype == torch.uint8 for t in tensors):
                raise TypeError(
                    f"{type(self).__name__}.stored_buffers: {name} are images; expected their kind to be exemplars."
                )
            count = sum(len(t) if by_rows and t.ndim else t.numel() for t in tensors)
            if kind and count:
                found.append(Stored(kind, count, sum(t.numel() * t.element_size() for t in tensors)))
        return found

    def state_dict(self) -> State:
        """Everything that learning the next task needs."""
        kept = {name: getattr(self, name) for name in self.stored_buffers}
        return {"net": self.net.state_dict(), "heads": [len(head) for head in self.heads], "kept": kept}

    def _stored_like(self) -> Mapping[str, Any]:
        """What `stored_buffers` are like after a task, for `ccsi.saved.check_saved`; without an entry: any tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; UserError if it is not as this learner writes it."""
        check_saved(state, dict.fromkeys(self.state_dict()), "the learner")
        rows = Shaped((None, self.net.backbone.n_features))
        check_saved(state["net"], {**dict.fromkeys(self.net.state_dict()), "old": rows, "new": rows}, "the net")
        check_saved(state["heads"], [1] * len(state["heads"]) if isinstance(state["heads"], list) else [], "the heads")
        for head in state["heads"]:
            check_range(head, 1, sum(state["heads"]), "a head's classes")  # a frozen net has the first head's alone
        self.net.resize(len(state["net"]["old"]), len(state["net"]["new"]))
        check_saved(state["net"], self.net.state_dict(), "the net")
        self.net.load_state_dict(state["net"])
        self.heads = [range(end - n, end) for n, end in zip(state["heads"], accumulate(state["heads"]), strict=True)]
        check_saved(state["kept"], dict.fromkeys(self.stored_buffers), "what the learner keeps")
        like = self._stored_like() if self.heads else {name: getattr(self, name) for name in self.stored_buffers}
        for name, value in state["kept"].items():
            check_saved(value, like.get(name), name)
            for one in value if isinstance(value, list) else [value]:
                if not isinstance(one, Tensor):
                    check_saved(one, Shaped(()), name)
            moved = [t.to(self.device) for t in value] if isinstance(value, list) else value.to(self.device)
            setattr(self, name, moved)


@dataclass
class Loss:
    """An objective without running state, from a function of net, images and labels to weighted loss terms by name.

    Args:
        terms: the function. draws: the generator that it draws from, if any; its position is part of a checkpoint.
    """

    terms: Callable[[IncrementalNet, Tensor, Tensor], dict[str, Tensor]]
    draws: torch.Generator | None = None

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.terms(net, images, labels)

    def state_dict(self) -> State:
        return {} if self.draws is None else {"draws": self.draws.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.draws is not None:
            restore_generator(self.draws, state["draws"], "the state of the draws")
