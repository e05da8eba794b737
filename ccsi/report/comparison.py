"""The picture of a sweep that compares: accuracy over tasks, all candidates, a panel for each kind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ccsi.report.style import COLOURS, LINES, MARKERS, figure
from ccsi.report.trials import Trial, result_of

GREY = "#8c8c8c"


@dataclass(frozen=True)
class Curve:
    """A candidate. after: accuracy on all classes seen after each task, percent, [seeds, tasks]; score: on val."""

    name: str
    kind: str
    after: np.ndarray[Any, Any]
    score: float


def curves(folder: Path, trials: Sequence[Trial], key: str, metric: str) -> list[Curve]:
    """Of each candidate of the swept `key` its best setting on val, among those that are done on every seed.

    Args:
        trials: rows of trials.csv, phase 2.
    """
    seeds, found = {trial["seed"] for trial in trials}, dict[str, Curve]()

    def setting(trial: Trial) -> str:
        return trial["setting"]

    for _, group in groupby(sorted(trials, key=setting), key=setting):
        runs = list(group)
        results: list[Mapping[str, Any]] = [result for run in runs if (result := result_of(folder, run)) is not None]
        if len(results) < len(runs) or {run["seed"] for run in runs} != seeds:
            continue
        name, score = runs[0][f"config/{key}"], fmean(result["val"][metric] for result in results)
        if name not in found or score > found[name].score:
            after = 100 * np.asarray([result["accuracy_after_task"] for result in results])
            found[name] = Curve(name, str(results[0].get("kind", "other")), after, score)
    return sorted(found.values(), key=lambda curve: -curve.score)


def draw_comparison(path: Path, found: Sequence[Curve]) -> Path:
    """Mean and ± 1 standard deviation over the seeds; what bounds the others is grey, in every panel."""
    bounds = [curve for curve in found if curve.kind == "bound"]
    kinds = list(dict.fromkeys(curve.kind for curve in found if curve.kind != "bound")) or ["bound"]
    columns = min(2, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    with figure(path, 3.4 * columns, 2.7 * rows) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, ax in enumerate(axes.flat):
            if index >= len(kinds):
                ax.set_axis_off()
                continue
            for number, curve in enumerate(bounds):
                _draw(ax, curve, GREY, LINES[number % 4], "")
            for number, curve in enumerate([curve for curve in found if curve.kind == kinds[index]]):
                if curve not in bounds:
                    _draw(ax, curve, COLOURS[number % 7], "-", MARKERS[number % 7])
            ax.set_title(kinds[index])
            ax.grid(axis="y", color="#e5e5e5", linewidth=0.5)
            ax.legend(fontsize=6, loc="lower left", handlelength=1.6, labelspacing=0.2)
        axes[0, 0].set_xticks(range(1, 1 + max(curve.after.shape[1] for curve in found)))
        axes[0, 0].set_ylim(0, 101)
        fig.supxlabel("tasks learned", fontsize=8)
        fig.supylabel("accuracy on all classes seen, test (%)", fontsize=8)
        n = "/".join(sorted({str(len(curve.after)) for curve in found}))
        fig.suptitle(f"mean ± standard deviation, n = {n} seeds; legends: after the last task", fontsize=8)
    return path


def _draw(ax: Axes, curve: Curve, colour: str, line: str, marker: str) -> None:
    tasks, mean = np.arange(1, curve.after.shape[1] + 1), curve.after.mean(axis=0)
    ax.plot(
        tasks, mean, color=colour, linestyle=line, marker=marker, linewidth=1.1, label=f"{curve.name} {mean[-1]:.1f}"
    )
    if len(curve.after) > 1:
        spread = curve.after.std(axis=0, ddof=1)
        low, high = np.clip(mean - spread, 0, 100), np.clip(mean + spread, 0, 100)
        ax.fill_between(tasks, low, high, color=colour, alpha=0.12, linewidth=0)
