"""DS-AL (Zhuang et al., AAAI 2024): ACIL, and a second stream that learns what it leaves over."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.data import Task
from ccsi.learners.acil import ACIL, correlated, ridge_solution


@dataclass(kw_only=True, eq=False)
class DSAL(ACIL):
    """ACIL's ridge regression, and another one, of the same random features through tanh, on its residuals.

    Of a task's residuals those on old classes count as 0 (previous label cleansing). It keeps what ACIL keeps, twice.
    One γ serves both streams (the released code has one for each).

    Args:
        compensation: C, how much of the second stream is added; 0.6 in the paper on CIFAR-100 (table 1).
    """

    default_name = "ds_al"
    stored_buffers: ClassVar = {
        **ACIL.stored_buffers,
        "second_auto": "feature autocorrelation (second stream)",
        "second_cross": "feature-residual correlation (second stream)",
    }

    compensation: NonNegative = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.second_auto, self.second_cross = self.auto, self.cross

    def update_statistics(self, task: Task, features: Tensor) -> None:
        super().update_statistics(task, features)
        super().refit()
        residual = F.one_hot(task.train.labels, task.classes.stop).double() - super().classify_features(features)
        residual[:, : task.classes.start] = 0
        kept = correlated(self.second_auto, self.second_cross, self.second_expanded, features, residual)
        self.second_auto, self.second_cross = kept

    def second_expanded(self, features: Tensor) -> Tensor:
        """The second stream's activations: [N, D] to [N, E]."""
        return torch.tanh(features.double() @ self.buffer)

    def refit(self) -> None:
        super().refit()
        self.second = ridge_solution(self.second_auto, self.second_cross, self.ridge)

    def classify_features(self, features: Tensor) -> Tensor:
        return super().classify_features(features) + self.compensation * self.second_expanded(features) @ self.second
