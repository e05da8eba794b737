"""Always Be Dreaming (ABD, Smith et al., ICCV 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import NonNegative
from ccsi.data import Task
from ccsi.learners.base import GenerationLearner, Loss
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class ABD(GenerationLearner):
    """Dreamt images keep the old features where the old classifier looks; only the classifier mixes new and dreamt.

    A generator is trained on the old net before each task. It keeps nothing of real data.

    Args:
        distillation: λ_kd, 0.1 in the paper on CIFAR-100 (appendix A). fine_tuning: λ_ft, 1 there.
    """

    default_name = "abd"

    distillation: NonNegative = 0.1
    fine_tuning: NonNegative = 1.0

    def learn(self, task: Task, stages: Stages) -> None:
        n_old, teacher = self.net.n_classes, self.frozen_net()
        dream = self.dreams(task, teacher, stages)
        self.grow(task)
        looked = F.normalize(torch.cat([teacher.old, teacher.new]))  # W of the old classifier

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            if dream is None:
                return {"ce": self.cross_entropy(net(images), labels)}
            dreamt, answers = dream(len(images))
            everything = torch.cat([images, dreamt])
            features = net.features(everything)
            own = net.scale * net.cosines(features[: len(images)])
            found = {"ce": self.cross_entropy(own[:, n_old:], labels - n_old)}  # eq. 8
            if self.distillation:
                with torch.no_grad():
                    old = teacher.features(everything)
                moved = F.linear(features - old, looked).square().sum(1)  # eq. 10
                found["distillation"] = self.distillation * net.workers.mean(moved)
            if self.fine_tuning:
                logits = net.scale * net.cosines(features.detach())
                mixed = self.cross_entropy(logits, torch.cat([labels, answers]))  # eq. 9
                found["fine_tuning"] = self.fine_tuning * mixed
            return found

        self.fit(task, Loss(parts, self.draws(task)), stages)
