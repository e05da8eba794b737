"""R-DFCIL (Gao et al., ECCV 2022): relation-guided representation learning for data-free class-incremental learning."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import Loss
from ccsi.learners.generative import GenerationLearner, ReplaySampler
from ccsi.learners.parts.heads import local_start
from ccsi.losses import exact
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


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

    def replay(self, task: Task, teacher: IncrementalNet, sampler: ReplaySampler, stages: Stages) -> None:
        n_old, first = teacher.n_classes, local_start(task)
        w_ce, kept = self.weights_for(n_old, len(task.classes))
        maps = self.relation(task) if self.w_relation else nn.ModuleList()
        self.net.relation = maps  # trained with the net, and removed at the end of the task

        def loss_terms(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            generated, _ = sampler(len(images))
            features = net.features(torch.cat([images, generated]))
            logits = net.scale * net.cosines(features)
            n = len(images)
            terms = {"ce": w_ce * self.cross_entropy(logits[:n, first:], labels - first)}
            if self.w_hard:
                old_logits = teacher(generated)
                hard = (logits[n:, :n_old] - old_logits).abs().mean(1)
                terms["hard"] = kept * self.w_hard * net.process_group.mean(hard)
            if self.w_relation:
                before = teacher.features(images)
                now, part = net.process_group.rows(maps[0](features[:n]))
                old, _ = net.process_group.rows(maps[1](before))
                terms["relation"] = kept * self.w_relation * net.process_group.mean(angle_differences(now, old)[part])
            return terms

        def refined(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            generated, pseudo_labels = sampler(len(images))
            with torch.no_grad():
                features = net.eval().features(torch.cat([images, generated]))
            logits = net.scale * net.cosines(features)
            return {"ce": self.cross_entropy(logits, torch.cat([labels, pseudo_labels]))}

        self.fit(task, Loss(loss_terms, sampler.draws), stages)
        del self.net.relation
        training = self.training.second_stage(self.refine_epochs, self.refine_lr)
        self.fit(task, Loss(refined, sampler.draws), stages, stage="refinement", training=training)

    def weights_for(self, n_old: int, n_new: int) -> tuple[float, float]:
        """The weight of cross-entropy, and the factor of both distillations (section 3.5)."""
        alpha, beta = math.log2(n_new / 2 + 1), math.sqrt(n_old / n_new)
        return self.w_ce * (1 + 1 / alpha) / beta, alpha * beta

    def relation(self, task: Task) -> nn.ModuleList:
        """The two linear maps between which angles are compared, at their random start."""
        d = self.net.backbone.n_features
        draws = self.streams.generator("relation", task.index)
        maps = [nn.Linear(d, d, bias=False) for _ in range(2)]
        with torch.no_grad():
            for layer in maps:
                layer.weight.copy_((torch.rand(d, d, generator=draws) * 2 - 1) * d**-0.5)
        return nn.ModuleList(maps).to(self.net.scale)


def angle_differences(features: Tensor, old: Tensor) -> Tensor:
    """Mean |cos ∠| difference of the angles at each feature, towards all pairs of others: both [N, D] to [N] (eq. 7).

    Source: RKD (Park et al., CVPR 2019), eq. 7.
    """

    def cosines(f: Tensor) -> Tensor:
        unit = F.normalize(f[None] - f[:, None], dim=2)  # [vertex, other, D]
        return torch.bmm(unit, unit.transpose(1, 2))

    with torch.autocast(features.device.type, enabled=False):
        now, before = exact(features, old)
        return (cosines(now) - cosines(before)).abs().mean((1, 2))
