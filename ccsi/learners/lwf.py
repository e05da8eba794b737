"""Learning without Forgetting (LwF, Li and Hoiem, TPAMI 2018)."""

from dataclasses import dataclass

from torch import Tensor

from ccsi.checks import NonNegative, Positive
from ccsi.learners.base import NetLearner
from ccsi.learners.parts.heads import head_distillation, joined_head, local_start, separate_heads
from ccsi.models import IncrementalNet


@dataclass(kw_only=True, eq=False)
class LwF(NetLearner):
    """Cross-entropy among the new classes, and distillation of the old net's softened outputs on new images.

    It keeps nothing of real data. In the paper each task's classes are a separate head, and the task is known at test
    time; here all old classes are one head, as in class-incremental studies (FACIL, Masana et al. 2022), so that their
    scores are comparable. The paper's warm-up of the new head is left out.

    Args:
        distillation: λ_o, 1 in the paper (section 3).
        temperature: T, 2 in the paper (section 3, eq. 3).
        local: cross-entropy among the new classes (the paper's); false: among all classes seen.
        separate: each old task's head is distilled separately (the paper's).
    """

    default_name = "lwf"
    kind = "regularisation"

    distillation: NonNegative = 1.0
    temperature: Positive = 2.0
    local: bool = True
    separate: bool = False

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        *old_heads, new = self.heads
        heads = separate_heads(old_heads) if self.separate else joined_head(old_heads)
        first = local_start(new) if self.local else 0
        logits = net(images)
        terms = {"ce": self.cross_entropy(logits[:, first:], labels - first)}
        if heads and self.distillation:
            distance = head_distillation(heads, logits, self.teacher(images), self.temperature, net.process_group)
            terms["distillation"] = self.distillation * distance
        return terms
