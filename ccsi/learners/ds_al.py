"""DS-AL: dual-stream analytic learning (Zhuang et al., AAAI 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.data import Task
from ccsi.learners.acil import ACIL


@dataclass(kw_only=True, eq=False)
class DSAL(ACIL):
    """ACIL, with a second ridge regression on its residuals, of the same random features through tanh.

    A task's residuals on old classes are set to 0 (previous label cleansing). It keeps ACIL's correlations, once for
    each stream. Unlike the released code, one γ serves both streams.

    Args:
        compensation: C, weight of the second stream; 0.6 in the paper on CIFAR-100 (table 1).
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
        predicted = super().classify_features(features)
        residual = F.one_hot(task.train.labels, task.classes.stop).to(predicted) - predicted
        residual[:, : task.classes.start] = 0
        kept = self.correlated(self.second_auto, self.second_cross, features, residual, torch.tanh)
        self.second_auto, self.second_cross = kept

    def refit(self) -> None:
        super().refit()
        self.second = self.solved(self.second_auto, self.second_cross)

    def classify_features(self, features: Tensor) -> Tensor:
        residual = self.compensation * self.expanded(features, torch.tanh) @ self.second
        return super().classify_features(features) + residual
