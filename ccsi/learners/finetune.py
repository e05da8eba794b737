"""Fine-tuning on each task's images alone: the lower bound."""

from ccsi.learners.base import NetLearner


class Finetune(NetLearner):
    """Cross-entropy over all classes seen, on the new task's images only.

    It keeps nothing of real data. The lower bound of a comparison.
    """

    default_name = "finetune"
    kind = "bound"
