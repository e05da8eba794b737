"""One run: learn task after task, evaluate after each, leave everything in a folder."""

from ccsi.experiment.run import RunResult, run, validate

__all__ = ["RunResult", "run", "validate"]
