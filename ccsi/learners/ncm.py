"""Nearest class mean on a frozen backbone (Mensink et al., TPAMI 2013; Rebuffi et al., CVPR 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.data import Task
from ccsi.learners.frozen import FrozenLearner
from ccsi.learners.parts.prototypes import class_means, nearest_mean


@dataclass(kw_only=True, eq=False)
class NCM(FrozenLearner):
    """An image belongs to the class whose mean feature is nearest; the backbone is trained on the first task only.

    It keeps each class's mean feature. The baseline of methods with a frozen backbone.

    Args:
        normalize: features have length 1 before they are averaged and compared (Rebuffi et al., section 2.3).
    """

    default_name = "ncm"
    stored_buffers: ClassVar = {"means": "class mean features"}

    normalize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty_like(self.net.new)

    def _stored_like(self) -> Mapping[str, Any]:
        return {"means": self.means.new_empty(self.heads[-1].stop, self.means.shape[1])}

    def update_statistics(self, task: Task, features: Tensor) -> None:
        new = class_means(self.lengths(features), task.train.labels, task.classes)
        self.means = torch.cat([self.means, self.lengths(new)])

    def classify_features(self, features: Tensor) -> Tensor:
        return nearest_mean(self.lengths(features), self.means)

    def lengths(self, features: Tensor) -> Tensor:
        """Features [N, D], of length 1 if so configured."""
        return F.normalize(features) if self.normalize else features
