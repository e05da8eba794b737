"""iCaRL: incremental classifier and representation learning (Rebuffi et al., CVPR 2017)."""

from dataclasses import dataclass
from typing import ClassVar

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
        self.means = torch.empty(0, self.net.backbone.n_features, device=self.device, dtype=self.net.scale.dtype)

    def learn(self, task: Task, stages: Stages) -> None:
        self.fit_sigmoids(task, stages, self.exemplars(), self.budget.ratio)
        self.remember(task)
        kept = self.exemplars()
        if kept is not None:
            unit = F.normalize(self.features(kept.images))
            self.means = F.normalize(class_means(unit, kept.labels, range(task.classes.stop)))

    def scores(self, images: Tensor) -> Tensor:
        self.net.eval()
        return nearest_mean(F.normalize(self.net.features(images.to(self.net.scale.dtype))), self.means)
