"""ACIL: analytic class-incremental learning (Zhuang et al., NeurIPS 2022)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import Positive
from ccsi.data import Task
from ccsi.learners.frozen import FrozenLearner
from ccsi.precision import float64_on

Activation = Callable[[Tensor], Tensor]


@dataclass(kw_only=True, eq=False)
class ACIL(FrozenLearner):
    """Ridge regression on randomly expanded features, updated task by task to the solution for all tasks together.

    It keeps the autocorrelation of the expanded features and their correlation with the labels. Unlike the paper's
    recursive R and W·R⁻¹ (theorem 1), these are sums, whose order does not matter. The backbone is trained on the first
    task, which in the paper has half of the classes.

    Args:
        expansion: width of the random layer: 34 MB are kept for 2,048, 0.5 GB for the paper's 8,192 (section 4.1), and
            solving takes eight times as long for twice as many.
        ridge: γ, 0.1 in the paper.
    """

    default_name = "acil"
    drawn_buffers: ClassVar = ("buffer",)
    stored_buffers: ClassVar = {"auto": "feature autocorrelation", "cross": "feature-label correlation"}

    expansion: Annotated[int, Ge(1), Le(16_384)] = 2048
    ridge: Positive = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        d, draws = self.net.backbone.n_features, self.streams.generator("expansion")
        start = (torch.rand(d, self.expansion, generator=draws) * 2 - 1) * d**-0.5
        self.buffer = start.to(self.device, float64_on(self.device))
        self.auto = self.cross = self.buffer.new_zeros(0, 0)

    def _stored_like(self) -> Mapping[str, Any]:
        n = {"auto": self.expansion, "cross": self.heads[-1].stop}
        return {name: self.auto.new_empty(self.expansion, n[name.split("_")[-1]]) for name in self.stored_buffers}

    def update_statistics(self, task: Task, features: Tensor) -> None:
        labels = F.one_hot(task.train.labels, task.classes.stop).to(self.buffer)
        self.auto, self.cross = self.correlated(self.auto, self.cross, features, labels)

    def expanded(self, features: Tensor, activation: Activation = F.relu) -> Tensor:
        """The random layer's activations: [N, D] to [N, E]."""
        return activation(features.to(self.buffer) @ self.buffer)

    def correlated(
        self, auto: Tensor, cross: Tensor, features: Tensor, targets: Tensor, activation: Activation = F.relu
    ) -> tuple[Tensor, Tensor]:
        """XᵀX [E, E] and XᵀY [E, n] (both [0, 0] at the start), plus those of images [N, D] with targets Y [N, n]."""
        # in chunks: with 8,192 columns X takes 65 kB an image
        for part, y in zip(features.split(1024), targets.split(1024), strict=True):
            x = self.expanded(part, activation)
            new = x.T @ y
            auto = auto + x.T @ x if len(auto) else x.T @ x
            cross = F.pad(cross, (0, new.shape[1] - cross.shape[1])) + new if len(cross) else new
        return auto, cross

    def solved(self, auto: Tensor, cross: Tensor) -> Tensor:
        """(XᵀX + γI)⁻¹ XᵀY from XᵀX [E, E] and XᵀY [E, n]: [E, n]."""
        regular = auto.clone()
        regular.diagonal().add_(self.ridge)
        return torch.cholesky_solve(cross, torch.linalg.cholesky(regular))

    def refit(self) -> None:
        self.solution = self.solved(self.auto, self.cross)

    def classify_features(self, features: Tensor) -> Tensor:
        return self.expanded(features) @ self.solution
