"""One file a method: what distinguishes it, and nothing else."""

from ccsi.learners.abd import ABD
from ccsi.learners.acil import ACIL
from ccsi.learners.base import Learner, Loss, NetLearner, Stored
from ccsi.learners.bic import BiC
from ccsi.learners.ccsi import CCSI, IdC
from ccsi.learners.deep_inversion import DeepInversion
from ccsi.learners.ds_al import DSAL
from ccsi.learners.eeil import EEIL
from ccsi.learners.er import ER
from ccsi.learners.ewc import EWC
from ccsi.learners.fecam import FeCAM
from ccsi.learners.fetril import FeTrIL
from ccsi.learners.finetune import Finetune
from ccsi.learners.icarl import ICaRL
from ccsi.learners.joint import Joint
from ccsi.learners.lucir import LUCIR
from ccsi.learners.lwf import LwF
from ccsi.learners.lwf_mc import LwFMC
from ccsi.learners.ncm import NCM
from ccsi.learners.parts.exemplars import ExemplarBudget
from ccsi.learners.pass_ import PASS
from ccsi.learners.r_dfcil import RDFCIL
from ccsi.learners.si import SI

__all__ = [
    "ABD",
    "ACIL",
    "CCSI",
    "DSAL",
    "EEIL",
    "ER",
    "EWC",
    "LUCIR",
    "NCM",
    "PASS",
    "RDFCIL",
    "SI",
    "BiC",
    "DeepInversion",
    "ExemplarBudget",
    "FeCAM",
    "FeTrIL",
    "Finetune",
    "ICaRL",
    "IdC",
    "Joint",
    "Learner",
    "Loss",
    "LwF",
    "LwFMC",
    "NetLearner",
    "Stored",
]
