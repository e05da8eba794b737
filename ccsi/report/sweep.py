"""Pictures of a sweep."""

import ast
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ccsi.report.comparison import curves as compared_curves
from ccsi.report.comparison import draw_comparison
from ccsi.report.runs import Run, read_runs, result_of
from ccsi.report.style import COLOURS, INK, LINES, MARKERS, curve, figure, short

LEGEND_WIDTH = 72
SYMBOLS = {"lambda": "λ", "rho": "ρ", "tau": "τ", "sigma": "σ", "beta": "β", "gamma": "γ", "lr": "learning rate"}


def draw_sweep(
    folder: Path, metric: str = "average_incremental", minimize: str | None = None, compare: str | None = None
) -> list[Path]:
    """Draw a sweep's pictures from its runs.csv and its runs' result.json into `<folder>/plots`.

    swept_keys.png: the search metric on val over each swept key, phase 1.
    front.png: with `minimize`, the metric against it, a point for each trial of phase 1, and the Pareto front.
    top_trials.png: accuracy over tasks of phase 2's trials, mean and ± 1 standard deviation over seeds.
    comparison.png, with `compare`, in their place: the same of each candidate of that swept key, a panel for each kind.
    Each beside a PDF; one for which there is nothing to draw is left out.

    Args:
        folder: the sweep's.
        metric: the figure that the sweep selects and ranks by (see `ccsi.evaluation.metrics`), on val.
        minimize: the column of runs.csv that is the sweep's second aim (`seconds`).
        compare: the swept key whose candidates are compared (`learner`), if any.

    Returns:
        The PNG files written.

    Raises:
        UserError: the folder has no runs.csv.
    """
    runs = read_runs(folder)
    written = []
    phases = {run.get("phase", "") for run in runs}
    searched = [run for run in runs if "1" not in phases or run.get("phase") == "1"]
    finished = complete(searched, metric)
    reported = [run for run in runs if run.get("phase") == "2"]
    if compare is not None:
        found = compared_curves(folder, reported, compare)
        return [draw_comparison(folder / "plots" / "comparison.png", found)] if found else []
    note = left_out([run for run in searched if run not in finished])
    if keys := differing_keys(finished):
        written.append(_draw_swept_keys(folder / "plots" / "swept_keys.png", finished, keys, metric, note))
    if minimize and finished:
        written.append(_draw_front(folder / "plots" / "front.png", finished, metric, minimize, note))
    if curves := reporting_curves(folder, reported, metric):
        written.append(_draw_top_trials(folder / "plots" / "top_trials.png", curves))
    return written


def trial_of(run: Run) -> str:
    """The trial that a run is one seed of."""
    return run.get("trial", "")


def by_trial(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each trial, in the order of the trials' names."""
    return [list(group) for _, group in groupby(sorted(runs, key=trial_of), key=trial_of)]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The columns `config/…` in which the runs differ."""
    keys = [key for key in (runs[0] if runs else {}) if key.startswith("config/")]
    return [key for key in keys if len({run[key] for run in runs}) > 1]


def complete(runs: Sequence[Run], metric: str) -> list[Run]:
    """The runs of the trials that are done on every seed: an incomplete group is never averaged."""

    def done(run: Run) -> bool:
        return run.get("status", "done") == "done" and number(run.get(f"val_{metric}")) is not None

    lacking = {run["trial"] for run in runs if "trial" in run and not done(run)}
    return [run for run in runs if done(run) and run.get("trial") not in lacking]


def left_out(runs: Sequence[Run]) -> str:
    """In words, how many trials are not shown because of these runs, and how they ended."""
    reached: dict[str, int] = {}  # trial -> tasks done on all seeds
    for run in runs:
        reached[trial_of(run)] = reached.get(trial_of(run), 0) + int(number(run.get("tasks_done")) or 0)
    pruned = sorted(reached[trial] for trial in {trial_of(run) for run in runs if run.get("status") == "pruned"})
    others = len(reached) - len(pruned)
    tasks = " to ".join(str(n) for n in sorted({*pruned[:1], *pruned[-1:]}))
    words = [f"{len(pruned)} pruned after {tasks} task{'s' * (pruned[-1] != 1)}"] if pruned else []
    words += [f"{others} not done on every seed"] if others else []
    return f"; trials not shown: {', '.join(words)}" if words else ""


def reporting_curves(folder: Path, runs: Sequence[Run], metric: str) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """Per trial: its name, the split, and accuracy after each task in percent, [seeds, tasks]; best on val first.

    A trial that lacks a seed another one has is left out: an incomplete group is never averaged.
    """
    seeds, differing = {run.get("seed", "") for run in runs}, differing_keys(runs)
    curves: list[tuple[float, str, str, np.ndarray[Any, Any]]] = []
    for group in by_trial(runs):
        results = [result for run in group if (result := result_of(folder, run)) is not None]
        if len(results) < len(group) or {run.get("seed", "") for run in group} != seeds:
            continue
        split = "test" if all(result["test"]["accuracy_after_task"] for result in results) else "val"
        rows = [result[split]["accuracy_after_task"] for result in results]
        if len({len(row) for row in rows}) == 1:
            words = [f"{key_label(key, short_form=True)} = {rounded(group[0][key])}" for key in differing]
            name = ", ".join(words) or f"trial {trial_of(group[0])}"
            on_val = fmean(result["val"][metric] for result in results)
            curves.append((on_val, name, split, 100 * np.asarray(rows)))
    return [curve[1:] for curve in sorted(curves, key=lambda curve: -curve[0])]


def _draw_swept_keys(path_out: Path, runs: Sequence[Run], keys: Sequence[str], metric: str, note: str) -> Path:
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    scores = np.array([100 * float(t[f"val_{metric}"]) for t in runs])
    with figure(path_out, max(2.4 * columns, 3.2) + 0.2, 2.1 * rows + 0.2) as fig:
        axes = fig.subplots(rows, columns, sharey=True, squeeze=False)
        for ax in axes.flat[len(keys) :]:
            ax.set_axis_off()
        for ax, key in zip(axes.flat, keys, strict=False):
            _draw_key(ax, [t[key] for t in runs], scores)
            ax.set_xlabel(key_label(key))
        fig.suptitle(fill(f"search on val: {len(runs)} runs; bars are means{note}", 40 * columns), fontsize=8)
        fig.supylabel(f"{metric.replace('_', ' ')}, val (%)", fontsize=8)
    return path_out


def _draw_key(ax: Axes, texts: Sequence[str], scores: np.ndarray[Any, Any]) -> None:
    numbers = [number(text) for text in texts]
    values: list[Any] = list(texts) if None in numbers else numbers
    unique = sorted(set(values))
    kind = axis_kind(unique)
    place = {value: position for position, value in enumerate(unique)} if kind == "category" else None
    x = np.array([place[v] for v in values] if place is not None else values, dtype=float)
    ax.scatter(x, scores, s=12, color=COLOURS[0], alpha=0.55, linewidths=0)
    if len(unique) < len(values) and len(unique) <= 12:
        where = np.unique(x)
        means = [scores[x == position].mean() for position in where]
        style = "none" if place is not None and isinstance(unique[0], str) else "-"
        ax.plot(where, means, color=INK, linestyle=style, linewidth=0.9, marker="_", markersize=11, markeredgewidth=1.6)
    if place is not None:
        labels = [short(v, 16) if isinstance(v, str) else f"{v:g}" for v in unique]
        crowded = sum(map(len, labels)) > 24
        ax.set_xticks(range(len(unique)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
        ax.set_xlim(-0.5, len(unique) - 0.5)
    elif kind == "log":
        ax.set_xscale("log")
        steps = (1.0,) if unique[-1] / unique[0] >= 300 else (1.0, 3.0)
        ax.xaxis.set_major_locator(LogLocator(subs=steps))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(axis="y")
    ax.set_axisbelow(True)


def axis_kind(unique: Sequence[Any]) -> str:
    """`category` for text, and for few numbers with a 0 among decades; `log` for decades; else `linear`."""
    if any(isinstance(value, str) for value in unique):
        return "category"
    positive = [value for value in unique if value > 0]
    decades = bool(positive) and max(positive) / min(positive) >= 20
    if len(positive) == len(unique):
        return "log" if decades else "linear"
    return "category" if decades and len(unique) <= 12 else "linear"


def _draw_front(path_out: Path, runs: Sequence[Run], metric: str, minimize: str, note: str) -> Path:
    groups = by_trial(runs)
    points = [[fmean(float(t[key]) for t in group) for key in (minimize, f"val_{metric}")] for group in groups]
    x, y = np.array(points)[:, 0], 100 * np.array(points)[:, 1]
    front = [n for n in np.lexsort((-y, x)) if not any((x <= x[n]) & (y >= y[n]) & ((x < x[n]) | (y > y[n])))]
    with figure(path_out, 4.2, 2.9) as fig:
        ax = fig.subplots()
        ax.scatter(x, y, s=14, color=COLOURS[0], alpha=0.55, linewidths=0)
        ax.step(x[front], y[front], where="post", color=COLOURS[1], marker="o", markersize=4, linewidth=1)
        for n in front:
            ax.annotate(trial_of(groups[n][0]), (x[n], y[n]), (3, -8), textcoords="offset points", fontsize=7)
        ax.set(xlabel=f"{minimize} of a run", ylabel=f"{metric.replace('_', ' ')}, val (%)")
        title = f"search on val: {len(groups)} trials, means over seeds; line: Pareto front{note}"
        ax.set_title(fill(title, LEGEND_WIDTH))
    return path_out


def _draw_top_trials(path_out: Path, curves: Sequence[tuple[str, str, np.ndarray[Any, Any]]]) -> Path:
    shown = curves[: len(COLOURS)]
    tasks = max(rows.shape[1] for _, _, rows in shown)
    lines_of_legend = 1 + sum(1 + (len(name) + 14) // LEGEND_WIDTH for name, _, _ in shown)
    with figure(path_out, 4.2, 2.7 + 0.17 * lines_of_legend) as fig:
        ax = fig.subplots()
        for index, (name, _, rows) in enumerate(shown):
            final = f"{rows[:, -1].mean():.1f}"
            if len(rows) > 1:
                final += f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{rows[:, -1].std(ddof=1):.1f}"
            label = fill(f"{name}: {final}", LEGEND_WIDTH)
            curve(ax, rows, label, COLOURS[index], LINES[index % 4], MARKERS[index], 1.4)
        splits, counts = {split for _, split, _ in shown}, {len(rows) for _, _, rows in shown}
        ax.set(xlabel="tasks learned", ylabel=f"accuracy on all classes seen, {'/'.join(sorted(splits))} (%)")
        ax.set_xticks(range(1, tasks + 1, max(1, tasks // 10)))
        ax.grid(axis="y")
        title = f"final accuracy, micro (%): mean ± standard deviation, n = {'/'.join(map(str, sorted(counts)))} seeds"
        fig.legend(loc="outside lower left", title=title, title_fontsize=7, alignment="left")
    return path_out


def key_label(column: str, short_form: bool = False) -> str:
    """`config/learner.losses.lambda_distillation` in words: the last two parts of the key, Greek as Greek."""
    parts = column.removeprefix("config/").split(".")[-1 if short_form else -2 :]
    words = [" ".join(SYMBOLS.get(word, word) for word in part.split("_") if word) for part in parts]
    return ": ".join(words)


def rounded(text: str) -> str:
    """A value as a label: numbers to three digits."""
    value = number(text)
    return text if value is None else f"{value:.3g}"


def number(text: str | None) -> float | None:
    """A finite number, or None for anything else (empty, text, true, a list, nan)."""
    try:
        value = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, MemoryError):
        return None
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
