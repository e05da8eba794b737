"""Experience replay (ER, Chaudhry et al., arXiv 1902.10486, 2019)."""

from ccsi.learners.replay import ReplayLearner


class ER(ReplayLearner):
    """Cross-entropy over all classes seen, on the new task's images and some real images of each old class.

    It keeps exemplars, chosen as `budget` says. Half of the draws are exemplars (`budget.ratio`), as in the paper's
    batches; the paper sees each image once and fills its memory meanwhile. The oracle for class impressions.
    """

    default_name = "er"
    kind = "bound"
