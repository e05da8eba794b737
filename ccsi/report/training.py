"""The picture of one task's training: loss and accuracy against the steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccsi.io.text import printable
from ccsi.report.style import COLOURS, GREY, LINES, figure

Event = Mapping[str, Any]


def draw_training(path_out: Path, events: Sequence[Event]) -> Path | None:
    """Draw the loss, its terms, and the accuracy on the task's own val images of each stage; None without any.

    events: the logging points of one task, as metrics.jsonl has them (see `ccsi.tracking.files`).
    """
    stages: dict[str, list[Event]] = {}
    for event in events:
        if "step" in event and event.get("loss") is not None:
            stages.setdefault(event["phase"], []).append(event)
    if not stages:
        return None
    with figure(path_out, 0.6 + 3.0 * len(stages), 2.6) as fig:
        for ax, (stage, points) in zip(fig.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
            steps = [point["step"] for point in points]
            terms = sorted({key for point in points for key in point if key.startswith("loss_")})
            ax.plot(steps, [point["loss"] for point in points], color="black", label="loss")
            for number, term in enumerate(terms if len(terms) > 1 else []):
                style = {"color": COLOURS[number % 6], "linestyle": LINES[number // 6 % len(LINES)]}
                known = [(point["step"], point[term]) for point in points if point.get(term) is not None]
                ax.plot(*zip(*known, strict=True), linewidth=0.9, label=printable(term.removeprefix("loss_")), **style)
            ax.set(title=stage, xlabel="step", ylim=(0, None))
            measured = [(point["step"], 100 * point["val_accuracy"]) for point in points if "val_accuracy" in point]
            if measured:
                right = ax.twinx()
                right.spines["right"].set_visible(True)
                right.plot(*zip(*measured, strict=True), color=GREY, linestyle=":", marker=".", label="val accuracy")
                right.set(ylim=(-2, 102), ylabel="accuracy on new val images (%)")
                right.legend(loc="lower right")
            ax.legend(loc="upper right")
    return path_out
