"""Fine-tuning: learn each task's images and nothing else. The lower bound."""

from ccsi.data import Task
from ccsi.learners.base import CrossEntropy, NetLearner
from ccsi.stage import Stages


class Finetune(NetLearner):
    """Cross-entropy over all classes seen, on the new task's images only."""

    default_name = "finetune"

    def learn(self, task: Task, stages: Stages) -> None:
        self.net.grow(self.random_prototypes(len(task.classes), task.index))
        self.fit(task, CrossEntropy(self.training.label_smoothing), stages)
