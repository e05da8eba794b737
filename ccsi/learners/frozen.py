"""The base of learners that train the backbone on the first task only."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ccsi.data import Task
from ccsi.errors import diverged
from ccsi.learners.base import NetLearner
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class FrozenLearner(NetLearner):
    """A learner whose backbone is fixed after the first task; later tasks are learned from its features.

    The papers give the first task half of the classes: `scenario.classes_per_task={first: …, increment: …}`.
    """

    kind = "prototypes"
    first_is_shortest = True

    def check_images(self, counts: Sequence[Sequence[int]]) -> None:
        super().check_images(counts[:1])  # no later task is trained on

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
        """Update `stored_buffers` with a task, given its images' features [N, D]."""

    def refit(self) -> None:
        """Compute from `stored_buffers` what else `classify_features` needs."""
