"""One run: learn task after task, evaluate after each, leave everything in a folder."""

from ccsi.experiment.run import RunResult, run
from ccsi.experiment.tasks import set_up as validate  # a sweep calls it with a run's configuration

__all__ = ["RunResult", "run", "validate"]
