"""Images of old classes without keeping any: class impressions by inversion, and generators trained on a frozen net."""

from ccsi.synthesis.generation import Generation, Generator
from ccsi.synthesis.inversion import Synthesis
from ccsi.synthesis.moments import ClassMemory, remember

__all__ = ["ClassMemory", "Generation", "Generator", "Synthesis", "remember"]
