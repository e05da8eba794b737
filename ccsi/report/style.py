"""How every picture looks: one place for sizes, colours and how a figure becomes a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccsi.confidence import half_width

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind can distinguish too."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY = "#333333", "#8c8c8c"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, has Greek
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "figure.titlesize", "figure.labelsize"), 8),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("legend.fontsize", "legend.title_fontsize"), 7),
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": 200,
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` by `height` inches; written to `path` (PNG, 200 dpi) and beside it as PDF on leaving.

    No pyplot: no figure is kept, and the style holds only inside.
    """
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        yield fig
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=200)
        fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def curve(ax: Axes, rows: np.ndarray[Any, Any], label: str, colour: str, line: str, marker: str, width: float) -> None:
    """Mean of [seeds, tasks], in percent, over the tasks learned, and the band of its 95 % interval; one seed has none.

    The band ends at 0 and 100, which no accuracy leaves.
    """
    tasks, mean = np.arange(1, rows.shape[1] + 1), rows.mean(axis=0)
    if len(rows) > 1:
        half = half_width(rows)
        low, high = np.clip(mean - half, 0, 100), np.clip(mean + half, 0, 100)
        ax.fill_between(tasks, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(tasks, mean, color=colour, linestyle=line, marker=marker, linewidth=width, label=label)


def short(name: str, most: int = 22) -> str:
    """A label of at most `most` characters."""
    return name if len(name) <= most else name[: most - 1] + "…"
