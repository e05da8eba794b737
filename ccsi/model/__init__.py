"""A model that lives: fitted once, applied, evaluated, exported, and extended by new classes without old images."""

from ccsi.model.learning import Learning, extend, fit
from ccsi.model.model import Model, load

__all__ = ["Learning", "Model", "extend", "fit", "load"]
