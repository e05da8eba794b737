"""Always Be Dreaming (ABD, Smith et al., ICCV 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.data import Task
from ccsi.learners.base import Dreams, GenerationLearner, Loss
from ccsi.losses import exact
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class ABD(GenerationLearner):
    """Replay of generated images: local cross-entropy, features distilled as the old classifier weighs them.

    A generator is trained on the old net before each task; the classifier alone is fine-tuned on real and generated
    images of all classes. It keeps nothing of real data. (The released code weights classes by frequency too.)

    Args:
        distillation: λ_kd, 0.1 in the paper on CIFAR-100. fine_tuning: λ_ft, 1 there.
    """

    default_name = "abd"

    distillation: NonNegative = 0.1
    fine_tuning: NonNegative = 1.0

    def replay(self, task: Task, teacher: IncrementalNet, dreams: Dreams, stages: Stages) -> None:
        first = self.first_of(task)
        old_classifier = F.normalize(torch.cat([teacher.old, teacher.new]))  # W, of unit length, as cosines have it

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            generated, pseudo_labels = dreams(len(images))
            both = torch.cat([images, generated])
            features = net.features(both)
            own = net.scale * net.cosines(features[: len(images)])
            found = {"ce": self.cross_entropy(own[:, first:], labels - first)}  # eq. 8
            if self.distillation:
                with torch.no_grad():
                    before = teacher.features(both)
                now, before = exact(features, before)
                moved = F.linear(now - before, old_classifier).square().mean(1)  # eq. 10
                found["distillation"] = self.distillation * net.process_group.mean(moved)
            if self.fine_tuning:
                logits = net.scale * net.cosines(features.detach())
                tuned = self.cross_entropy(logits, torch.cat([labels, pseudo_labels]))  # eq. 9
                found["fine_tuning"] = self.fine_tuning * tuned
            return found

        self.fit(task, Loss(parts, dreams.draws), stages)
