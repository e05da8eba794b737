"""Experience replay: real images kept and mixed in, the oracle for impressions (Chaudhry et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from ccsi.data import Task
from ccsi.learners.base import ReplayLearner
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class ER(ReplayLearner):
    """Cross-entropy over all classes seen, on the new task's images and some real images of each old class.

    With `balanced`, half of the draws are exemplars, as in the paper's batches. It keeps exemplars, chosen as the
    budget says (the paper sees each image once and fills its memory on the way): what impressions are measured against.

    Args:
        balanced: draw as many exemplars as new images.
    """

    default_name = "er"
    kind: ClassVar = "bound"

    balanced: bool = True

    def learn(self, task: Task, stages: Stages) -> None:
        exemplars = self.exemplars()
        self.grow(task)
        self.fit(task, self.classify(), stages, exemplars, 0.5 if exemplars and self.balanced else None)
        self.remember(task)
