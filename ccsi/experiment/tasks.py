"""A run sets up its parts, and learns and evaluates task after task; every step can be resumed from the checkpoint."""

import copy
import dataclasses
import io
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccsi.data import Dataset, Labelled, Scenario, Source, open_dataset
from ccsi.data.scenario import make_tasks, take
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.evaluation import Evaluator, metrics
from ccsi.experiment.checkpoint import Checkpoints, sha256_of
from ccsi.experiment.description import write_predictions
from ccsi.experiment.environment import peak_memory, reset_peak_memory, this_start
from ccsi.experiment.forecast import Forecast, task_sizes
from ccsi.experiment.saved import SCHEMA, check_fields, check_tasks
from ccsi.io.atomic import write_atomically
from ccsi.io.paths import absolute
from ccsi.learners.base import ModelFactory, NetLearner
from ccsi.rng import Streams
from ccsi.saved import check_saved
from ccsi.stage import Stages, State
from ccsi.tracking import Progress, TaskEnd, Trackers
from ccsi.training import Training

CPU = torch.device("cpu")


class LearnerFactory(Protocol):
    """A configured learner, without the arguments that the run adds."""

    def __call__(
        self, *, model: ModelFactory, in_channels: int, training: Training, streams: Streams, device: torch.device
    ) -> NetLearner: ...


@dataclass(frozen=True)
class Setup:
    """What a run works on; `plan`: original classes of each task, `evaluators`: of `val`, and of `test` if wanted."""

    data: Dataset
    plan: list[list[int]]
    learner: NetLearner
    evaluators: dict[str, Evaluator]

    def figures(self) -> dict[str, dict[str, Any]]:
        """Those of each split after the tasks evaluated so far."""
        return {split: evaluator.figures() for split, evaluator in self.evaluators.items()}


def set_up(
    *,
    dataset: Source,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    evaluate_test: bool,
    share_data: str | None,
    seed: int = 0,
    where: torch.device = CPU,
) -> Setup:
    """Read the data, plan the tasks and make the learner, in all workers of the run.

    Raises:
        UserError: the parts do not fit together, or another worker of this run has other images.
    """
    group = ProcessGroup.current()
    shared = absolute(share_data, "share_data") if share_data is not None else None
    data = group.on_all(lambda: open_dataset(dataset, shared))
    if data.checksum != group.broadcast_object(data.checksum):
        raise UserError(
            f"the images on {platform.node()} are not those of the other workers (their checksum differs); "
            "dataset.path and $CCSI_DATA must hold the same on all machines."
        )
    streams, channels = Streams(seed), data.train.images.shape[1]
    plan = scenario.plan(data.class_names, streams)
    made = learner(model=model, in_channels=channels, training=training, streams=streams, device=where)
    made.check([len(classes) for classes in plan])
    images = data.train.labels.bincount(minlength=len(data.class_names)).tolist()
    made.check_images([[images[c] for c in classes] for classes in plan])
    trained = plan[:1] if made.first_is_shortest else plan
    training.check_warmup([sum(images[c] for c in classes) for classes in trained])
    if "test_images" in made.permissions and not evaluate_test:
        raise UserError(
            "learner.idc.target=as_released trains on test images, but evaluate_test=false keeps them "
            "out of reach (as a sweep's first phase does); expected another target."
        )
    splits = {"val": data.val} | ({"test": data.test} if evaluate_test else {})
    return Setup(data, plan, made, {split: Evaluator(part, plan, where) for split, part in splits.items()})


@dataclass
class RunSession:
    """One start of a run: its clock, memory and record so far, its checkpoint, and who is informed.

    Holds no image, because a learner may reach it. Of the workers of a run, the main one alone writes files.

    Attributes:
        seconds, peak_bytes: per phase. phase_began: when the present phase started, in this process.
        record: what result.json has of each task. result: the whole of it, at the end.
        fixed: the part of a checkpoint that does not change while a task is learned.
        forecast: estimates the time that is left.
        earlier: what result.json says of earlier starts. start: the same of this one.
    """

    folder: Path
    device: torch.device
    trackers: Trackers
    checkpoints: Checkpoints
    on_checkpoint: Callable[[], None]
    on_task_end: Callable[[TaskEnd], None]
    writes: bool = field(default_factory=lambda: ProcessGroup.current().is_main)
    started: float = field(default_factory=time.monotonic)
    phase_began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    record: dict[str, list[Any]] = field(default_factory=lambda: {"impressions_sha256": [], "stored_after_task": []})
    fixed: State = field(default_factory=dict)
    result: dict[str, Any] | None = None
    forecast: Forecast | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start, self.start_began = this_start(self.device), time.monotonic()

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the seconds and the peak memory of what runs inside to `phase`."""
        reset_peak_memory(self.device)
        self.phase_began = time.monotonic()
        yield
        self.seconds = self.seconds_in(phase)
        self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), peak_memory(self.device))

    def seconds_in(self, phase: str) -> dict[str, float]:
        """`seconds`, with those of the present phase."""
        return self.seconds | {phase: self.seconds.get(phase, 0.0) + time.monotonic() - self.phase_began}

    def total(self) -> float:
        """Seconds of work on this run, over all its starts."""
        return time.monotonic() - self.started

    def starts(self) -> list[dict[str, Any]]:
        """Every start of this run, each with its seconds up to its last checkpoint, this one's up to now."""
        return [*self.earlier, self.start | {"seconds": time.monotonic() - self.start_began}]

    def stages(self, task: int, saved: State | None) -> Stages:
        """The stages of a task, which log, take the time, and save checkpoints here."""

        def log(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            left = self.forecast.progress(phase, step, steps) if self.forecast is not None else None
            first_guess = self.forecast is not None and not self.forecast.n_done
            self.trackers.progress(Progress(task, phase, step, steps, values, left, first_guess))

        return Stages(saved, lambda: self.writes and self.checkpoints.due(), self.save, log, self.clock)

    def keep(self, setup: Setup, tasks_done: int) -> None:
        """Take what a checkpoint holds from the learner and the evaluators, between two tasks."""
        self.fixed = {
            "schema": SCHEMA,
            "data": setup.data.checksum,
            "device": self.device.type,
            "tasks_done": tasks_done,
            "learner": copy.deepcopy(setup.learner.state_dict()),
            "evaluators": {split: evaluator.state_dict() for split, evaluator in setup.evaluators.items()},
            "record": copy.deepcopy(self.record),
        }

    def save(self, stages: State | None) -> None:
        """Write the checkpoint: `fixed`, the task's own part, and what was spent."""
        if self.writes:
            seconds = self.seconds if stages is None else self.seconds_in(stages["name"])
            spent = {"seconds": seconds, "total_seconds": self.total(), "peak_bytes": self.peak_bytes}
            spent["starts"] = self.starts()
            self.checkpoints.save(self.fixed | spent | {"stages": stages, "lines": self.trackers.files.lines})
            self.on_checkpoint()

    def load(self, saved: State, setup: Setup) -> int:
        """Continue from a checkpoint (UserError if it does not fit); returns how many lines of metrics.jsonl it has."""
        begun, device, path = f"{self.folder} was begun", self.device.type, self.checkpoints.path
        if isinstance(saved, dict) and "record" not in saved and "tasks_done" in saved:
            raise UserError(f"{begun} by an earlier version of ccsi; choose another run_dir.")
        saved = check_fields(saved, path)
        if saved["data"] != setup.data.checksum:
            raise UserError(f"{begun} on other images (their checksum differs); choose another run_dir.")
        if saved["device"] != device:
            problem = f"on device={saved['device']}, not {device}; resume it there, or choose another run_dir."
            raise UserError(f"{begun} {problem}")
        check_tasks(saved, len(setup.plan), path)
        setup.learner.load_state_dict(saved["learner"])
        check_saved(saved["evaluators"], dict.fromkeys(setup.evaluators), "the evaluators")
        for split, evaluator in setup.evaluators.items():
            evaluator.load_state_dict(saved["evaluators"][split])
        self.seconds, self.peak_bytes = saved["seconds"], saved["peak_bytes"]
        self.record = saved["record"]
        self.started -= saved["total_seconds"]
        # a version that did not record starts began it: one entry stands for all of them
        unknown = dict.fromkeys(self.start) | {"seconds": saved["total_seconds"]}
        self.earlier = saved.get("starts", [unknown])
        return int(saved["lines"])


def learn_all(setup: Setup, session: RunSession, saved: State | None, start: int = 0) -> None:
    """Learn and evaluate every task that is not in the checkpoint `saved`, from which `session` continues.

    start: how many tasks the learner has learned already, of which there are no images.
    """
    data, plan, learner = setup.data, setup.plan, setup.learner
    done, stages_saved = (saved["tasks_done"], saved["stages"]) if saved is not None else (start, None)
    if done > start:  # again: the driver may have died before it received the event
        session.on_task_end(task_end(done - 1, setup, session, None))
    # a checkpoint inside a task has the learner's state at the start of the task, and the task's stages
    session.keep(setup, done)
    sizes = task_sizes(data, plan, "all_tasks" in learner.permissions, list(setup.evaluators))
    forecast = session.forecast = Forecast(sizes, learner)
    probes = session.trackers.shows_time and ProcessGroup.current().world_size == 1
    if probes and done < len(plan):
        forecast.probe(learner, done, data.train.images.shape[1:])
    for task in make_tasks(data.train, data.val, plan, session.device, done, "all_tasks" in learner.permissions):
        for permission, pool in (("unlabeled_pool", data.val), ("test_images", data.test)):
            if permission in learner.permissions:
                seen = [c for classes in plan[: task.index + 1] for c in classes]
                task = dataclasses.replace(task, unlabeled=take(pool, seen, 0, session.device).images)
        spent = dict(session.seconds)
        forecast.start_task(task.index, whole=stages_saved is None)
        learner.learn(task, session.stages(task.index, stages_saved))
        stages_saved = None
        impressions = write_impressions(session, task.index, learner)
        session.record["stored_after_task"].append([dataclasses.asdict(item) for item in learner.stored()])
        with session.clock("evaluation"):
            for evaluator in setup.evaluators.values():
                evaluator(learner)
        # before the checkpoint, after which none is scored again
        if session.writes and setup.evaluators and task.index + 1 == len(plan):
            write_predictions(session.folder, data, setup.evaluators)
        took = {phase: seconds - spent.get(phase, 0.0) for phase, seconds in session.seconds.items()}
        scoring = took.pop("evaluation")
        forecast.end_task({phase: seconds for phase, seconds in took.items() if seconds}, scoring)
        if probes and task.index == 0 and len(plan) > 1:  # again, on the net as it is now
            forecast.probe(learner, 1, data.train.images.shape[1:])
        event = task_end(task.index, setup, session, impressions)
        session.trackers.task_end(event)
        session.keep(setup, task.index + 1)
        session.save(None)
        session.on_task_end(event)


def task_end(index: int, setup: Setup, session: RunSession, impressions: Path | None) -> TaskEnd:
    """The event that trackers and drivers receive after a task."""
    values = {f"{split}_{name}": own[name] for split, own in setup.figures().items() for name in metrics.SCALARS}
    confusion = {split: evaluator.confusions[-1] for split, evaluator in setup.evaluators.items()}
    stored = session.record["stored_after_task"][-1]
    left = session.forecast.left(index + 1) if session.forecast is not None else None
    figures = {"seconds": session.total()} | values
    return TaskEnd(index, len(setup.plan), figures, confusion, impressions, stored, left)


def write_impressions(session: RunSession, index: int, learner: NetLearner) -> Path | None:
    """Write this task's impressions, and the class means, to the run's folder, and their SHA-256 into the record."""
    memory = getattr(learner, "memory", None)
    if session.writes and memory is not None and len(memory.means):
        save_arrays(session.folder / "class_means.npz", images=memory.means)
    impressions: Labelled | None = getattr(learner, "impressions", None)
    if impressions is None:
        return None
    tensors = {"images": impressions.images, "labels": impressions.labels}
    session.record["impressions_sha256"].append(sha256_of(tensors))
    path = session.folder / "impressions" / f"task{index + 1}.npz"
    if session.writes:
        save_arrays(path, **tensors)
    return path


def save_arrays(path: Path, **tensors: Tensor) -> None:
    """Write a compressed .npz, whole or not at all."""
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made ({error.strerror}); expected a folder of the run.") from error
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{key: value.cpu().numpy() for key, value in tensors.items()})
    write_atomically(path, buffer.getvalue())
