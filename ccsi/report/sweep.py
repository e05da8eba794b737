"""Pictures of a sweep, from its tables and the result.json of its runs."""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from ccsi.confidence import half_width
from ccsi.errors import UserError
from ccsi.io.run_files import read_result
from ccsi.io.text import printable
from ccsi.report.style import (
    COLOURS,
    GREY,
    LINE,
    LINES,
    MARKERS,
    curve,
    figure,
    filled,
    hide_overlapping,
    short,
    task_ticks,
)
from ccsi.report.swept_key import MOST_NAMES, draw_key, number, positions

Run = dict[str, str]
"""A row of runs.csv: `phase`, `trial`, `seed`, `status`, figures such as `val_micro`, `config/<key>`, `run_dir` …"""
DEFAULTS = {"phase": "", "trial": "", "seed": "", "status": "done", "tasks_done": "", "run_dir": ""}
"""What a run has in columns that the table lacks."""
RENAMED = {f"{split}_macro": f"{split}_macro_over_tasks" for split in ("val", "test")}
"""Columns in tables of earlier versions, and what each is called now."""
SYMBOLS = {"lambda": "λ", "rho": "ρ", "tau": "τ", "sigma": "σ", "beta": "β", "gamma": "γ", "lr": "learning rate"}
WIDTH = 3.9  # inches of a line of a title or legend


class Curve(NamedTuple):
    """A trial's test accuracy on all classes seen after each task, in percent, [seeds, tasks]; its learner's kind."""

    name: str
    after: np.ndarray[Any, Any]
    kind: str = ""


def draw_sweep(
    folder: Path, metric: str = "average_incremental", minimize: str | None = None, compare: str | None = None
) -> list[Path]:
    """Draw a sweep's pictures from its tables and its runs' result.json into `<folder>/plots`; returns the PNG files.

    swept_keys.png: the search metric on val over each swept key, phase 1.
    front.png: with `minimize`, the metric against it, a point for each trial of phase 1, and the Pareto front.
    top_trials.png: accuracy over tasks of the first trials of leaderboard.csv, mean over seeds and its 95 % interval
        (Student's t).
    comparison.png, with `compare`, in their place: the same of each candidate of that swept key, a panel for each kind.
    Each beside a PDF; one for which there is nothing to draw is left out.

    metric: the figure that the sweep selects and ranks by (see `ccsi.evaluation.metrics`), on val.
    minimize: the column of runs.csv that is the sweep's second aim (`seconds`).
    compare: the swept key whose candidates are compared (`learner`), if any.
    """
    runs, plots, written = read_rows(folder / "runs.csv"), folder / "plots", list[Path]()
    if compare is not None:
        curves = compared_curves(folder, runs, compare)
        return [_draw_comparison(plots / "comparison.png", curves)] if curves else []
    trials = by_trial([run for run in runs if run["phase"] == "1"] or runs)
    done = [group for group in trials if is_complete(group, metric)]
    note = left_out([group for group in trials if group not in done])
    results = [run for group in done for run in group]
    if keys := differing_keys(results):
        written.append(_draw_swept_keys(plots / "swept_keys.png", results, keys, metric, note))
    if minimize and done:
        written.append(_draw_front(plots / "front.png", done, metric, minimize, note))
    if (folder / "leaderboard.csv").is_file() and (curves := reporting_curves(folder, runs)):
        written.append(_draw_top_trials(plots / "top_trials.png", curves))
    return written


def read_rows(path: Path) -> list[Run]:
    """The rows of a sweep's table."""
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}; expected the folder of a sweep.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [DEFAULTS | {RENAMED.get(name, name): value for name, value in row.items()} for row in rows]


def results_of(folder: Path, runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """The content of each result.json that there is; where the sweep was moved, they are in its `runs`."""
    paths = [Path(run["run_dir"]) for run in runs]
    results = (read_result(folder / path) or read_result(folder / "runs" / path.name) for path in paths)
    return [result for result in results if result]


def by_trial(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each trial, in the order of the trials' names."""
    trial = itemgetter("trial")
    return [list(group) for _, group in groupby(sorted(runs, key=trial), trial)]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The columns `config/…` in which the runs differ."""
    return [key for key in next(iter(runs), {}) if key.startswith("config/") and len({run[key] for run in runs}) > 1]


def is_complete(group: Sequence[Run], metric: str) -> bool:
    """Whether a trial is done on every seed: an incomplete group is never averaged."""
    return all(run["status"] == "done" and number(run.get(f"val_{metric}")) is not None for run in group)


def left_out(groups: Sequence[Sequence[Run]]) -> str:
    """How many of `groups`, trials not drawn, were pruned (after how many tasks) or lack a seed; empty for none."""
    pruned = [group for group in groups if any(run["status"] == "pruned" for run in group)]
    reached = sorted(sum(int(number(run["tasks_done"]) or 0) for run in group) for group in pruned)
    tasks = " to ".join(str(n) for n in dict.fromkeys([*reached[:1], *reached[-1:]]))
    words = [f"{len(pruned)} pruned after {tasks} task{'s' * (reached[-1] != 1)}"] if pruned else []
    if others := len(groups) - len(pruned):
        words.append(f"{others} not done on every seed")
    return f"; trials not shown: {', '.join(words)}" if words else ""


def reporting_curves(folder: Path, runs: Sequence[Run]) -> list[Curve]:
    """For each row of leaderboard.csv that is done, in its order, the curve of its trial, named by what differs."""
    rows = [row for row in read_rows(folder / "leaderboard.csv") if row["status"] == "done"]
    differing, found = differing_keys(rows), list[Curve]()
    for row in rows:
        words = [f"{key_label(key, short_form=True)} = {rounded(row[key])}" for key in differing]
        found += curves_of(folder, runs, row["trial"], ", ".join(words) or f"trial {row['trial']}")
    return found


def compared_curves(folder: Path, runs: Sequence[Run], key: str) -> list[Curve]:
    """For each row of comparison.csv that is done, in its order, the curve of its trial; key: what is compared."""
    rows = [row for row in read_rows(folder / "comparison.csv") if row["status"] == "done"]
    return [one for row in rows for one in curves_of(folder, runs, row["trial"], row[key], row["kind"])]


def curves_of(folder: Path, runs: Sequence[Run], trial: str, name: str, kind: str = "") -> list[Curve]:
    """The curve of a trial in phase 2; none if it lacks the result of a seed: those that it has are not averaged."""
    own = [run for run in runs if (run["phase"], run["trial"]) == ("2", trial)]
    results = results_of(folder, own)
    if not own or len(results) < len(own):
        return []
    return [Curve(name, 100 * np.asarray([result["test"]["accuracy_after_task"] for result in results]), kind)]


def interval_and_n(one: Curve) -> str:
    """What a curve's band and brackets are, after `mean`; one seed has neither."""
    n = len(one.after)
    return f" and 95 % t interval, n = {n} seeds" if n > 1 else ", n = 1 seed"


def key_label(column: str, short_form: bool = False) -> str:
    """`config/learner.losses.lambda_distillation` in words: the last two parts of the key, Greek as Greek."""
    parts = column.removeprefix("config/").split(".")[-1 if short_form else -2 :]
    words = ": ".join(" ".join(SYMBOLS.get(word, word) for word in part.split("_") if word) for part in parts)
    return printable(words)


def rounded(text: str) -> str:
    """A value as a label: numbers to three digits."""
    value = number(text)
    return printable(text) if value is None else f"{value:.3g}"


def _draw_swept_keys(path_out: Path, runs: Sequence[Run], keys: Sequence[str], metric: str, note: str) -> Path:
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    texts = [[run[key] for run in runs] for key in keys]
    most = max((len(unique) for unique, kind in map(positions, texts) if kind == "category"), default=0)
    wide = max(2.4, 0.7 + LINE * min(most, MOST_NAMES))
    scores = np.array([100 * float(run[f"val_{metric}"]) for run in runs])
    title = filled(f"search on val: {len(runs)} runs; bars are means{note}", max(wide * columns, 3.2) - 0.1)
    with figure(path_out, max(wide * columns, 3.2) + 0.2, 2.6 * rows + 0.2 + LINE * title.count("\n")) as fig:
        axes = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for ax in axes[len(keys) :]:
            ax.set_axis_off()
        for ax, key, own in zip(axes, keys, texts, strict=False):
            draw_key(ax, own, scores)
            ax.set_xlabel(filled(key_label(key), wide - 0.5))
        fig.suptitle(title)
        fig.supylabel(f"{metric.replace('_', ' ')}, val (%)")
    return path_out


def _draw_front(path_out: Path, groups: Sequence[Sequence[Run]], metric: str, minimize: str, note: str) -> Path:
    x, y = np.array([[fmean(float(run[k]) for run in own) for own in groups] for k in (minimize, f"val_{metric}")])
    y = 100 * y
    front = [n for n in np.lexsort((-y, x)) if not any((x <= x[n]) & (y >= y[n]) & ((x < x[n]) | (y > y[n])))]
    title = filled(f"search on val: {len(groups)} trials, means over seeds; line: Pareto front{note}", WIDTH)
    with figure(path_out, 4.2, 2.9 + LINE * title.count("\n")) as fig:
        ax = fig.subplots()
        ax.scatter(x, y, s=14, color=COLOURS[0], alpha=0.55, linewidths=0)
        ax.step(x[front], y[front], where="post", color=COLOURS[1], marker="o", markersize=4, linewidth=1)
        ax.set(xlabel=f"{minimize} of a run", ylabel=f"{metric.replace('_', ' ')}, val (%)")
        fig.suptitle(title)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        names = [(short(groups[n][0]["trial"], 16), (x[n], y[n])) for n in front]
        notes = [ax.annotate(name, at, (3, -8), textcoords="offset points", fontsize=7) for name, at in names]
        hide_overlapping(fig, notes)
    return path_out


def _draw_top_trials(path_out: Path, curves: Sequence[Curve]) -> Path:
    shown, labels = curves[: len(COLOURS)], list[str]()
    for one in shown:
        mean, half = one.after[:, -1].mean(), half_width(one.after[:, -1])
        ends = f"\N{NO-BREAK SPACE}[{mean - half:.1f},\N{NO-BREAK SPACE}{mean + half:.1f}]"
        label = f"{printable(one.name)}: {mean:.1f}{ends if len(one.after) > 1 else ''}"
        labels.append(filled(label, WIDTH - 0.5, size=7))
    title = f"final accuracy, micro (%): mean{interval_and_n(shown[0])}"
    title += f"; {n_more} more in leaderboard.md" if (n_more := len(curves) - len(shown)) else ""
    with figure(path_out, 4.2, 2.9 + 0.14 * sum(1 + label.count("\n") for label in labels)) as fig:
        ax = fig.subplots()
        for index, (one, label) in enumerate(zip(shown, labels, strict=True)):
            curve(ax, one.after, label, COLOURS[index], LINES[index % 4], MARKERS[index], 1.4)
        ax.set(xlabel="tasks learned", ylabel="accuracy on all classes seen, test (%)")
        task_ticks(ax, max(one.after.shape[1] for one in shown))
        ax.grid(axis="y")
        fig.legend(loc="outside lower left", title=filled(title, WIDTH, size=7), alignment="left")
    return path_out


def _draw_comparison(path_out: Path, found: Sequence[Curve]) -> Path:
    """Mean over the seeds and its 95 % interval; what bounds the others is grey, in every panel."""
    bounds = [one for one in found if one.kind == "bound"]
    kinds = list(dict.fromkeys(one.kind for one in found if one.kind != "bound")) or ["bound"]
    columns = min(2, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    most = max(len(bounds) + sum(one.kind == kind for one in found if kind != "bound") for kind in kinds)
    title = f"mean{interval_and_n(found[0])}; legends: after the last task"
    title = filled(title, 3.4 * columns - 0.2)
    with figure(path_out, 3.4 * columns, max(2.7, 0.9 + 0.115 * most) * rows + LINE * title.count("\n")) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for ax in axes[len(kinds) :]:
            ax.set_axis_off()
        for ax, kind in zip(axes, kinds, strict=False):
            looks = [(one, GREY, LINES[number % 4], "") for number, one in enumerate(bounds)]
            own = [one for one in found if one.kind == kind and kind != "bound"]
            looks += [(one, COLOURS[number % 7], "-", MARKERS[number % 7]) for number, one in enumerate(own)]
            for one, colour, line, marker in looks:
                label = f"{short(one.name, 24)} {one.after[:, -1].mean():.1f}"
                curve(ax, one.after, label, colour, line, marker, 1.1)
            ax.set_title(short(kind, 24))
            ax.grid(axis="y")
            ax.legend(fontsize=6, loc="lower left", handlelength=1.6, labelspacing=0.2)
        task_ticks(axes[0], max(one.after.shape[1] for one in found))
        axes[0].set(ylim=(0, 101))
        fig.supxlabel("tasks learned")
        fig.supylabel("accuracy on all classes seen, test (%)")
        fig.suptitle(title)
    return path_out
