"""What a model says of images: in memory, and as a table that is written while images are read."""

import copy
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ccsi.data.stream import Batch, ImageStream
from ccsi.data.summary import csv_bytes
from ccsi.errors import UserError, diverged
from ccsi.io.atomic import replacing
from ccsi.io.text import printable
from ccsi.learners.base import NetLearner
from ccsi.model.reference import familiarity_of, first_net
from ccsi.model.snapshot import Snapshot
from ccsi.models import IncrementalNet
from ccsi.tracking.console import terminal

TURN = 0.0005  # seconds
UNFAMILIAR = 5.0
"""Images of a familiarity below this are counted: of val images of their class, 5 % have one."""
ENOUGH = 24
"""Val images of a class with which a familiarity can be below `UNFAMILIAR`, since percentiles are rounded up."""
MANY, CHANCE = 0.1, 0.001
"""Share of such images above which the count says that the model may have to be extended, if so many of known classes
alone have a lower probability than this."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of images, in their order.

    Attributes:
        names: of the images: files relative to their folder, or positions. class_names: of the model.
        probabilities: float64 [N, n_classes]; NaN for images that could not be read.
        familiarity: float64 [N] in [0, 100], see `ccsi.evaluation.familiarity`; NaN likewise.
        errors: why an image could not be read, by its position.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    familiarity: npt.NDArray[np.float64]
    errors: dict[int, str]

    @property
    def classes(self) -> list[str | None]:
        """The most probable class of each image; None for one that could not be read."""
        best = np.nan_to_num(self.probabilities, nan=-1.0).argmax(1).tolist()
        return [None if i in self.errors else self.class_names[c] for i, c in enumerate(best)]


@dataclass(frozen=True)
class Predictor:
    """A model ready to predict: copies of its networks, whose maps have their channels last, which is faster on a CPU.

    Attributes:
        learner: classifies. first: the net of the first task, for familiarity.
    """

    model: Snapshot
    learner: NetLearner
    first: IncrementalNet

    @classmethod
    def of(cls, model: Snapshot) -> "Predictor":
        """That of a model, which is not changed."""
        learner = copy.copy(model.learner)
        learner.net = model.learner.frozen_net().to(memory_format=torch.channels_last)
        first = first_net(model.learner, model.reference.backbone)
        return cls(model, learner, first.to(memory_format=torch.channels_last))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Predictions:
        """What the model says of one batch; UserError if scores are not finite."""
        model, n = self.model, len(batch.names)
        read = [i for i in range(n) if i not in batch.errors]
        probabilities, familiar = np.full((n, len(model.class_names)), np.nan), np.full(n, np.nan)
        if read:
            images = batch.images.to(self.learner.device).contiguous(memory_format=torch.channels_last)
            scores = self.learner.scores(images.float() / 255).cpu().double()
            if not scores.isfinite().all():
                raise diverged(self.learner.name, "scores", len(model.record.tasks))
            probabilities[read] = (scores / model.record.temperature).softmax(1).numpy()
            familiar[read] = familiarity_of(self.first, model.reference, images).numpy()
        return Predictions(batch.names, model.class_names, probabilities, familiar, dict(batch.errors))


def predict_stream(model: Snapshot, stream: ImageStream) -> Iterator[tuple[Batch, Predictions]]:
    """What a model says of each batch of a stream, in order; on a CPU, each of its threads works on a batch.

    Networks for small images gain little from several threads for one batch. Meanwhile Python's threads take turns more
    often: a network's would wait for the lock behind those that decode images, for 5 ms each time.
    """
    predictor, threads, interval = Predictor.of(model), torch.get_num_threads(), sys.getswitchinterval()
    workers = threads if model.learner.device.type == "cpu" else 1
    waiting = deque[tuple[Batch, Future[Predictions]]]()
    with ThreadPoolExecutor(workers, "ccsi-predict") as executor:
        try:
            torch.set_num_threads(max(1, threads // workers))
            sys.setswitchinterval(TURN)
            for batch in stream:
                waiting.append((batch, executor.submit(predictor, batch)))
                if len(waiting) > workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            torch.set_num_threads(threads)
            sys.setswitchinterval(interval)
            executor.shutdown(cancel_futures=True)


def predict_all(model: Snapshot, stream: ImageStream) -> Predictions:
    """What a model says of all images of a stream."""
    parts = [predictions for _, predictions in predict_stream(model, stream)]
    errors, start = dict[int, str](), 0
    for part in parts:
        errors |= {start + i: text for i, text in part.errors.items()}
        start += len(part.names)
    names = tuple(name for part in parts for name in part.names)
    probabilities = np.concatenate([np.empty((0, len(model.class_names))), *(part.probabilities for part in parts)])
    familiar = np.concatenate([np.empty(0), *(part.familiarity for part in parts)])
    return Predictions(names, model.class_names, probabilities, familiar, errors)


def header(top: int) -> list[str]:
    """The table's columns, for the `top` most probable classes."""
    others = [name for k in range(2, top + 1) for name in (f"class_{k}", f"probability_{k}")]
    return ["file", "class", "probability", "familiarity", *others, "error"]


def rows(predictions: Predictions, top: int) -> Iterator[list[str]]:
    """The rows for `header`'s columns; a probability has six decimals, familiarity one."""
    best = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :top].tolist()
    for i, name in enumerate(predictions.names):
        if i in predictions.errors:
            yield [name, *[""] * (1 + 2 * top), predictions.errors[i]]
            continue
        first, *others = [(predictions.class_names[c], f"{predictions.probabilities[i, c]:.6f}") for c in best[i]]
        rest = [text for pair in others for text in pair]
        yield [name, *first, f"{predictions.familiarity[i]:.1f}", *rest, ""]


@dataclass
class Tally:
    """What was seen while a table was written."""

    images: int = 0
    errors: int = 0
    unfamiliar: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)

    def add(self, predictions: Predictions, batch: Batch) -> None:
        """Count a batch."""
        self.images += len(predictions.names)
        self.errors += len(predictions.errors)
        self.unfamiliar += int((predictions.familiarity < UNFAMILIAR).sum())
        self.classes.update(name for name in predictions.classes if name is not None)
        self.converted.update(batch.converted)

    def lines(self, n_val: int) -> Iterator[str]:
        """What a user should know, in short lines; n_val: the fewest val images of a class."""
        from scipy.stats import binom  # a second to import

        yield ", ".join(f"{printable(name)} {count:,}" for name, count in self.classes.most_common())
        read = self.images - self.errors
        if self.errors:
            yield f"{self.errors:,} could not be read: see the column error"
        for change, count in self.converted.items():
            yield f"{count:,} {change}"
        if read and n_val >= ENOUGH:
            share = self.unfamiliar / read
            is_chance = binom.sf(self.unfamiliar - 1, read, UNFAMILIAR / 100) >= CHANCE
            many = share > MANY and not is_chance
            hint = "; many are like nothing that the model knows: it may be time to extend it" if many else ""
            yield f"familiarity below {UNFAMILIAR:g}: {self.unfamiliar:,} of {read:,} ({share:.1%}){hint}"
        elif read:
            yield (
                f"familiarity says little: of a class with {n_val} val image{'s' * (n_val != 1)} it cannot be below "
                f"{100 / (n_val + 1):.3g}; {ENOUGH} allow values below {UNFAMILIAR:g}"
            )


def write_table(model: Snapshot, stream: ImageStream, path: Path, top: int) -> Tally:
    """Write what a model says of each image to a new .csv file, whole or not at all, with progress on stderr.

    Raises:
        UserError: the file cannot be written, or the source cannot be read any more.
    """
    tally, top = Tally(), min(top, len(model.class_names))
    columns = TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    err = terminal(stderr=True)
    try:
        with replacing(path) as file, Progress(*columns, console=err, disable=not err.is_terminal) as bar:
            task = bar.add_task("predict", total=stream.total)
            file.write(csv_bytes([header(top)]))
            for batch, predictions in predict_stream(model, stream):
                tally.add(predictions, batch)
                file.write(csv_bytes(rows(predictions, top)))
                bar.advance(task, len(batch.names))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"out={printable(path)} cannot be written ({reason}); choose another file.") from error
    return tally
