"""Every learner by its name."""

from ccsi.learners import all_learners

EVERY = all_learners()
