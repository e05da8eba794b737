"""How a model learns a task: the images of new classes, the same `learn_all` as in a run, and what the record says."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from ccsi.checks import NonNegative, PositiveInt, Seed
from ccsi.config import build, choices, load, shown
from ccsi.data import Dataset, Folder, Labelled, Npz, Source
from ccsi.data.dataset import SPLITS
from ccsi.data.input import InputFormat
from ccsi.data.stream import ImageStream, open_images
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError, memory_as_user_error
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.experiment.description import describe
from ccsi.experiment.environment import DeviceName, set_up_torch
from ccsi.experiment.folder import lock_run_dir
from ccsi.experiment.tasks import LearnerFactory, RunSession, Setup, learn_all
from ccsi.io.paths import absolute, expand, is_folder
from ccsi.io.text import warn
from ccsi.learners.base import ModelFactory, NetLearner
from ccsi.model.classes import NewImages, appended, counts_of, images_of, labelled_images, read_new_classes, without
from ccsi.model.compose import IMAGES
from ccsi.model.conclude import Learned, changed, conclude
from ccsi.model.folder import MODEL_JSON, check_new
from ccsi.model.method import Method, check_extensible, restore, tensors_of
from ccsi.model.snapshot import Snapshot, read_snapshot
from ccsi.tracking import RunStart, Tracker, Trackers
from ccsi.training import Training

PARTIAL = ".partial"
"""Behind a new model's name: the folder of what is being learned, from which the same command resumes."""


@with_config(ConfigDict(extra="forbid"))
class EvaluateOptions(TypedDict):
    """Labelled images to show before and after. data: a folder or .npz file, which may have old classes; null: none."""

    data: str | None


@dataclass(frozen=True, kw_only=True)
class Learning:
    """A first fit of a model, or an extension of an old one; what configs/fit.yaml and configs/extend.yaml describe.

    Args:
        dataset: the images. model, learner, training, seed: the method; of an extension, as the old model has them.
        report: draw pictures. workers: processes that share the work, each of which calls `learn`.
        out: the new model's folder; null: only in memory, and not resumable.
        classes: which classes of the data set to learn; null: all. new_images: of classes that the model knows.
        evaluate: labelled images that are scored before and after an extension.
        old: the checksum of the old model's record; null: a first fit.
        config: the resolved configuration, for the record.
    """

    dataset: Source
    model: ModelFactory
    learner: LearnerFactory
    training: Training
    tracking: Trackers
    seed: Seed = 0
    device: DeviceName = "auto"
    threads: PositiveInt = 1
    checkpoint_every: NonNegative = 60.0
    report: bool = True
    workers: PositiveInt = 1
    out: str | None = None
    classes: list[int | str] | None = None
    new_images: NewImages = "refuse"
    evaluate: EvaluateOptions = field(default_factory=lambda: EvaluateOptions(data=None))
    old: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def learn(self, old: Snapshot | None, watch: Tracker | None = None) -> Snapshot:
        """Learn the next task, write the new model to `out`, and return it; the old one is not changed.

        Every worker calls this. watch: one more tracker.

        Raises:
            UserError: what does not fit together. Nothing is written to `out` then.
        """
        group, out = ProcessGroup.current(), absolute(self.out, "out") if self.out is not None else None
        if out is not None:
            group.on_main(lambda: check_out(out))
        device = set_up_torch(self.device, self.threads)
        self.tracking.watch, self.tracking.enabled = watch, group.is_main
        with memory_as_user_error(), ExitStack() as stack:
            data, labelled, learner = group.on_all(lambda: self.parts(old, device))
            work = stack.enter_context(work_folder(out, group.is_main))
            own = {key: value for key, value in self.config.items() if key[0] != "_"}
            saved = group.on_main(lambda: stack.enter_context(lock_run_dir(work, own, "out")))
            session, setup = self.session(work, device, old), self.setup(old, data, learner)
            lines = session.load(saved, setup) if saved is not None else 0
            stack.callback(lambda: self.tracking.finish(None))
            group.on_main(lambda: session.trackers.start(self.start(work, setup, data, lines)))
            learn_all(setup, session, saved, start=len(old.record.tasks) if old is not None else 0)
            self.tracking.finish(None)
            form = input_format(data, old, self.dataset.fit)
            model = conclude(Learned(learner, data, session, self.config, labelled), old, form)
            if out is not None:
                group.on_main(lambda: model.save(out))
        return model

    def parts(self, old: Snapshot | None, device: torch.device) -> tuple[Dataset, Labelled | None, NetLearner]:
        """The new classes' images, those to show, and the learner; UserError if they do not fit together."""
        known = old.class_names if old is not None else ()
        data = read_new_classes(self.dataset, self.classes, known, self.new_images)
        return data, self.shown_images(old, data), self.prepared(old, data, device)

    def shown_images(self, old: Snapshot | None, data: Dataset) -> Labelled | None:
        """The labelled images of `evaluate.data`, of classes known then; None if there are none."""
        path = self.evaluate["data"]
        if path is None or old is None:
            return None
        form = input_format(data, old)
        found = labelled_images(labelled_source(path, form), None, [*old.class_names, *data.class_names], form.ranges)
        part, n = without(found.part, data.train)
        more = [f"{n:,} of its images are among those to train on, and are not scored."] if n else []
        for sentence in (*found.notes, *more):
            warn(f"evaluate.data: {sentence}")
        return part if len(part) else None

    def prepared(self, old: Snapshot | None, data: Dataset, device: torch.device) -> NetLearner:
        """A learner that has learned what the old model has, and that fits the new task; else UserError."""
        parts = Method(model=self.model, learner=self.learner, training=self.training, seed=self.seed)
        learner = parts.make(data.train.images.shape[1], device)
        check_extensible(learner)
        counts = [task.images["train"] for task in old.record.tasks] if old is not None else []
        counts = [*counts, counts_of(data)["train"]]
        learner.check([len(task) for task in counts], more=True)
        learner.check_images(counts)
        if getattr(learner, "memory", None) is not None and min(counts[-1]) < 2:
            name = data.class_names[counts[-1].index(min(counts[-1]))]
            raise UserError(
                f"{data.name}: class {name} has one image to train on, and learner={learner.name} keeps the mean image "
                "of each class, which would be that image; expected at least two, or a learner that keeps none."
            )
        if old is None or not learner.first_is_shortest:
            done = [10**9] * (len(counts) - 1)  # old tasks are not trained again
            self.training.check_warmup([*done, sum(counts[-1])])
        if old is not None:
            try:
                restore(learner, tensors_of(old.learner), old.record.sizes, "the old model")
            except UserError as error:
                changes = [f"{key}={shown(value)}" for key, value in changed(old.record.config, self.config).items()]
                what = f"{', '.join(changes)} does not fit what the old model has learned" if changes else str(error)
                raise UserError(f"{what}; expected its own value.") from error
        return learner

    def setup(self, old: Snapshot | None, data: Dataset, learner: NetLearner) -> Setup:
        """The tasks so far, of which the last one has images."""
        known, plan = (old.class_names, old.record.sizes) if old is not None else ((), [])
        whole = appended(data, known)
        numbers, tasks = iter(range(len(whole.class_names))), list[list[int]]()
        for size in [*plan, len(data.class_names)]:
            tasks.append([next(numbers) for _ in range(size)])
        return Setup(whole, tasks, learner, {})

    def session(self, work: Path, device: torch.device, old: Snapshot | None) -> RunSession:
        """The session of this start; its record has the old model's tasks."""
        checkpoints = Checkpoints(work, self.checkpoint_every)
        session = RunSession(work, device, self.tracking, checkpoints, lambda: None, lambda event: None)
        if old is not None:
            hashes = [task.impressions_sha256 for task in old.record.tasks]
            session.record["impressions_sha256"] = [one for one in hashes if one is not None]
            stored = [[dataclasses.asdict(item) for item in task.stored] for task in old.record.tasks]
            session.record["stored_after_task"] = stored
        return session

    def start(self, work: Path, setup: Setup, data: Dataset, lines: int) -> RunStart:
        """What trackers are informed of first."""
        names = tuple(tuple(setup.data.class_names[c] for c in classes) for classes in setup.plan)
        summary = describe(data, [[*range(len(data.class_names))]], setup.learner)
        name = f"{'model' if self.old is None else 'extension'}-{setup.learner.name}"
        return RunStart(name, work, self.config, names, lines, summary.lines, summary.warnings)


def learn_shared(
    learning: Learning,
    run_dir: str,
    seed: Seed,
    old_folder: str | None = None,
    config: Mapping[str, Any] | None = None,
    on_task_end: object = None,
    watch: Tracker | None = None,
    describe: bool = True,
) -> None:
    """One worker's part of a fit or an extension; see `ccsi.sweep.execution.data_parallel.work`, which calls this.

    run_dir and seed are for that caller, which needs no report of a task's end.
    """
    learning = dataclasses.replace(learning, config=(config or {}).get("learning", {}))
    if learning.out is not None and os.path.lexists(learning.out):  # a worker died after it was written
        return
    learning.learn(None if old_folder is None else read_snapshot(old_folder, learning.device), watch)


def check_out(out: Path) -> None:
    """See `check_new`; what a kill has left beside a model that is complete is removed first."""
    if (out / MODEL_JSON).is_file():
        shutil.rmtree(out.with_name(out.name + PARTIAL), ignore_errors=True)
    check_new(out)


@contextmanager
def work_folder(out: Path | None, is_main: bool) -> Iterator[Path]:
    """The folder of what is being learned: beside `out`, kept if it is interrupted; or a temporary one."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ccsi-") as folder:
            yield Path(folder) / "work"
    else:
        work = out.with_name(out.name + PARTIAL)
        yield work
        if is_main:
            shutil.rmtree(work, ignore_errors=True)


def input_format(data: Dataset, old: Snapshot | None, fit: Literal["pad", "resize"] = "resize") -> InputFormat:
    """The network's input: the old model's, with the ranges of kinds of pixels that are new."""
    if old is not None:
        return dataclasses.replace(old.record.input, ranges={**data.origin.ranges, **old.record.input.ranges})
    channels, size, _ = data.train.images.shape[1:]
    return InputFormat(size, fit, 1 if channels == 1 else 3, {**data.origin.ranges})


def labelled_source(images: str | Path, form: InputFormat) -> Source:
    """What reads labelled images: a folder with one sub-folder a class, an .npz file, or a data set by its name."""
    where = expand(images, "FOLDER")
    same = {"size": form.size, "fit": form.fit, "channels": form.channels}
    if not where.exists() and str(images) in choices("dataset"):
        source: Source = build(
            load([f"dataset={images}", *(f"dataset.{key}={value}" for key, value in same.items())])["dataset"]
        )
        return source
    if not where.exists():
        raise UserError(f"{images} does not exist; {IMAGES}.")
    if where.suffix.lower() == ".npz" and not is_folder(where, "FOLDER"):
        return Npz(name=where.name, path=str(where), size=form.size, fit=form.fit, channels=form.channels)
    ranges = {kind: [*bounds] for kind, bounds in form.ranges.items()} or None
    return Folder(
        name=where.name,
        path=str(where),
        size=form.size,
        fit=form.fit,
        channels=form.channels,
        range=ranges,
        nested=True,
        draw="by_class",
    )


def image_stream(images: str | Path, form: InputFormat, batch: int = 256, split: str | None = None) -> ImageStream:
    """The images of a folder, an image file, an .npz file, or the test images of a data set, by its name."""
    if not expand(images, "FOLDER").exists() and str(images) in choices("dataset"):
        part = images_of(labelled_source(images, form).load(optional=SPLITS), split or "test")
        return open_images(part.images, form, batch)
    return open_images(images, form, batch, split)
