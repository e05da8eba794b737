"""End-to-end incremental learning (EEIL, Castro et al., ECCV 2018)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import Loss
from ccsi.learners.parts.heads import separate_heads
from ccsi.learners.replay import ReplayLearner
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


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
        exemplars = self.exemplars()
        teachers = dict.fromkeys(separate_heads(self.heads), self.frozen_net())
        self.grow(task)
        self.fit(task, self.distilled(teachers), stages, exemplars, self.budget.ratio)
        self.remember(task)
        balanced = self.exemplars()
        if not teachers or balanced is None:
            return
        if len(task.classes) > 1:
            teachers[task.classes] = self.frozen_net()  # the new head keeps what it has just learned (section 4.2)
        training = self.training.second_stage(self.balanced_epochs, self.balanced_lr)
        task = dataclasses.replace(task, train=balanced)
        self.fit(task, self.distilled(teachers), stages, stage="balanced", training=training)

    def distilled(self, teachers: Mapping[range, IncrementalNet]) -> Loss:
        """Cross-entropy, and distillation of each head from its own teacher."""

        def loss_terms(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            terms = {"ce": self.cross_entropy(logits, labels)}
            if teachers and self.distillation:
                outputs = {id(teacher): teacher(images) for teacher in dict.fromkeys(teachers.values())}
                distances = []
                for head, teacher in teachers.items():
                    part = slice(head.start, head.stop)
                    old = outputs[id(teacher)][:, part]
                    distances.append(knowledge_distillation(logits[:, part], old, self.temperature, net.process_group))
                terms["distillation"] = self.distillation * torch.stack(distances).sum()
            return terms

        return Loss(loss_terms)
