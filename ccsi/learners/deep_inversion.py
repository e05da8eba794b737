"""DeepInversion for class-incremental learning (Yin et al., CVPR 2020, section 4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive, Share
from ccsi.data import Task
from ccsi.errors import UserError
from ccsi.learners.base import InversionLearner, Loss
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.synthesis import ClassMemory


@dataclass(kw_only=True, eq=False)
class DeepInversion(InversionLearner):
    """Images of old classes optimised from noise to the net's batch moments, and the old net's answers on all images.

    Its objective is CCSI's without class means and class-adaptive moments, so that it keeps nothing of real data. The
    net is trained with cross-entropy on the images it made too (in the paper only on real ones).

    Args:
        distillation: weight of the old net's answers, 1 in the paper (eq. 9). temperature: T.
        synthetic_ratio: share of synthetic images in an epoch, half in the paper (appendix).
    """

    default_name = "deep_inversion"

    distillation: NonNegative = 1.0
    temperature: Positive = 1.0
    synthetic_ratio: Share = 0.5

    def check(self, sizes: Sequence[int]) -> None:
        if self.synthesis.init != "noise" or self.synthesis.class_moments:
            raise UserError(
                f"learner.synthesis.init={self.synthesis.init}, class_moments={self.synthesis.class_moments:g}: "
                "learner=deep_inversion keeps no class means or moments; expected noise and 0."
            )

    def learn(self, task: Task, stages: Stages) -> None:
        n_old, teacher = self.net.n_classes, self.frozen_net()
        shape = task.train.images.shape[1:]
        blank = ClassMemory(torch.zeros(n_old, *shape, device=self.device, dtype=self.net.scale.dtype))
        self.synthesize(task, teacher, blank, stages)
        self.grow(task)

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            found = {"ce": self.cross_entropy(logits, labels)}
            if n_old and self.distillation:
                with torch.no_grad():
                    old = teacher(images)
                kept = knowledge_distillation(logits[:, :n_old], old, self.temperature, net.process_group)
                found["distillation"] = self.distillation * kept
            return found

        self.fit(task, Loss(parts), stages, self.impressions, self.synthetic_ratio if n_old else None)
