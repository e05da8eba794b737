"""Always Be Dreaming (ABD, Smith et al., ICCV 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.learners.generative import GenerationLearner
from ccsi.learners.parts.heads import local_start
from ccsi.losses import exact
from ccsi.models import IncrementalNet


@dataclass(kw_only=True, eq=False)
class ABD(GenerationLearner):
    """Replay of generated images: local cross-entropy, and distillation of features weighted by the old classifier.

    A generator is trained on the old net before each task; the classifier alone is also fine-tuned on real and
    generated images of all classes. It keeps nothing of real data. Unlike the released code, it does not weight
    classes by their frequency.

    Args:
        distillation: λ_kd, 0.1 in the paper on CIFAR-100.
        fine_tuning: λ_ft, 1 in the paper.
    """

    default_name = "abd"

    distillation: NonNegative = 0.1
    fine_tuning: NonNegative = 1.0

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.generator is None:
            return super().loss_terms(net, images, labels)
        first, teacher = local_start(self.heads[-1]), self.teacher
        generated, pseudo_labels = self.generated(len(images))
        both = torch.cat([images, generated])
        features = net.features(both)
        own = net.scale * net.cosines(features[: len(images)])
        terms = {"ce": self.cross_entropy(own[:, first:], labels - first)}  # eq. 8
        if self.distillation:
            now, before = exact(features, teacher.features(both))
            old_classifier = F.normalize(torch.cat([teacher.old, teacher.new]))  # W, of unit length as in cosines
            moved = F.linear(now - before, old_classifier).square().mean(1)  # eq. 10
            terms["distillation"] = self.distillation * net.process_group.mean(moved)
        if self.fine_tuning:
            logits = net.scale * net.cosines(features.detach())  # eq. 9
            terms["fine_tuning"] = self.fine_tuning * self.cross_entropy(logits, torch.cat([labels, pseudo_labels]))
        return terms
