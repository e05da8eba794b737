"""LwF.MC, multi-class Learning without Forgetting (Rebuffi et al., iCaRL, CVPR 2017, section 4)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.losses import binary_cross_entropy
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class LwFMC(NetLearner):
    """One sigmoid for each class: new ones are trained on labels, old ones on the old net's outputs.

    It is iCaRL without exemplars, and classifies by the largest output. It keeps nothing of real data.

    Args:
        distillation: weight of the old classes' term, 1 in the paper (algorithm 3).
    """

    default_name = "lwf_mc"
    kind: ClassVar = "regularisation"

    distillation: NonNegative = 1.0

    def learn(self, task: Task, stages: Stages) -> None:
        self.fit_sigmoids(task, stages)

    def fit_sigmoids(
        self, task: Task, stages: Stages, exemplars: Labelled | None = None, ratio: float | None = None
    ) -> None:
        """Add the classes, and train on the task's images and `exemplars` with iCaRL's loss (algorithm 3)."""
        n_old = self.net.n_classes
        teacher = self.frozen_net()
        self.grow(task)

        def loss_terms(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            targets = F.one_hot(labels, net.n_classes).to(logits.dtype)
            terms = {"bce": binary_cross_entropy(logits[:, n_old:], targets[:, n_old:], net.process_group)}
            if n_old and self.distillation:
                old = teacher(images).sigmoid()
                distance = binary_cross_entropy(logits[:, :n_old], old, net.process_group)
                terms["distillation"] = self.distillation * distance
            return terms

        self.fit(task, Loss(loss_terms), stages, exemplars, ratio)
