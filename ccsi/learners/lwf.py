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
    """Learn the new classes among themselves, and answer for the old ones on the new images as the old net does.

    Each task's classes are a head of their own: its answers are softened and kept apart from other heads'. It keeps
    nothing of real data. The classes of all heads are compared in the end, which the paper (with the task known) does
    not do; its warm-up of the new head is left out.

    Args:
        distillation: λ_o, 1 in the paper (section 3). temperature: T, 2 in the paper (section 3, eq. 3).
        local: cross-entropy among the new classes (separate heads, the paper's); False: among all seen.
    """

    default_name = "lwf"
    kind: ClassVar = "regularisation"

    distillation: NonNegative = 1.0
    temperature: Positive = 2.0
    local: bool = True

    def learn(self, task: Task, stages: Stages) -> None:
        teacher, heads = self.frozen_net(), self.old_heads()
        self.grow(task)
        first = self.first_of(task) if self.local else 0

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = net(images)
            found = {"ce": self.cross_entropy(logits[:, first:], labels - first)}
            if heads and self.distillation:
                with torch.no_grad():
                    old = teacher(images)
                losses = [self.answers_kept(logits[:, h.start : h.stop], old[:, h.start : h.stop]) for h in heads]
                found["distillation"] = self.distillation * torch.stack(losses).sum()
            return found

        self.fit(task, Loss(parts), stages)

    def answers_kept(self, logits: Tensor, old: Tensor) -> Tensor:
        """The distillation loss of one head, both [N, n]."""
        return knowledge_distillation(logits, old, self.temperature, self.net.workers)
