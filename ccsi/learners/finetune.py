"""Fine-tuning: learn each task's images and nothing else. The lower bound."""

from typing import ClassVar

from ccsi.learners.base import NetLearner


class Finetune(NetLearner):
    """Cross-entropy over all classes seen, on the new task's images only. Keeps nothing."""

    default_name = "finetune"
    kind: ClassVar = "bound"
