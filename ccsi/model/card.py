"""MODEL_CARD.md and what a command prints about a model: for people, from its record alone."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import Any

from ccsi.io.text import printable
from ccsi.model.record import Calibration, Figures, ModelRecord, Shown, TaskRecord

NAMED = 12  # classes of a task that are named in a table
KINDS = {
    "exemplars": "real training images, as they are",
    "exemplar labels": "their classes",
    "class means": "the mean image of each class",
    "normalization moments": "mean and variance of channel groups, averaged over a class's images",
    "class mean features": "the mean of the network's features over a class's images",
    "feature spread": "one number: the spread of features about their class's mean",
    "class covariances": "the covariance of features of each class",
    "feature autocorrelation": "sums of products of features over all images",
    "feature-label correlation": "sums of features over the images of each class",
    "Fisher information": "how much each weight matters for old classes",
    "synaptic importance": "how much each weight mattered during training",
    "familiarity means": "mean and variance of channel groups in all layers, averaged over each class's images",
    "familiarity scatter": "sums of products of these, over all images",
    "familiarity quantiles": "100 quantiles of each class's distances on val",
    "calibration features": "the mean of the network's features over a class's images, when it was learned",
}
"""What a kind of stored data is, in words."""


def card_text(record: ModelRecord) -> str:
    """The model card in Markdown."""
    parts = [
        f"# Model card: {len(record.class_names)} classes, {md(record.learner)}",
        first_line(record),
        "## What it is",
        *what_it_is(record),
        "## What it may and may not do",
        *limits(record),
        "## How it was evaluated",
        *evaluation(record),
        "## What of real data it still holds",
        *holdings(record),
        "## How to check and use it",
        *checks(record),
    ]
    return "\n\n".join(parts) + "\n"


def md(text: str) -> str:
    """Text of the user's in a Markdown table or line."""
    shown = printable(text)
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in shown)


def percent(value: float | None) -> str:
    """A fraction in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def few(names: Sequence[str]) -> str:
    """Names in a cell; of many only the first."""
    more = f", … ({len(names)} classes)" if len(names) > NAMED else ""
    return ", ".join(map(md, names[:NAMED])) + more


def exemplars(record: ModelRecord) -> tuple[int, int]:
    """How many real images are in the folder, and their bytes."""
    kept = [item for item in record.tasks[-1].stored if item.kind == "exemplars"]
    return sum(item.count for item in kept), sum(item.bytes for item in kept)


def first_line(record: ModelRecord) -> str:
    """What matters most to who receives the folder."""
    n, size = exemplars(record)
    if n:
        return f"**{n:,} real training images travel with this model** ({size:,} bytes, in memory.safetensors)."
    return "No real image is in this folder; what is derived from real images is listed below."


def what_it_is(record: ModelRecord) -> Iterator[str]:
    """Classes, input, method and history."""
    form, first, last = record.input, record.tasks[0], record.tasks[-1]
    colour = {1: "grey", 3: "RGB"}[form.channels]
    how = {"resize": "resized to", "pad": "centred in black on"}[form.fit]
    deep = "; ".join(f"{kind}: {low:g} to {high:g} become 0 to 255" for kind, (low, high) in form.ranges.items())
    yield (
        f"It says which of {len(record.class_names)} classes an image belongs to, and with what probability. Images "
        f"become {colour} and are {how} {form.size} x {form.size} pixels{f' ({md(deep)})' if deep else ''}."
    )
    yield f"Method: {md(record.learner)}. {record.about}"
    network = str(record.config["model"].get("_target_", "")).rpartition(".")[2]
    started = f" It started from pretrained weights ({md(record.pretrained)})." if record.pretrained else ""
    yield f"Network: {md(network)}, {record.parameters:,} parameters.{started}"
    n = len(record.tasks) - 1
    times = {1: "once, on"}.get(n, f"{n} times, last on")
    yield f"It was first fitted on {first.date}" + (f" and extended {times} {last.date}." if n else ".")
    rows = [
        (k, task.date, few(task.classes), sum(task.images["train"]), sum(task.images["val"]), sum(task.images["test"]),
         md(task.data), f"{task.versions.get('ccsi')} / {task.versions.get('torch')}")
        for k, task in enumerate(record.tasks, start=1)
    ]  # fmt: skip
    yield table(["task", "date", "classes", "train", "val", "test", "data", "ccsi / torch"], rows)


def limits(record: ModelRecord) -> Iterator[str]:
    """What must not be expected of it."""
    yield (
        "- It names one of its classes for every image, also for an image of something else. The column `familiarity` "
        "of `ccsi predict` (a percentile among val images of the class that the image is most like) is low for many "
        "such images, not for all.\n"
        "- Its figures hold for images like those it was evaluated on: the same devices, stains, sites and patients' "
        "mix. Evaluate it on your own (`ccsi evaluate`) before you rely on it.\n"
        "- It is research software and no medical device: its output is no diagnosis.\n"
        "- Old classes may be recognised less well after each extension. "
        + ("It was extended, and the next section says what was measured of this." if len(record.tasks) > 1 else
           "It has not been extended yet.")
    )  # fmt: skip


def evaluation(record: ModelRecord) -> Iterator[str]:
    """Figures of each task, what is known of forgetting, calibration."""
    yield (
        "Right after each task, on images of its own classes that it was not trained on, among all classes known "
        "then (%; val may have served to choose, test did not):"
    )
    names = ("images", "accuracy", "mean recall", "AUC")
    head = ["task", *(f"{split} {name}" for split in ("val", "test") for name in names)]
    tasks = enumerate(record.tasks, start=1)
    yield table(head, [(k, *figures_cells(task.val), *figures_cells(task.test)) for k, task in tasks])
    if len(record.tasks) > 1:
        yield from forgetting(record.tasks)
    yield (
        f"Probabilities are softmax(scores / {record.temperature:.4g}); the temperature was fitted on val of the last "
        "task, and on what stands for old classes. Expected calibration error (15 bins, %), without and with it:"
    )
    errors = record.tasks[-1].calibration
    cells = [calibration_cells(one) for one in errors]
    yield table(["task", "measured on", "images", "without", "with"], cells)


def figures_cells(figures: Figures | None) -> list[str]:
    """A task's figures on one split."""
    if figures is None:
        return ["0", "–", "–", "–"]
    return [f"{figures.images:,}", *map(percent, (figures.accuracy, figures.macro_recall, figures.auc))]


def forgetting(tasks: Sequence[TaskRecord]) -> Iterator[str]:
    """What was measured of old classes after extensions."""
    measured = [(k, task.shown) for k, task in enumerate(tasks, start=1) if task.shown is not None]
    rows = [shown_cells(k, shown) for k, shown in measured]
    if rows:
        yield "Accuracy on labelled images that were shown to `ccsi extend` (evaluate.data), before and after (%):"
        yield table(["task", "images", "old classes before", "old classes after", "new classes after"], rows)
    if without := [str(k) for k, task in enumerate(tasks, start=1) if k > 1 and task.shown is None]:
        yield (
            f"**Forgetting was not measured** in task {', '.join(without)}: no image of an old class was shown. To "
            "measure it, run `ccsi evaluate` on labelled images of all classes."
        )


def shown_cells(task: int, shown: Shown) -> list[str]:
    """A row of what was shown."""
    return [str(task), f"{shown.images:,}", *map(percent, (shown.old_before, shown.old_after, shown.new_after))]


def calibration_cells(one: Calibration) -> list[str]:
    """A row of the calibration errors."""
    notes = {"exemplars": " (real images that it was trained on)"}
    notes["kept statistics"] = " (features of new images, moved to the mean features of these classes)"
    on = one.measured_on + notes.get(one.measured_on, "")
    return [str(one.task), on, f"{one.images:,}", percent(one.before), percent(one.after)]


def holdings(record: ModelRecord) -> Iterator[str]:
    """What is derived from real images, by kind and bytes."""
    items = [*record.tasks[-1].stored, *record.reference]
    rows = [(md(item.kind), f"{item.count:,}", f"{item.bytes:,}", KINDS.get(item.kind, "")) for item in items]
    yield table(["kind", "number", "bytes", "what it is"], rows)
    yield (
        "The weights of the network were trained on real images, too. Of a class with very few images, a mean shows "
        "these images."
    )


def checks(record: ModelRecord) -> Iterator[str]:
    """Checksums and commands."""
    ends = list(accumulate(record.sizes))
    rows = [(k, end, task.weights_sha256, task.data_sha256)
            for k, (end, task) in enumerate(zip(ends, record.tasks, strict=True), start=1)]  # fmt: skip
    yield table(["task", "classes", "SHA-256 of the weights", "SHA-256 of the data"], rows)
    yield "\n".join(
        [
            "    ccsi show MODEL                        this card, from model.json",
            "    ccsi predict MODEL FOLDER out=FILE.csv",
            "    ccsi evaluate MODEL FOLDER",
            "    ccsi extend MODEL FOLDER out=NEW       the next classes; this folder is not changed",
        ]
    )


def news(record: ModelRecord, out: str) -> str:
    """What a command prints when a model has learned a task, in lines of at most 80 characters."""
    task, n = record.tasks[-1], len(record.class_names)
    new = "" if len(record.tasks) == 1 else f", {len(task.classes)} new: {', '.join(map(printable, task.classes))}"
    lines = [f"{printable(out)}: {record.learner}, {n} classes{new}"]
    for split, figures in (("val", task.val), ("test", task.test)):
        if figures is not None:
            of = "the new classes" if new else "all classes"
            lines.append(f"{split}: {percent(figures.accuracy)} % of {figures.images:,} images of {of} are correct")
    if task.shown is not None:
        before, after, own = map(percent, (task.shown.old_before, task.shown.old_after, task.shown.new_after))
        lines.append(f"evaluate.data: old classes {before} % before, {after} % after; new classes {own} %")
    elif new:
        lines.append("forgetting was not measured: no image of an old class was shown (evaluate.data=FOLDER)")
    kept, size = exemplars(record)
    held = [f"{item.kind} ({item.bytes:,} bytes)" for item in task.stored if item.kind != "exemplars"]
    held.append(f"for familiarity and calibration {sum(item.bytes for item in record.reference):,} bytes")
    in_bytes = f" ({size:,} bytes)" if kept else ""
    lines.append(f"real images in the folder: {kept:,}{in_bytes}; derived from real images: {', '.join(held)}")
    return "\n".join(line for text in lines for line in wrap(text, 80, subsequent_indent="  "))
