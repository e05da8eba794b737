"""The picture of a sweep that compares: accuracy over tasks, all candidates, a panel for each kind."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccsi.report.runs import Run, result_of
from ccsi.report.style import COLOURS, LINES, MARKERS, curve, figure

GREY = "#8c8c8c"


@dataclass(frozen=True)
class Curve:
    """A candidate. after: accuracy on all classes seen after each task, test, in percent, [seeds, tasks]."""

    name: str
    kind: str
    after: np.ndarray[Any, Any]


def curves(folder: Path, runs: Sequence[Run], key: str) -> list[Curve]:
    """For each row of comparison.csv that is done, in its order, the runs of its trial.

    Args:
        runs: rows of runs.csv. key: what is compared.
    """
    path, found = folder / "comparison.csv", list[Curve]()
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    for row in rows:
        own = [run for run in runs if run["phase"] == "2" and run["trial"] == row["trial"]]
        results = [result for run in own if (result := result_of(folder, run)) is not None]
        after = 100 * np.asarray([result["test"]["accuracy_after_task"] for result in results])
        found.append(Curve(row[key], row["kind"], after))
    return found


def draw_comparison(path: Path, found: Sequence[Curve]) -> Path:
    """Mean and ± 1 standard deviation over the seeds; what bounds the others is grey, in every panel."""
    bounds = [one for one in found if one.kind == "bound"]
    kinds = list(dict.fromkeys(one.kind for one in found if one.kind != "bound")) or ["bound"]
    columns = min(2, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    with figure(path, 3.4 * columns, 2.7 * rows) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(kinds) :]:
            ax.set_axis_off()
        for ax, kind in zip(axes.flat, kinds, strict=False):
            looks = [(one, GREY, LINES[number % 4], "") for number, one in enumerate(bounds)]
            mine = [one for one in found if one.kind == kind and one.kind != "bound"]
            looks += [(one, COLOURS[number % 7], "-", MARKERS[number % 7]) for number, one in enumerate(mine)]
            for one, colour, line, marker in looks:
                curve(ax, one.after, f"{one.name} {one.after[:, -1].mean():.1f}", colour, line, marker, 1.1)
            ax.set_title(kind)
            ax.grid(axis="y")
            ax.legend(fontsize=6, loc="lower left", handlelength=1.6, labelspacing=0.2)
        axes[0, 0].set_xticks(range(1, 1 + max(one.after.shape[1] for one in found)))
        axes[0, 0].set_ylim(0, 101)
        fig.supxlabel("tasks learned", fontsize=8)
        fig.supylabel("accuracy on all classes seen, test (%)", fontsize=8)
        n = "/".join(sorted({str(len(one.after)) for one in found}))
        fig.suptitle(f"mean ± standard deviation, n = {n} seeds; legends: after the last task", fontsize=8)
    return path
