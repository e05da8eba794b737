"""R-DFCIL (Gao et al., ECCV 2022): relation-guided representation learning for data-free class-incremental learning."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import Loss
from ccsi.learners.generative import GenerationLearner
from ccsi.learners.parts.heads import local_start
from ccsi.losses import exact
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.training import Objective


@dataclass(kw_only=True, eq=False)
class RDFCIL(GenerationLearner):
    """Replay of generated images: local cross-entropy, and distillation of logits and of angles between features.

    A generator is trained on the old net before each task, as in ABD; the classifier is refined on real and generated
    images at the end. With the share of old classes the weights of both distillations grow and that of cross-entropy
    falls (section 3.5). It keeps nothing of real data. Unlike the released code, it refines without hard distillation
    and class weights, compares angles in as many dimensions as features have (twice as many there), and passes real
    and generated images through the net as one batch (two there, each with its own moments).

    Args:
        w_ce: λ of the local cross-entropy, 0.5 in the paper.
        w_hard: λ of the hard distillation of logits, 0.15 in the paper.
        w_relation: λ of the relational distillation of angles, 0.5 in the paper.
        refine_epochs: epochs in which the classifier alone is refined; 40, after 200, in the released code.
        refine_lr: learning rate of the refinement as a multiple of `training.lr`; a twentieth in the released code.
    """

    default_name = "r_dfcil"

    w_ce: NonNegative = 0.5
    w_hard: NonNegative = 0.15
    w_relation: NonNegative = 0.5
    refine_epochs: PositiveInt = 40
    refine_lr: Positive = 0.05

    def objective(self, task: Task) -> Objective:
        if self.generator is not None:
            self.net.relation = self.relation(task)  # trained with the net, and removed afterwards
        return super().objective(task)

    def refine(self, task: Task, stages: Stages) -> None:
        del self.net.relation
        training = self.training.second_stage(self.refine_epochs, self.refine_lr)
        self.fit(task, Loss(self.refined, self.draws), stages, stage="refinement", training=training)

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.generator is None:
            return super().loss_terms(net, images, labels)
        n, n_old, new = len(images), self.teacher.n_classes, self.heads[-1]
        w_ce, kept = self.weights_for(n_old, len(new))
        generated, _ = self.generated(n)
        features = net.features(torch.cat([images, generated]))
        logits, first = net.scale * net.cosines(features), local_start(new)
        terms = {"ce": w_ce * self.cross_entropy(logits[:n, first:], labels - first)}
        if self.w_hard:
            hard = (logits[n:, :n_old] - self.teacher(generated)).abs().mean(1)
            terms["hard"] = kept * self.w_hard * net.process_group.mean(hard)
        if self.w_relation:
            new_map, old_map = net.get_submodule("relation").children()
            now, part = net.process_group.rows(new_map(features[:n]))
            before, _ = net.process_group.rows(old_map(self.teacher.features(images)))
            angles = angle_differences(now, before)[part]
            terms["relation"] = kept * self.w_relation * net.process_group.mean(angles)
        return terms

    def refined(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over all classes, of the classifier alone."""
        generated, pseudo_labels = self.generated(len(images))
        with torch.no_grad():
            features = net.eval().features(torch.cat([images, generated]))
        logits = net.scale * net.cosines(features)
        return {"ce": self.cross_entropy(logits, torch.cat([labels, pseudo_labels]))}

    def weights_for(self, n_old: int, n_new: int) -> tuple[float, float]:
        """The weight of cross-entropy, and the factor of both distillations (section 3.5)."""
        alpha, beta = math.log2(n_new / 2 + 1), math.sqrt(n_old / n_new)
        return self.w_ce * (1 + 1 / alpha) / beta, alpha * beta

    def relation(self, task: Task) -> nn.ModuleList:
        """The two linear maps between which angles are compared, at their random start; none if `w_relation` is 0."""
        d, draws = self.net.backbone.n_features, self.streams.generator("relation", task.index)
        maps = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(2 if self.w_relation else 0))
        for weight in maps.parameters():
            weight.data = (torch.rand(d, d, generator=draws) * 2 - 1) * d**-0.5
        return maps.to(self.net.scale)


def angle_differences(features: Tensor, old: Tensor) -> Tensor:
    """Mean |cos ∠| difference of the angles at each feature to all pairs of others, [N, D] to [N] (eq. 7; RKD)."""

    def cosines(f: Tensor) -> Tensor:
        unit = F.normalize(f[None] - f[:, None], dim=2)  # [vertex, other, D]
        return torch.bmm(unit, unit.transpose(1, 2))

    with torch.autocast(features.device.type, enabled=False):
        now, before = exact(features, old)
        return (cosines(now) - cosines(before)).abs().mean((1, 2))
