"""Pictures from a finished run's or sweep's files, and from nothing else."""

import os

from ccsi.report.cache import private_folder

# before matplotlib's first import: its font cache, one per user and not in the home folder
if "MPLCONFIGDIR" not in os.environ:
    os.environ["MPLCONFIGDIR"] = private_folder("ccsi-matplotlib")

from ccsi.report.run import draw_confusion, draw_impressions, draw_run
from ccsi.report.sweep import draw_sweep

__all__ = ["draw_confusion", "draw_impressions", "draw_run", "draw_sweep"]
