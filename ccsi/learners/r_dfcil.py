"""R-DFCIL (Gao et al., ECCV 2022): relation-guided representation learning for data-free class-incremental learning."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import GenerationLearner, Loss
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class RDFCIL(GenerationLearner):
    """Dreamt images keep the old logits, new images the angles between features; the classifier is refined on both.

    A generator is trained on the old net before each task, as in ABD. It keeps nothing of real data. All weights
    grow with the share of old classes (section 3.5).

    Args:
        w_ce, w_hard, w_relation: λ of local cross-entropy, hard and relational distillation; 0.5, 0.15 and 0.5 in the
            paper (section 4.1). refine_epochs: of the classifier alone, 40 there after 100; refine_lr: its learning
            rate, as a multiple of the first's.
    """

    default_name = "r_dfcil"

    w_ce: NonNegative = 0.5
    w_hard: NonNegative = 0.15
    w_relation: NonNegative = 0.5
    refine_epochs: PositiveInt = 40
    refine_lr: Positive = 0.1

    def learn(self, task: Task, stages: Stages) -> None:
        n_old, teacher = self.net.n_classes, self.frozen_net()
        dream = self.dreams(task, teacher, stages)
        self.grow(task)
        if dream is None:
            self.fit(task, self.classify(), stages)
            return
        alpha, beta = math.log2(len(task.classes) / 2 + 1), math.sqrt(n_old / len(task.classes))
        w_ce, kept = self.w_ce * (1 + 1 / alpha) / beta, alpha * beta
        maps = self.relation(task)
        self.net.relation = maps  # trained with the net, and dropped with the task

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            dreamt, _ = dream(len(images))
            features = net.features(torch.cat([images, dreamt]))
            logits = net.scale * net.cosines(features)
            n = len(images)
            with torch.no_grad():
                old = teacher.features(images)
                answers = teacher(dreamt)
            hard = (logits[n:, :n_old] - answers).abs().mean(1)
            seen, part = net.workers.rows(maps[0](features[:n]))
            before, _ = net.workers.rows(maps[1](old))
            return {
                "ce": w_ce * self.cross_entropy(logits[:n, n_old:], labels - n_old),
                "hard": kept * self.w_hard * net.workers.mean(hard),
                "relation": kept * self.w_relation * net.workers.mean(angles_apart(seen, before)[part]),
            }

        def refined(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            dreamt, answers = dream(len(images))
            with torch.no_grad():
                features = net.features(torch.cat([images, dreamt]), moving=0)
            logits = net.scale * net.cosines(features)
            return {"ce": self.cross_entropy(logits, torch.cat([labels, answers]))}

        self.fit(task, Loss(parts, self.draws(task)), stages)
        del self.net.relation
        training = dataclasses.replace(self.training, epochs=self.refine_epochs, lr=self.training.lr * self.refine_lr)
        self.fit(task, Loss(refined, self.draws(task)), stages, stage="refinement", training=training)

    def relation(self, task: Task) -> nn.ModuleList:
        """The two linear maps between which angles are compared, at their random start."""
        d = self.net.backbone.n_features
        draws = self.streams.generator("relation", task.index)
        maps = [nn.Linear(d, d, bias=False) for _ in range(2)]
        with torch.no_grad():
            for layer in maps:
                layer.weight.copy_((torch.rand(d, d, generator=draws) * 2 - 1) * d**-0.5)
        return nn.ModuleList(maps).to(self.net.scale)


def angles_apart(features: Tensor, old: Tensor) -> Tensor:
    """Mean |cos ∠| difference of the angles at each feature, towards all pairs of others: both [N, D] to [N] (eq. 7).

    Source: RKD (Park et al., CVPR 2019), eq. 7.
    """

    def cosines(f: Tensor) -> Tensor:
        unit = F.normalize(f[None] - f[:, None], dim=2)  # [vertex, other, D]
        return torch.bmm(unit, unit.transpose(1, 2))

    return (cosines(features) - cosines(old)).abs().mean((1, 2))
