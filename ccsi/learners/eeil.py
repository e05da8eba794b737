"""End-to-end incremental learning (EEIL, Castro et al., ECCV 2018)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss
from ccsi.learners.parts.heads import head_distillation, separate_heads
from ccsi.learners.replay import ReplayLearner
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.training import TrainingData


@dataclass(kw_only=True, eq=False)
class EEIL(ReplayLearner):
    """Cross-entropy and distillation of every head on new images and exemplars, then again on a class-balanced set.

    It keeps exemplars, chosen by herding, 2,000 in all in the paper (section 5). Unlike the paper, it chooses them
    before the balanced training, and adds neither noise to gradients nor the paper's augmentation.

    Args:
        distillation: weight of each old head's term, 1 in the paper (eq. 1).
        temperature: T of the distillation, 2 in the paper (section 3.1).
        balanced_epochs: epochs of the second, balanced training; 30, after 40, in the paper (section 4.2).
        balanced_lr: learning rate of the balanced training as a multiple of `training.lr`, 0.1 in the paper.
    """

    default_name = "eeil"

    distillation: NonNegative = 1.0
    temperature: Positive = 2.0
    balanced_epochs: PositiveInt = 30
    balanced_lr: Positive = 0.1

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        if len(self.heads) == 1:
            return
        # the new head keeps what it has just learned (section 4.2)
        objective = Loss(partial(self.loss_terms, recent=self.frozen_net() if len(task.classes) > 1 else None))
        balanced = TrainingData(Labelled(self.kept_images, self.kept_labels), task.val)
        training = self.training.second_stage(self.balanced_epochs, self.balanced_lr)
        self.fit(task, objective, stages, balanced, "balanced", training)

    def loss_terms(
        self, net: IncrementalNet, images: Tensor, labels: Tensor, recent: IncrementalNet | None = None
    ) -> dict[str, Tensor]:
        heads, logits = separate_heads(self.heads[:-1]), net(images)
        terms = {"ce": self.cross_entropy(logits, labels)}
        if heads and self.distillation:
            old = self.teacher(images)
            if recent is not None:
                heads, old = [*heads, self.heads[-1]], torch.cat([old, recent(images)[:, old.shape[1] :]], 1)
            distance = head_distillation(heads, logits, old, self.temperature, net.process_group)
            terms["distillation"] = self.distillation * distance
        return terms
