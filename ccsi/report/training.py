"""The picture of one task's training: loss and accuracy against the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ccsi.io.text import printable
from ccsi.report.style import COLOURS, GREY, LINES, decade, figure

Event = Mapping[str, Any]
WIDE = 30.0
"""Ratio of the largest to the smallest term above which the axis is logarithmic."""


def draw_training(path_out: Path, events: Sequence[Event]) -> Path | None:
    """Draw the loss, its terms, and the accuracy on the task's own val images of each stage; None without any.

    events: the logging points of one task, as metrics.jsonl has them (see `ccsi.tracking.files`).
    """
    stages: dict[str, list[Event]] = {}
    for event in events:
        if "step" in event and any(key.startswith("loss") for key in event):
            stages.setdefault(event["phase"], []).append(event)
    if not stages:
        return None
    with figure(path_out, 0.4 + 3.2 * len(stages), 3.2) as fig:
        for ax, (stage, points) in zip(fig.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
            draw_stage(ax, points)
            ax.set(title=stage, xlabel="step")
    return path_out


def draw_stage(ax: Axes, points: Sequence[Event]) -> None:
    """The curves of one stage, with a legend below."""
    names = [key for key in dict.fromkeys(key for point in points for key in point) if key.startswith("loss")]
    values = list[float]()
    if "loss" in names and len(names) == 2:  # a single term is the loss itself
        names = ["loss"]
    for number, name in enumerate(names):
        known = [(point["step"], point[name]) for point in points if point.get(name) is not None]
        style: dict[str, Any] = {"color": COLOURS[number % 6], "linestyle": LINES[number // 6 % len(LINES)]}
        style |= {"color": "black"} if name == "loss" else {"linewidth": 0.9}
        ax.plot(*zip(*known, strict=True), label=printable(name.removeprefix("loss_")), **style)
        values += [value for _, value in known if value > 0]
    if values and max(values) / min(values) > WIDE and "loss" not in names:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: decade(value))
    elif values:
        ax.set_ylim(0, 1.05 * max(values))
    lines, labels = ax.get_legend_handles_labels()
    measured = [(point["step"], 100 * point["val_accuracy"]) for point in points if "val_accuracy" in point]
    if measured:
        right = ax.twinx()
        right.spines["right"].set_visible(True)
        lines += right.plot(*zip(*measured, strict=True), color=GREY, linestyle=":", marker=".")
        labels.append("val accuracy")
        right.set(ylim=(-2, 102), ylabel="accuracy on new val images (%)")
    ax.legend(lines, labels, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
