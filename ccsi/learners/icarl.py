"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.data import Task
from ccsi.learners.lwf_mc import LwFMC
from ccsi.learners.parts.prototypes import class_means, nearest_mean
from ccsi.learners.replay import ReplayLearner
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class ICaRL(ReplayLearner, LwFMC):
    """Sigmoids with distillation on new images and exemplars; classification by the nearest mean of exemplars.

    It keeps exemplars, chosen by herding (algorithm 4), 2,000 in all in the paper (section 4), and the mean feature
    of each class's exemplars.
    """

    default_name = "icarl"
    stored_buffers: ClassVar = {**ReplayLearner.stored_buffers, "means": "class mean features"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty_like(self.net.new)

    def _stored_like(self) -> Mapping[str, Any]:
        return {**super()._stored_like(), "means": self.means.new_empty(self.heads[-1].stop, self.means.shape[1])}

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        unit = F.normalize(self.features(self.kept_images))
        self.means = F.normalize(class_means(unit, self.kept_labels, range(task.classes.stop)))

    def classify_features(self, features: Tensor) -> Tensor:
        return nearest_mean(F.normalize(features), self.means)
