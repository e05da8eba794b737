"""FeCAM: feature covariance-aware metric (Goswami et al., NeurIPS 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative, Positive
from ccsi.data import Task
from ccsi.learners.frozen import FrozenLearner
from ccsi.learners.parts.prototypes import class_covariances, class_means
from ccsi.precision import float64_on


@dataclass(kw_only=True, eq=False)
class FeCAM(FrozenLearner):
    """An image belongs to the class with the smallest Mahalanobis distance, by that class's own covariance.

    It keeps each class's mean feature and covariance. The backbone is trained on the first task, which in the paper
    has half of the classes.

    Args:
        shrink_diagonal: γ1, multiple of the mean variance that is added to the variances (eq. 8); 1 in section 5.1.
        shrink_rest: γ2, multiple of the mean covariance that is added to the covariances (eq. 8); 1 in section 5.1.
        tukey: λ of Tukey's transform, features to the power λ (eq. 9); 0.5 in section 5.1, and 1 changes nothing.
        normalize: use correlations, not covariances (eq. 10).
        unit_length: features and means have length 1 when they are compared (in the released code, not the paper).
    """

    default_name = "fecam"
    stored_buffers: ClassVar = {"means": "class mean features", "covariances": "class covariances"}

    shrink_diagonal: NonNegative = 1.0
    shrink_rest: NonNegative = 1.0
    tukey: Positive = 0.5
    normalize: bool = True
    unit_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty_like(self.net.new, dtype=float64_on(self.device))
        self.covariances = self.means.new_empty(0, *2 * self.means.shape[1:])

    def _stored_like(self) -> Mapping[str, Any]:
        n = self.heads[-1].stop
        return {name: getattr(self, name).new_empty(n, *getattr(self, name).shape[1:]) for name in self.stored_buffers}

    def update_statistics(self, task: Task, features: Tensor) -> None:
        x = self.transformed(features)
        self.means = torch.cat([self.means, class_means(x, task.train.labels, task.classes)])
        covariances = self.shrunk(class_covariances(x, task.train.labels, task.classes))
        self.covariances = torch.cat([self.covariances, covariances])

    def refit(self) -> None:
        self.inverse = torch.linalg.pinv(self.covariances, hermitian=True)

    def transformed(self, features: Tensor) -> Tensor:
        """Tukey's transform of features [N, D], in the dtype of `means`; the sign of negative values is kept."""
        x = features.to(self.means)
        return x if self.tukey == 1 else x.sign() * x.abs() ** self.tukey

    def shrunk(self, covariances: Tensor) -> Tensor:
        """Σ + γ1·V1·I + γ2·V2·(1 − I), and its correlations: [n, D, D] to the same."""
        d = covariances.shape[-1]
        eye = torch.eye(d).to(covariances)
        diagonal = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-8)  # a class of one image
        rest = ((covariances * (1 - eye)).sum((1, 2)) / (d * (d - 1)))[:, None, None]
        full = covariances + self.shrink_diagonal * diagonal * eye + self.shrink_rest * rest * (1 - eye)
        if not self.normalize:
            return full
        deviations = full.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
        return full / (deviations[:, :, None] * deviations[:, None, :])

    def classify_features(self, features: Tensor) -> Tensor:
        x, means = self.transformed(features), self.means
        if self.unit_length:
            x, means = F.normalize(x), F.normalize(means)
        difference = x[None] - means[:, None]  # [n, N, D]
        return -((difference @ self.inverse) * difference).sum(2).T
