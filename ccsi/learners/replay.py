"""The base of learners that keep real images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ccsi.data import Labelled, Task
from ccsi.errors import UserError
from ccsi.learners.base import NetLearner
from ccsi.learners.parts.exemplars import ExemplarBudget
from ccsi.saved import Shaped, check_count, check_range
from ccsi.stage import Stages
from ccsi.training import TrainingData


@dataclass(kw_only=True, eq=False)
class ReplayLearner(NetLearner):
    """A learner that keeps some real images of each class.

    Args:
        budget: number and choice of the images.

    Attributes:
        kept_images: uint8 [M, C, S, S], class by class, the best of each first. kept_labels: int64 [M].
    """

    kind = "exemplars"
    stored_buffers: ClassVar = {"kept_images": "exemplars", "kept_labels": "exemplar labels"}

    budget: ExemplarBudget

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kept_images = torch.empty(0, dtype=torch.uint8, device=self.device)
        self.kept_labels = torch.empty(0, dtype=torch.int64, device=self.device)

    def check(self, sizes: Sequence[int], more: bool = False) -> None:
        if not self.budget.quota(sum(sizes)):
            raise UserError(
                f"learner.budget.total={self.budget.total} is less than one image for each of {sum(sizes)} classes; "
                "expected at least so many."
            )

    def n_kept(self, task: int, counts: Sequence[Sequence[int]]) -> list[int]:
        """How many images are kept of each class before the 0-based `task`; counts: see `check_images`."""
        old = [n for own in counts[:task] for n in own]
        return [min(n, self.budget.quota(len(old))) for n in old]

    def n_trained(self, task: int, counts: Sequence[Sequence[int]]) -> tuple[int, int, float | None]:
        return sum(counts[task]), sum(self.n_kept(task, counts)), self.budget.ratio

    def _stored_like(self) -> Mapping[str, Any]:
        images = Shaped((None, self.in_channels, None, None), torch.uint8)
        return {"kept_images": images, "kept_labels": Shaped((None,), torch.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        check_count(len(self.kept_images), len(self.kept_labels), "the number of kept_images")
        for label in self.kept_labels.unique().tolist():
            check_range(label, 0, sum(map(len, self.heads)) - 1, "one of kept_labels")

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        self.remember(task)

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        return TrainingData(task.train, task.val, self.exemplars(), self.budget.ratio)

    def exemplars(self) -> Labelled | None:
        """The kept images, or None if there are none."""
        return Labelled(self.kept_images, self.kept_labels) if len(self.kept_labels) else None

    def remember(self, task: Task) -> None:
        """Keep images of the task's classes, ranked by the net's features, and drop old ones over the budget."""
        quota = self.budget.quota(task.classes.stop)
        features, labels = self.features(task.train.images), task.train.labels
        old = [(self.kept_labels == c).nonzero()[:quota, 0] for c in range(task.classes.start)]
        parts = [(self.kept_images[best], self.kept_labels[best]) for best in old]
        for c in task.classes:
            members = (labels == c).nonzero()[:, 0]
            best = members[self.budget.ranked(features[members], quota, self.streams, c)]
            parts.append((task.train.images[best], labels[best]))
        self.kept_images, self.kept_labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
