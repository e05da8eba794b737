"""What the spine asks of a learner, and what most learners share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ccsi.data import Labelled, Task
from ccsi.losses import cross_entropy
from ccsi.models import Backbone, IncrementalNet, random_prototypes
from ccsi.rng import Streams
from ccsi.stage import Stage, Stages, State
from ccsi.training import Objective, Training


class ModelFactory(Protocol):
    """A configured network, still without its number of input channels and its random start."""

    def __call__(self, *, in_channels: int, generator: torch.Generator) -> Backbone: ...


@dataclass(frozen=True)
class Stored:
    """Something a method keeps from real data. kind: `exemplars`, `class means`, `moments`, …"""

    name: str
    kind: str
    bytes: int


class Learner(ABC):
    """A method of class-incremental learning.

    The spine hands it one `Task` after the other and never the scenario, old tasks or test images.

    Attributes:
        name: as configured. permissions: what it is allowed beyond its tasks' own data, each named in the
            record: `all_tasks` (joint), `unlabeled_pool`, `test_images`. Empty for data-free methods.
    """

    name: str
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

    def check(self, n_tasks: int) -> None:  # noqa: B027  # most learners fit any number
        """Raise UserError if the settings do not fit a sequence of `n_tasks` tasks."""


class NetLearner(Learner):
    """A learner that is one `IncrementalNet`, trained task by task: plain fine-tuning unless overridden."""

    default_name: ClassVar[str] = "finetune"

    def __init__(
        self,
        *,
        model: ModelFactory,
        in_channels: int,
        training: Training,
        streams: Streams,
        device: torch.device,
        name: str | None = None,
    ) -> None:
        self.name = name or self.default_name
        self.training, self.streams, self.device = training, streams, device
        self.model, self.in_channels = model, in_channels
        self.net = self.fresh_net()

    def fresh_net(self) -> IncrementalNet:
        """A net with no classes yet, at the random start the run's seed gives."""
        backbone = self.model(in_channels=self.in_channels, generator=self.streams.generator("initialisation"))
        dtype = torch.float64 if self.training.precision == "float64" else torch.float32
        return IncrementalNet(backbone).to(self.device, dtype)

    def random_prototypes(self, n: int, task: int) -> Tensor:
        """[n, D] from the stream `prototypes` of task number `task`."""
        return random_prototypes(n, self.net.backbone.n_features, self.streams.generator("prototypes", task))

    def fit(
        self,
        task: Task,
        objective: Objective,
        stages: Stages,
        synthetic: Labelled | None = None,
        synthetic_ratio: float | None = None,
        train_old_prototypes: bool = True,
    ) -> None:
        """The stage `training`: see `Training.fit`. Leaves the net trained, in eval mode."""

        def work(stage: Stage) -> State:
            return self.training.fit(
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
            )

        self.net.load_state_dict(stages.run("training", work))

    def scores(self, images: Tensor) -> Tensor:
        self.net.eval()
        logits: Tensor = self.net(images.to(self.net.scale.dtype))
        return logits

    def stored(self) -> list[Stored]:
        return []

    def weights(self) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self.net.state_dict()
        return state

    def state_dict(self) -> State:
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.net.resize(len(state["net"]["old"]), len(state["net"]["new"]))
        self.net.load_state_dict(state["net"])


class CrossEntropy:
    """CN-CE alone: cross-entropy on the cosine-normalized logits."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"ce": cross_entropy(net(images), labels, smoothing=self.label_smoothing, workers=net.workers)}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
