"""Pictures from a finished run's or sweep's files, and from nothing else."""

import os
import tempfile

# before matplotlib's first import: its font cache, one per user and not in the home folder (Windows has no getuid)
os.environ.setdefault("MPLCONFIGDIR", f"{tempfile.gettempdir()}/ccsi-matplotlib-{getattr(os, 'getuid', str)()}")

from ccsi.report.run import draw_confusion, draw_impressions, draw_run
from ccsi.report.sweep import draw_sweep

__all__ = ["draw_confusion", "draw_impressions", "draw_run", "draw_sweep"]
