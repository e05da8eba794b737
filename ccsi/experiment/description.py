"""What a run says of its data before it starts, and the tables of single images in its folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ccsi.data import Dataset
from ccsi.data.summary import Summary, csv_bytes, split_rows, summarize
from ccsi.evaluation import Evaluator
from ccsi.io.atomic import write_atomically
from ccsi.learners import NetLearner
from ccsi.tracking.console import size

SUMMARY, SPLIT_CSV, PREDICTIONS_CSV = "summary.txt", "split.csv", "predictions.csv"


def describe(data: Dataset, plan: Sequence[Sequence[int]], learner: NetLearner) -> Summary:
    """The summary of a run's data, with the memory that images and model take."""
    summary = summarize(data)
    return replace(summary, lines=(*summary.lines, memory_line(data, plan, learner)))


def memory_line(data: Dataset, plan: Sequence[Sequence[int]], learner: NetLearner) -> str:
    """The bytes of images and model, and what they do not include."""
    pixels = data.train.images[0].numel()
    images = pixels * sum(map(len, (data.train, data.val, data.test)))
    counts = torch.cat([data.train.labels, data.val.labels]).bincount(minlength=len(data.class_names))
    of_tasks = [sum(int(counts[c]) for c in classes) for classes in plan]
    task = pixels * (sum(of_tasks) if "all_tasks" in learner.permissions else max(of_tasks))
    # without the classes' prototypes, so that a resumed run says the same
    model = sum(value.numel() * value.element_size() for value in learner.net.backbone.state_dict().values())
    return (
        f"memory: images {size(images)} (a task's copy: {size(task)} more), model {size(model)} (in training about "
        "four times that); a batch's activations and Python come on top"
    )


def write_description(folder: Path, data: Dataset, summary: Summary, number: int = 1) -> None:
    """Write the summary, and where each image went; `number`: of the data set, if several share the folder."""
    texts = {
        SUMMARY: "".join(f"{line}\n" for line in summary.all_lines()).encode(),
        SPLIT_CSV: csv_bytes(split_rows(data)),
    }
    for name, text in texts.items():
        stem, _, suffix = name.partition(".")
        write_atomically(folder / (name if number == 1 else f"{stem}-{number}.{suffix}"), text)


def write_predictions(folder: Path, data: Dataset, evaluators: Mapping[str, Evaluator]) -> None:
    """Write what each image of the evaluated splits was called after the last task."""
    write_atomically(folder / PREDICTIONS_CSV, csv_bytes(prediction_rows(data, evaluators)))


def prediction_rows(data: Dataset, evaluators: Mapping[str, Evaluator]) -> Iterator[tuple[str | int, ...]]:
    """A head, and for each image its row of `split_rows`, the class it was called, and the softmax of its score."""
    rows = split_rows(data)
    yield *next(rows), "predicted_label", "predicted_class", "softmax"
    found = {split: zip(one.predicted, one.softmax, strict=True) for split, one in evaluators.items()}
    for split, *rest in rows:
        if split in evaluators:
            position, softmax = next(found[str(split)])
            predicted = evaluators[str(split)].order[position]
            yield split, *rest, predicted, data.class_names[predicted], f"{softmax:.6g}"
