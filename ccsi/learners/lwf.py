"""Learning without Forgetting (LwF, Li and Hoiem, TPAMI 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive
from ccsi.data import Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class LwF(NetLearner):
    """Learn the new classes among themselves, and keep the old net's softened outputs for the old ones on new images.

    It keeps nothing of real data. In the paper each task's classes are a head of their own, and the task is known when
    they are used; here all old classes are one head, as in class-incremental studies (FACIL, Masana et al. 2022), which
    keeps them comparable with each other. The paper's warm-up of the new head is left out.

    Args:
        distillation: λ_o, 1 in the paper (section 3). temperature: T, 2 in the paper (section 3, eq. 3).
        local: cross-entropy among the new classes (the paper's); False: among all seen.
        separate: each old task's head is distilled by itself (the paper's).
    """

    default_name = "lwf"
    kind: ClassVar = "regularisation"

    distillation: NonNegative = 1.0
    temperature: Positive = 2.0
    local: bool = True
    separate: bool = False

    def learn(self, task: Task, stages: Stages) -> None:
        teacher, heads = self.frozen_net(), self.old_heads() if self.separate else self.all_as_one()
        self.grow(task)
        first, t = self.first_of(task) if self.local else 0, self.temperature

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            found = {"ce": self.cross_entropy(logits[:, first:], labels - first)}
            if heads and self.distillation:
                with torch.no_grad():
                    old = teacher(images)
                kept = [
                    knowledge_distillation(logits[:, h.start : h.stop], old[:, h.start : h.stop], t, net.process_group)
                    for h in heads
                ]
                found["distillation"] = self.distillation * torch.stack(kept).sum()
            return found

        self.fit(task, Loss(parts), stages)
