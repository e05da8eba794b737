"""Joint training: everything seen so far, at once. The upper bound, and not data-free."""

from typing import ClassVar

from ccsi.data import Task
from ccsi.learners.base import NetLearner
from ccsi.stage import Stages


class Joint(NetLearner):
    """A new net for each task, trained on the images of all tasks so far.

    Its permission `all_tasks` makes the spine hand it every class's images; the record names it.
    """

    default_name = "joint"
    kind: ClassVar = "bound"
    permissions = ("all_tasks",)

    def learn(self, task: Task, stages: Stages) -> None:
        self.net = self.fresh_net()
        self.net.grow(self.random_prototypes(task.classes.stop, task.index))
        self.fit(task, self.classify(), stages)
