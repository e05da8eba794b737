"""Every learner."""

from ccsi import learners
from ccsi.learners import NetLearner

EVERY = {
    kind.default_name: kind
    for kind in map(vars(learners).get, learners.__all__)
    if isinstance(kind, type) and issubclass(kind, NetLearner) and kind is not NetLearner
}
"""The learners by their names."""
