"""One file a method: what distinguishes it, and nothing else."""

from ccsi.learners.base import Learner, NetLearner, Stored
from ccsi.learners.ccsi import CCSI, IdC
from ccsi.learners.finetune import Finetune
from ccsi.learners.joint import Joint

__all__ = ["CCSI", "Finetune", "IdC", "Joint", "Learner", "NetLearner", "Stored"]
