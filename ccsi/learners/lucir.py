"""LUCIR: learning a unified classifier incrementally via rebalancing (Hou et al., CVPR 2019)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ccsi.checks import NonNegative, PositiveInt
from ccsi.learners.replay import ReplayLearner
from ccsi.losses import distillation, margin
from ccsi.models import IncrementalNet


@dataclass(kw_only=True, eq=False)
class LUCIR(ReplayLearner):
    """Cosine-normalized cross-entropy, less-forget distillation and a margin loss on new images and exemplars.

    It keeps exemplars, chosen by herding, 20 of each class in the paper. The paper's fine-tuning of the classifier on
    exemplars alone, used on ImageNet only, is left out.

    Args:
        distillation: λ_base, times √(n_old/n_new); 5 in the paper on CIFAR (section 4.1).
        w_margin: weight of the margin loss, 1 in the paper.
        margin: m in cosine units, 0.5 in the paper.
        top_k: K, new classes that an old image is compared with; 2 in the paper.
    """

    default_name = "lucir"
    imprint = True
    freeze_prototypes = True

    distillation: NonNegative = 5.0
    w_margin: NonNegative = 1.0
    margin: NonNegative = 0.5
    top_k: PositiveInt = 2

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        n_old, features = self.teacher.n_classes, net.features(images)
        w_distillation = self.distillation * math.sqrt(n_old / len(self.heads[-1]))
        cosines = net.cosines(features)
        terms = {"ce": self.cross_entropy(net.scale * cosines, labels)}
        if w_distillation:
            old = self.teacher.features(images)
            terms["distillation"] = w_distillation * distillation(features, old, net.process_group)
        if n_old and self.w_margin:
            distance = margin(cosines, labels, n_old, self.margin, self.top_k, net.process_group)
            terms["margin"] = self.w_margin * distance
        return terms
