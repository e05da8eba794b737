"""Images of old classes made from a frozen net: class impressions by inversion, and trained generators."""

from ccsi.synthesis.generation import Generation, Generator
from ccsi.synthesis.inversion import Synthesis
from ccsi.synthesis.moments import ClassMemory, remember

__all__ = ["ClassMemory", "Generation", "Generator", "Synthesis", "remember"]
