"""Figures of a model on labelled images: over all classes and by task."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from rich import box
from rich.table import Table

from ccsi.data import Labelled
from ccsi.evaluation.calibration import expected_calibration_error
from ccsi.io.text import printable
from ccsi.model.measure import Scored, figures_of, score
from ccsi.model.record import Figures
from ccsi.model.snapshot import Snapshot
from ccsi.tracking.console import percent, terminal

MOST = 20  # classes in a confusion matrix on the terminal


@dataclass(frozen=True)
class Evaluation:
    """A model on labelled images.

    Attributes:
        split: which images: train, val, test or all. class_names: in the order of rows and columns.
        overall: on all images. tasks: on those of each task's classes, None without any.
        notes: whole sentences about how the images were read.
        calibration_error: of all images, in [0, 1], with the model's temperature; by_task: likewise.
    """

    split: str
    class_names: tuple[str, ...]
    overall: Figures
    tasks: list[Figures | None]
    calibration_error: float
    by_task: list[float | None]
    notes: tuple[str, ...] = ()


def evaluate_labelled(model: Snapshot, part: Labelled, split: str, notes: tuple[str, ...] = ()) -> Evaluation:
    """Score labelled images, with labels that are positions in the model's classes."""
    scored, n = score(model.learner, part), len(model.class_names)
    ranges = [range(*pair) for pair in pairwise([0, *accumulate(model.record.sizes)])]
    overall = figures_of(scored, range(n))
    assert overall is not None  # there is an image

    def error(own: Scored) -> float:
        return expected_calibration_error((own.scores / model.record.temperature).softmax(1), own.labels)

    by_task = [error(scored.of(classes)) if len(scored.of(classes)) else None for classes in ranges]
    tasks = [figures_of(scored, classes) for classes in ranges]
    return Evaluation(split, model.class_names, overall, tasks, error(scored), by_task, notes)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the figures by task, and the confusion matrix, on stdout, in percent."""
    out = terminal()
    table = Table(box=box.SIMPLE_HEAD, title=f"{evaluation.overall.images:,} images ({evaluation.split})")
    for head in ("classes of", "images", "accuracy", "mean recall", "AUC", "calibration error"):
        table.add_column(head, justify="left" if head == "classes of" else "right")
    rows = [(f"task {k}", *pair) for k, pair in enumerate(zip(evaluation.tasks, evaluation.by_task, strict=True), 1)]
    for name, figures, error in [*rows, ("all", evaluation.overall, evaluation.calibration_error)]:
        if figures is not None:
            values = (figures.accuracy, figures.macro_recall, figures.auc, error)
            table.add_row(name, f"{figures.images:,}", *("–" if one is None else percent(one) for one in values))
    out.print(table)
    if len(evaluation.class_names) <= MOST:
        out.print(confusion_table(evaluation.overall.confusion, evaluation.class_names))


def confusion_table(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Table:
    """Counts: a row for each true class, a column for each predicted one, by their numbers."""
    table = Table(box=box.SIMPLE_HEAD, title="true class (row), predicted class (column)")
    table.add_column("")
    for number in range(len(class_names)):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(class_names, confusion, strict=True)):
        table.add_row(f"{number} {printable(name)}", *(str(count) if count else "·" for count in row))
    return table
