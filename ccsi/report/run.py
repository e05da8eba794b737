"""Pictures of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ccsi.errors import UserError
from ccsi.io.arrays import load_images
from ccsi.io.run_files import classes_of_tasks, read_result, split_to_show
from ccsi.report.style import COLOURS, INK, LINE, figure, short, task_ticks, thinned, width_of

if TYPE_CHECKING:
    from ccsi.data import Labelled

CELL, PER_CLASS, REAL_PER_CLASS, MOST_ROWS = 0.44, 8, 4, 40
"""Inches of one image in a grid, and the most impressions and real images of a class, and classes, in it."""
FEW = 6  # tasks at most that are named one by one
SIDE = 8.0
"""Inches of a matrix at most; where they are too few for its labels, some are left out."""


def draw_run(
    folder: Path, result: Mapping[str, Any] | None = None, real_images: "Labelled | None" = None
) -> list[Path]:
    """Draw a run's pictures from its files into `<folder>/plots`; returns the PNG files.

    impressions.png (if the run made any), accuracy_matrix.png, accuracy_over_tasks.png, confusion.png, each
    beside a PDF. On test where the run was evaluated on it, else on val; the pictures say which.

    result: the content of its result.json; None: read from there.
    real_images: to show beside the impressions, if the user allows it; on the CPU, labels in the class order.
    """
    result = read_result(folder) if result is None else result
    if result is None:
        raise UserError(f"{folder} holds no result.json; expected the folder of a finished run.")
    names, plots = result["dataset"]["class_names"], folder / "plots"
    split, figures = split_to_show(result)
    written = [
        draw_accuracy_matrix(plots / "accuracy_matrix.png", result, split),
        draw_accuracy_over_tasks(plots / "accuracy_over_tasks.png", result, split),
        draw_confusion(plots / "confusion.png", figures["confusion"][-1], names, split),
    ]
    latest = max(folder.glob("impressions/task*.npz"), key=lambda p: int(p.stem.removeprefix("task")), default=None)
    if latest is not None:
        images, labels = load_images(latest)
        file = folder / "class_means.npz"
        means = load_images(file)[0] if file.exists() else None
        written.append(draw_impressions(plots / "impressions.png", images, labels, names, means, real_images))
    return written


def draw_impressions(
    path_out: Path,
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    means: ArrayLike | None = None,
    real: "Labelled | None" = None,
) -> Path:
    """For each class that has impressions a row: its mean image, its first impressions, and a few real images apart.

    images: uint8 [N, C, S, S], C 1 or 3. labels: integers [N], positions in `class_names`.
    means: float [n, C, S, S] in [0, 1], row c for class c.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    present = np.unique(labels).tolist()
    shown = [present[n] for n in thinned(len(present), MOST_ROWS)]
    blocks: dict[str, list[NDArray[np.uint8]]] = {}
    if means is not None:
        bytes_of_means = (np.clip(np.asarray(means), 0, 1) * 255).round().astype(np.uint8)
        blocks["mean"] = [bytes_of_means[c : c + 1] for c in shown]
    blocks["impressions (synthesized)"] = [images[labels == c][:PER_CLASS] for c in shown]
    if real is not None:  # few are copied: all may be large, and shared with other processes
        few = [np.flatnonzero(np.asarray(real.labels) == c)[:REAL_PER_CLASS] for c in shown]
        blocks["real images"] = [np.asarray(real.images)[indices] for indices in few]

    columns = [max((len(row) for row in rows), default=0) or 1 for rows in blocks.values()]
    names = [short(class_names[c]) for c in shown]
    note = f"{len(shown)} of {len(present)} classes" if len(shown) < len(present) else ""
    # placed by hand, in inches: the constrained layout shrinks axes of fixed aspect into uneven gaps
    left = 0.15 + width_of([*names, note])
    widths = [max(CELL * n, 0.05 + width_of([title])) for n, title in zip(columns, blocks, strict=True)]
    gap, title_height, height = 0.4 * CELL, 0.26, CELL * len(shown)
    width = left + sum(widths) + gap * (len(blocks) - 1) + 0.03
    with figure(path_out, width, height + title_height) as fig:
        fig.set_layout_engine("none")
        fig.text(0.05 / width, 1 - 0.2 / (height + title_height), note)
        for n, wide, (title, rows) in zip(columns, widths, blocks.items(), strict=True):
            ax = fig.add_axes((left / width, 0, CELL * n / width, height / (height + title_height)))
            left += wide + gap
            ax.imshow(_mosaic(rows, n), extent=(0, n, len(shown), 0), interpolation="none")
            ax.set_title(title, pad=3, loc="left")
            ax.set(xticks=[], yticks=[], frame_on=False)
            ax.tick_params(length=0)
        fig.axes[0].set_yticks(np.arange(len(shown)) + 0.5, names)
    return path_out


def draw_accuracy_matrix(path_out: Path, result: Mapping[str, Any], split: str) -> Path:
    """R[i][j] as a heat map: accuracy on task j's classes (column) after task i (row), in percent."""
    matrix = result[split]["accuracy_matrix"]
    tasks = len(matrix)
    percent = np.full((tasks, tasks), np.nan)
    for i, row in enumerate(matrix):
        percent[i, : len(row)] = 100 * np.asarray(row)
    heads = [[f"after task {i + 1}"] for i in range(tasks)]
    for head, own in zip(heads, classes_of_tasks(result) if tasks <= FEW else [], strict=False):
        head += [short(name) for name in own] if len(own) <= 3 else [f"{len(own)} classes"]
    across = min(0.5, SIDE / tasks)
    down = max(across, LINE * max(map(len, heads)) + 0.04 if tasks <= FEW else 0)
    title = f"accuracy on each task's classes, {split} (%)"
    width = across * tasks + width_of(line for head in heads for line in head) + 0.3
    with figure(path_out, max(width, width_of([title]) + 0.2), down * tasks + 0.8) as fig:
        ax = fig.subplots()
        _heat_map(ax, percent, digits=None if across < 0.3 else 1 if tasks <= 12 else 0)
        columns, rows = thinned(tasks, int(SIDE / 0.25)), thinned(tasks, int(SIDE / LINE))
        ax.set_xticks(columns, [str(j + 1) for j in columns])
        ax.set_yticks(rows, ["\n".join(heads[i]) for i in rows])
        ax.set_xlabel("task")
        fig.suptitle(title)
    return path_out


def draw_confusion(path_out: Path, counts: ArrayLike, class_names: Sequence[str], split: str) -> Path:
    """A confusion matrix (counts [n][n], rows are true classes) as shares of each row, in percent.

    Of few classes with the shares as digits; of many, some are named.
    """
    square = np.asarray(counts, dtype=float)
    totals = square.sum(axis=1, keepdims=True)
    share = 100 * np.divide(square, totals, out=np.full_like(square, np.nan), where=totals > 0)
    n = len(square)
    few = n <= SIDE / 0.4
    side = max(1.0, 0.4 * n) if few else SIDE  # the axes' labels need one
    named = thinned(n, int(SIDE / LINE))
    names = [short(class_names[c]) for c in named]
    title = f"share of each true class, {split} (%)"
    margin = 0.5 + width_of(names)
    with figure(path_out, max(side + margin, width_of([title]) + 0.2), side + margin + 0.3) as fig:
        ax = fig.subplots()
        _heat_map(ax, share, digits=0 if few else None)
        ax.set_xticks(named, names, rotation=90)
        ax.set_yticks(named, names)
        ax.set(xlabel="predicted class", ylabel="true class")
        fig.suptitle(title)
    return path_out


def draw_accuracy_over_tasks(path_out: Path, result: Mapping[str, Any], split: str) -> Path:
    """Accuracy over all classes seen (test, val) and on each task's classes, against the tasks learned."""
    matrix = result[split]["accuracy_matrix"]
    tasks = len(matrix)
    learned = np.arange(1, tasks + 1)
    with figure(path_out, 4.8, 2.9) as fig:
        ax = fig.subplots()
        if split == "test":  # first in the legend, above the others
            after = 100 * np.asarray(result["test"]["accuracy_after_task"])
            ax.plot(learned, after, "ks-", linewidth=1.8, label="all classes seen, test", zorder=2.1)
        after = 100 * np.asarray(result["val"]["accuracy_after_task"])
        ax.plot(learned, after, "k", linestyle=(0, (3, 2)), linewidth=1.2, label="all classes seen, val", zorder=2.1)
        for j in range(tasks):
            own, colour, label = [row[j] for row in matrix[j:]], COLOURS[j % 6], f"task {j + 1}'s classes, {split}"
            if tasks > FEW:
                colour, label = "#999999", "" if j else f"each task, {split}"
            ax.plot(learned[j:], 100 * np.array(own), "o-", color=colour, linewidth=0.9, markersize=2.5, label=label)
        margin = 0.15 if tasks > 1 else 0.5
        ax.set(xlim=(1 - margin, tasks + margin), ylim=(-2, 102), xlabel="tasks learned", ylabel="accuracy (%)")
        task_ticks(ax, tasks)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return path_out


def _heat_map(ax: Axes, percent: NDArray[np.float64], digits: int | None) -> None:
    """One image of the whole matrix; cells are set apart, and have `digits`, only where they are few."""
    colours = matplotlib.colormaps["Blues"](percent / 100, bytes=True)  # less memory than an image of numbers
    ax.imshow(colours, aspect="auto", interpolation="nearest")
    ax.tick_params(which="both", length=0)
    ax.set_frame_on(False)
    if digits is not None:
        for axis, n in zip((ax.yaxis, ax.xaxis), percent.shape, strict=True):
            axis.set_ticks(np.arange(n + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1)
        for i, j in np.argwhere(np.isfinite(percent)):
            ink = "white" if percent[i, j] > 60 else INK
            ax.text(j, i, f"{percent[i, j]:.{digits}f}", ha="center", va="center", color=ink, fontsize=7)


def _mosaic(rows: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Images of each row side by side on white, RGB [rows·P, columns·P, 3]; enlarged here so that no viewer blurs."""
    side = max((image.shape[-1] for row in rows for image in row), default=1)
    scale = max(1, round(120 / side))
    cell = side * scale
    pitch = cell + max(2, cell // 20)
    canvas = np.full((len(rows), pitch, columns, pitch, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            canvas[i, :cell, j, :cell] = image.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
    return canvas.reshape(len(rows) * pitch, columns * pitch, 3)
