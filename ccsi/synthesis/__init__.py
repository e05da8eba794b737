"""Class impressions: what is remembered of a class, and the inversion that dreams its images again."""

from ccsi.synthesis.inversion import Synthesis
from ccsi.synthesis.moments import ClassMemory, remember

__all__ = ["ClassMemory", "Synthesis", "remember"]
