"""How every picture looks: one place for sizes, colours and how a figure becomes a file."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from ccsi.confidence import half_width
from ccsi.io.text import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind can distinguish too."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY = "#333333", "#8c8c8c"
LINE = 0.14
"""Inches that a line of text takes."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, has Greek
    "text.parse_math": False,  # a class may be called $5_$10
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "figure.titlesize", "figure.labelsize"), 8),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("legend.fontsize", "legend.title_fontsize"), 7),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": 200,
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults and STYLE inside, whatever a matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        yield


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` by `height` inches; written to `path` (PNG, 200 dpi) and beside it as PDF on leaving.

    No pyplot: no figure is kept, and the style holds only inside.
    """
    with styled():
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
    """A printable label of at most `most` characters; of a longer name the end stays, which tells classes apart."""
    name = printable(name)
    end = most // 3
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[-end:]}"


def width_of(texts: Iterable[str], size: float = 8) -> float:
    """The width of the widest of some lines of text, in inches; 0 for none."""
    with styled():
        canvas: Any = FigureCanvasAgg(Figure())
        renderer, font = canvas.get_renderer(), FontProperties(size=size)
        widths = [renderer.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts]
        return max(widths, default=0.0) / canvas.figure.dpi


def filled(text: str, width: float, size: float = 8) -> str:
    """`text` as lines of at most `width` inches, broken between words, and within one only if it is wider by itself."""
    mean = width_of([text], size) / max(1, len(text))
    characters = max(1, int(width / mean)) if mean else 1
    while (lines := wrap(text, characters)) and width_of(lines, size) > width and characters > 1:
        characters -= 1
    return "\n".join(lines)


def thinned(n: int, most: int) -> list[int]:
    """Of the positions 0 … n − 1 at most `most`, at equal distances, with the last."""
    step = max(1, -(-n // max(1, most)))
    return list(range(n - 1, -1, -step))[::-1]


def task_ticks(ax: Axes, tasks: int, most: int = 10) -> None:
    """Mark the numbers of tasks learned, 1 … `tasks`; of many, some, and always the last."""
    ax.set_xticks([n + 1 for n in thinned(tasks, most)])


def decade(value: float) -> str:
    """A number on a logarithmic axis, short: 3e-5, 0.01, 300."""
    return f"{value:g}" if 0.001 <= value < 10_000 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def hide_overlapping(fig: Figure, texts: Sequence[Text]) -> None:
    """Hide those of the texts that would cover an earlier one, or leave the picture."""
    fig.draw_without_rendering()
    free = list[BboxBase]()
    for text in texts:
        box = text.get_window_extent()
        inside = fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1
        text.set_visible(inside and not any(box.overlaps(other) for other in free))
        free += [box] if text.get_visible() else []
