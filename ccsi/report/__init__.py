"""Pictures from a finished run's or sweep's files, and from nothing else."""

from ccsi.report.run import draw_confusion, draw_impressions, draw_run
from ccsi.report.sweep import draw_sweep

__all__ = ["draw_confusion", "draw_impressions", "draw_run", "draw_sweep"]
