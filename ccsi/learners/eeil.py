"""End-to-end incremental learning (EEIL, Castro et al., ECCV 2018)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive, PositiveInt
from ccsi.data import Task
from ccsi.learners.base import Loss, ReplayLearner
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class EEIL(ReplayLearner):
    """Cross-entropy and distillation of every head on new images and exemplars, then the same on as many of each class.

    It keeps exemplars, chosen by herding, 2,000 in all in the paper (section 5). (The paper adds noise to gradients and
    its own augmentation, and chooses the exemplars after the second training: left out.)

    Args:
        distillation: weight of each old head's part, 1 in the paper (eq. 1). temperature: T, 2 there (section 3.1).
        balanced_epochs: epochs of the second, balanced training, 30 in the paper, after 40 (section 4.2).
        balanced_lr: its learning rate, as a multiple of the first's; 0.1 there.
    """

    default_name = "eeil"

    distillation: NonNegative = 1.0
    temperature: Positive = 2.0
    balanced_epochs: PositiveInt = 30
    balanced_lr: Positive = 0.1

    def learn(self, task: Task, stages: Stages) -> None:
        exemplars = self.exemplars()
        teachers = dict.fromkeys(self.old_heads(), self.frozen_net())
        self.grow(task)
        self.fit(task, self.keeping(teachers), stages, exemplars, self.budget.ratio)
        self.remember(task)
        balanced = self.exemplars()
        if not teachers or balanced is None:
            return
        if len(task.classes) > 1:
            teachers[task.classes] = self.frozen_net()  # the new head keeps what it has just learned (section 4.2)
        training = self.corrective(self.balanced_epochs, self.balanced_lr)
        task = dataclasses.replace(task, train=balanced)
        self.fit(task, self.keeping(teachers), stages, stage="balanced", training=training)

    def keeping(self, teachers: Mapping[range, IncrementalNet]) -> Loss:
        """Cross-entropy, and distillation of each head from the answers of its own teacher."""

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            found = {"ce": self.cross_entropy(logits, labels)}
            if teachers and self.distillation:
                with torch.no_grad():
                    answers = {id(teacher): teacher(images) for teacher in dict.fromkeys(teachers.values())}
                kept = []
                for head, teacher in teachers.items():
                    part = slice(head.start, head.stop)
                    old = answers[id(teacher)][:, part]
                    kept.append(knowledge_distillation(logits[:, part], old, self.temperature, net.process_group))
                found["distillation"] = self.distillation * torch.stack(kept).sum()
            return found

        return Loss(parts)
