"""LwF.MC, multi-class Learning without Forgetting (Rebuffi et al., iCaRL, CVPR 2017, section 4)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.learners.base import NetLearner
from ccsi.losses import binary_cross_entropy
from ccsi.models import IncrementalNet


@dataclass(kw_only=True, eq=False)
class LwFMC(NetLearner):
    """One sigmoid for each class: new ones are trained on labels, old ones on the old net's outputs.

    It is iCaRL without exemplars, and classifies by the largest output. It keeps nothing of real data.

    Args:
        distillation: weight of the old classes' term, 1 in the paper (algorithm 3).
    """

    default_name = "lwf_mc"
    kind = "regularisation"

    distillation: NonNegative = 1.0

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        n_old, logits = self.teacher.n_classes, net(images)
        targets = F.one_hot(labels, net.n_classes).to(logits.dtype)
        terms = {"bce": binary_cross_entropy(logits[:, n_old:], targets[:, n_old:], net.process_group)}
        if n_old and self.distillation:
            distance = binary_cross_entropy(logits[:, :n_old], self.teacher(images).sigmoid(), net.process_group)
            terms["distillation"] = self.distillation * distance
        return terms
