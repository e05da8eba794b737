"""One panel of a sweep's scores over a swept key: which axis fits the key's values, and how they are drawn."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from ccsi.report.style import COLOURS, INK, decade, short, thinned, width_of

MOST_NAMES = 40  # candidates of a key that are named


def draw_key(ax: Axes, texts: Sequence[str], scores: np.ndarray[Any, Any]) -> None:
    """A point for each run at its value of the key, as runs.csv has it, and the mean of the runs with the same value.

    scores: of the runs, in percent.
    """
    numbers = [number(text) for text in texts]
    values: list[Any] = list(texts) if None in numbers else numbers
    unique, kind = positions(texts)
    x = np.array([unique.index(value) if kind == "category" else value for value in values], dtype=float)
    ax.scatter(x, scores, s=12, color=COLOURS[0], alpha=0.55, linewidths=0)
    if len(unique) < len(values) and len(unique) <= 12:
        where, style = np.unique(x), "none" if None in numbers else "-"
        means = [scores[x == position].mean() for position in where]
        ax.plot(where, means, color=INK, linestyle=style, linewidth=0.9, marker="_", markersize=11, markeredgewidth=1.6)
    if kind == "category":
        named = thinned(len(unique), MOST_NAMES)
        labels = [short(v, 16) if isinstance(v := unique[n], str) else f"{v:g}" for n in named]
        crowded = width_of(labels) + 0.1 > 1.7 / len(unique)
        ax.set_xticks(named, labels, rotation=90 if crowded else 0)
        ax.set_xlim(-0.5, len(unique) - 0.5)
    elif kind == "log":
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if unique[-1] / unique[0] >= 300 else (1.0, 3.0), numticks=6))
        ax.xaxis.set_major_formatter(lambda value, _: decade(value))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.xaxis.set_major_formatter("{x:.7g}")
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def positions(texts: Sequence[str]) -> tuple[list[Any], str]:
    """The different values among a key's, sorted, as numbers if all are; and their `axis_kind`."""
    numbers = [number(text) for text in texts]
    unique: list[Any] = sorted(set(texts)) if None in numbers else sorted({n for n in numbers if n is not None})
    return unique, axis_kind(unique)


def axis_kind(unique: Sequence[Any]) -> str:
    """`category` for text, and for few numbers with a 0 among decades; `log` for decades; else `linear`."""
    if any(isinstance(value, str) for value in unique):
        return "category"
    positive = [value for value in unique if value > 0]
    if not positive or max(positive) / min(positive) < 20:
        return "linear"
    if len(positive) == len(unique):
        return "log"
    return "category" if len(unique) <= 12 else "linear"


def number(text: str | None) -> float | None:
    """A finite number, or None for anything else (empty, text, true, a list, nan)."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
