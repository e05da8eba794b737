"""Where a run's progress goes: console, files, Weights & Biases, behind one small protocol."""

from ccsi.tracking.console import Console
from ccsi.tracking.events import Progress, RunStart, TaskEnd, Tracker
from ccsi.tracking.files import Files
from ccsi.tracking.trackers import Trackers
from ccsi.tracking.weights_and_biases import WeightsAndBiases

__all__ = ["Console", "Files", "Progress", "RunStart", "TaskEnd", "Tracker", "Trackers", "WeightsAndBiases"]
