"""A model that lives: fitted once, applied, evaluated, exported, and extended by new classes without old images."""

from ccsi.model.commands import evaluate_images, export_file, predict_images
from ccsi.model.learning import Learning, learn_shared
from ccsi.model.model import Model, fit, load

__all__ = ["Learning", "Model", "evaluate_images", "export_file", "fit", "learn_shared", "load", "predict_images"]
