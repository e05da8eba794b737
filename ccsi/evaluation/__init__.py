"""The only place that reads test images, and every figure computed from them."""

from ccsi.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]
