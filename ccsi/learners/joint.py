"""Joint training on all tasks so far: the upper bound, which is not data-free."""

from ccsi.data import Task
from ccsi.learners.base import NetLearner
from ccsi.stage import Stages


class Joint(NetLearner):
    """A new net for each task, trained on the images of all tasks so far.

    It keeps nothing itself: by its permission `all_tasks`, which the record names, a run hands it the images of every
    class seen. The upper bound of a comparison.
    """

    default_name = "joint"
    kind = "bound"
    permissions = ("all_tasks",)
    first_is_shortest = True

    def learn(self, task: Task, stages: Stages) -> None:
        self.net = self.fresh_net()
        super().learn(task, stages)

    def grow(self, task: Task) -> None:
        self.net.grow(self.random_prototypes(task.classes.stop, task.index))
        self.heads.append(task.classes)
