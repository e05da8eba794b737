"""ACIL (Zhuang et al., NeurIPS 2022): an analytic classifier on a frozen backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import FrozenLearner


@dataclass(kw_only=True, eq=False)
class ACIL(FrozenLearner):
    """Ridge regression on randomly expanded features, updated task by task to what all tasks together would give.

    It keeps the autocorrelation of the expanded features and their correlation with the labels: the inverses of the
    paper's recursive R and W·R⁻¹ (theorem 1), as sums, whose order does not matter. The backbone is trained on the
    first task, which in the paper has half of the classes.

    Args:
        expansion: width of the random layer, 8,192 in the paper (section 4.1). ridge: γ, 0.1 there.
    """

    default_name = "acil"
    keeps: ClassVar = {"auto": "feature autocorrelation", "cross": "feature-label correlation"}

    expansion: PositiveInt = 8192
    ridge: Positive = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        g = self.streams.generator("expansion")
        d = self.net.backbone.n_features
        bound = d**-0.5
        self.buffer = ((torch.rand(d, self.expansion, generator=g) * 2 - 1) * bound).to(self.device, torch.float64)
        self.auto = torch.zeros(self.expansion, self.expansion, device=self.device, dtype=torch.float64)
        self.cross = torch.empty(self.expansion, 0, device=self.device, dtype=torch.float64)
        self.solution = self.cross

    def take_up(self, task: Task, features: Tensor) -> None:
        x = F.relu(features.double() @ self.buffer)
        labels = F.one_hot(task.train.labels, task.classes.stop).double()
        self.auto = self.auto + x.T @ x
        self.cross = F.pad(self.cross, (0, len(task.classes))) + x.T @ labels
        self.solve()

    def solve(self) -> None:
        """The classifier from what is kept."""
        self.solution = ridge_solution(self.auto, self.cross, self.ridge)

    def judge(self, features: Tensor) -> Tensor:
        return F.relu(features.double() @ self.buffer) @ self.solution

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.solve()


def ridge_solution(auto: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """(XᵀX + γI)⁻¹ XᵀY from XᵀX [E, E] and XᵀY [E, n]: [E, n]."""
    eye = torch.eye(len(auto)).to(auto)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(auto + ridge * eye))
