"""Where a run's progress goes: console, files, Weights & Biases, behind one small protocol."""

from ccsi.tracking.events import Progress, RunStart, TaskEnd, Tracker

__all__ = ["Progress", "RunStart", "TaskEnd", "Tracker"]
