"""Pictures from a finished run's or sweep's files, and from nothing else."""

import os
import tempfile

# matplotlib keeps its font cache in the home folder unless this is set before its first import; one a user, where the
# temporary folder is shared (Windows has no getuid, and a temporary folder for each user)
os.environ.setdefault("MPLCONFIGDIR", f"{tempfile.gettempdir()}/ccsi-matplotlib-{getattr(os, 'getuid', str)()}")

from ccsi.report.run import draw_confusion, draw_impressions, draw_run
from ccsi.report.sweep import draw_sweep

__all__ = ["draw_confusion", "draw_impressions", "draw_run", "draw_sweep"]
