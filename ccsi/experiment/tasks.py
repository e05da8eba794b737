"""A run sets up its parts, and learns and evaluates task after task; every step can be resumed from the checkpoint."""

import copy
import dataclasses
import io
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccsi.data import Dataset, Labelled, Scenario, Source, opened
from ccsi.data.scenario import make_tasks, take
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.evaluation import Evaluator, metrics
from ccsi.experiment.checkpoint import Checkpoints, State, sha256_of
from ccsi.experiment.environment import commit, peak_memory, reset_peak_memory
from ccsi.io.atomic import write_atomically
from ccsi.learners import NetLearner
from ccsi.learners.base import ModelFactory
from ccsi.rng import Streams
from ccsi.stage import Stages
from ccsi.tracking import Progress, TaskEnd, Trackers
from ccsi.tracking.trackers import NullTrackers
from ccsi.training import Training

Evaluators = Mapping[str, Evaluator]


class LearnerFactory(Protocol):
    """A configured learner, still without what a run gives it."""

    def __call__(
        self, *, model: ModelFactory, in_channels: int, training: Training, streams: Streams, device: torch.device
    ) -> NetLearner: ...


@dataclass(frozen=True)
class Setup:
    """A data set, the classes of each task (original labels), and the learner."""

    data: Dataset
    plan: list[list[int]]
    learner: NetLearner

    @property
    def order(self) -> list[int]:
        """Original classes in the order in which they are learned."""
        return [c for classes in self.plan for c in classes]


def read_data(dataset: Source, share_data: str | None) -> Dataset:
    """The data set; through the folder `share_data`, if any, in one copy for all runs of a machine."""
    return opened(dataset, Path(share_data).expanduser().absolute() if share_data is not None else None)


def set_up(
    data: Dataset,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    evaluate_test: bool,
    streams: Streams,
    device: torch.device,
) -> Setup:
    """Plan the tasks and make the learner.

    Raises:
        UserError: the parts do not fit together, or another worker of this run has other images.
    """
    if data.checksum != ProcessGroup.current().broadcast_object(data.checksum):
        raise UserError(
            f"the images on {platform.node()} are not those of the other workers (their checksum differs); "
            "dataset.path and $CCSI_DATA must hold the same on all machines."
        )
    plan = scenario.plan(len(data.class_names), streams)
    channels = data.train.images.shape[1]
    made = learner(model=model, in_channels=channels, training=training, streams=streams, device=device)
    made.check([len(classes) for classes in plan])
    if "test_images" in made.permissions and not evaluate_test:
        raise UserError(
            "learner.idc.target=as_released trains on test images, but evaluate_test=false keeps them "
            "out of reach (as a sweep's first phase does); expected another target."
        )
    return Setup(data, plan, made)


class RunSession:
    """One start of a run: its clock, memory and record so far, its checkpoint, and who is informed.

    Holds no image, because a learner may reach it. Of the workers of a run, the main one alone writes files.

    Args:
        trackers: receive events in the main process. every: seconds between checkpoints inside a stage.
        on_checkpoint: called after each checkpoint. on_task_end: called after each task's checkpoint.

    Attributes:
        fixed: the part of a checkpoint that does not change while a task is learned.
        record: `impressions_sha256` of each task that made some, `stored_after_task`: what was kept after each.
        seconds, peak_bytes: per phase.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        trackers: Trackers,
        every: float,
        on_checkpoint: Callable[[], None] | None,
        on_task_end: Callable[[TaskEnd], None] | None,
    ) -> None:
        self.started = time.monotonic()
        self.commit = commit()
        self.writes = ProcessGroup.current().is_main
        self.folder, self.device = folder, device
        self.trackers = trackers if self.writes else NullTrackers()
        self.checkpoints = Checkpoints(folder, every)
        self.on_checkpoint = on_checkpoint or (lambda: None)
        self.on_task_end = on_task_end or (lambda event: None)
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self.fixed: State = {}
        self.record: dict[str, list[Any]] = {"impressions_sha256": [], "stored_after_task": []}
        self.running: tuple[str, float] | None = None
        self.result: dict[str, Any] | None = None

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the seconds and the peak memory of what runs inside to `phase`."""
        reset_peak_memory(self.device)
        self.running = (phase, time.monotonic())
        try:
            yield
        finally:
            self.seconds = self.seconds_now()
            self.running = None
            self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), peak_memory(self.device))

    def seconds_now(self) -> dict[str, float]:
        """Seconds per phase, over all starts of this run."""
        seconds = dict(self.seconds)
        if self.running is not None:
            phase, began = self.running
            seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - began
        return seconds

    def total(self) -> float:
        """Seconds of work on this run, over all its starts."""
        return time.monotonic() - self.started

    def stages(self, task: int, saved: State | None) -> Stages:
        """The stages of a task, which log, take the time, and save checkpoints here."""

        def log(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            self.trackers.progress(Progress(task, phase, step, steps, values))

        return Stages(saved, lambda: self.writes and self.checkpoints.due(), self.save, log, self.clock)

    def keep(self, setup: Setup, evaluators: Evaluators, tasks_done: int) -> None:
        """Take what a checkpoint holds from the learner and the evaluators, between two tasks."""
        self.fixed = {
            "data": setup.data.checksum,
            "device": self.device.type,
            "tasks_done": tasks_done,
            "learner": copy.deepcopy(setup.learner.state_dict()),
            "evaluators": {split: evaluator.state_dict() for split, evaluator in evaluators.items()},
            "record": copy.deepcopy(self.record),
        }

    def save(self, stages: State | None) -> None:
        """Write the checkpoint: `fixed`, the task's own part, and what was spent."""
        if not self.writes:
            return
        spent = {"seconds": self.seconds_now(), "total_seconds": self.total(), "peak_bytes": dict(self.peak_bytes)}
        self.checkpoints.save(self.fixed | spent | {"stages": stages, "lines": self.trackers.files.lines})
        self.on_checkpoint()

    def load(self, state: State) -> None:
        """Continue the counts from where `state` was saved."""
        self.seconds, self.peak_bytes = dict(state["seconds"]), dict(state["peak_bytes"])
        self.record = copy.deepcopy(state["record"])
        self.started -= state["total_seconds"]


def check_state(saved: State | None, checksum: str, session: RunSession) -> None:
    """Raise UserError for a checkpoint of other images, another kind of device, or too old a version."""
    if saved is None:
        return
    if saved["data"] != checksum:
        raise UserError(f"{session.folder} was begun on other images (their checksum differs); choose another run_dir.")
    if saved["device"] != session.device.type:
        raise UserError(
            f"{session.folder} was begun on device={saved['device']}, not {session.device.type}; "
            "resume it there, or choose another run_dir."
        )
    if "record" not in saved:
        raise UserError(f"{session.folder} was begun by an earlier version of ccsi; choose another run_dir.")


def learn_all(setup: Setup, evaluate_test: bool, session: RunSession, saved: State | None) -> dict[str, Evaluator]:
    """Learn and evaluate every task that is not in `saved`; returns the evaluators, `val` and maybe `test`."""
    data, plan, learner = setup.data, setup.plan, setup.learner
    evaluators = {"val": Evaluator(data.val, plan, session.device)}
    if evaluate_test:
        evaluators["test"] = Evaluator(data.test, plan, session.device)
    done, stages_saved = 0, None
    if saved is not None:
        done, stages_saved = saved["tasks_done"], saved["stages"]
        learner.load_state_dict(saved["learner"])
        for split, evaluator in evaluators.items():
            evaluator.load_state_dict(saved["evaluators"][split])
        session.load(saved)
        if done:  # again: the driver may have died before it received the event
            session.on_task_end(task_end(done - 1, len(plan), evaluators, session, None))
    for task in make_tasks(data.train, data.val, plan, session.device, done, "all_tasks" in learner.permissions):
        for permission, pool in (("unlabeled_pool", data.val), ("test_images", data.test)):
            if permission in learner.permissions:
                seen = [c for classes in plan[: task.index + 1] for c in classes]
                task = dataclasses.replace(task, unlabeled=take(pool, seen, 0, session.device).images)
        # the learner's state at the start of its task: stages begun later are part of the checkpoint themselves
        session.keep(setup, evaluators, task.index)
        learner.learn(task, session.stages(task.index, stages_saved))
        stages_saved = None
        impressions = write_impressions(session, task.index, learner)
        session.record["stored_after_task"].append([dataclasses.asdict(item) for item in learner.stored()])
        with session.clock("evaluation"):
            for evaluator in evaluators.values():
                evaluator(learner)
        event = task_end(task.index, len(plan), evaluators, session, impressions)
        session.trackers.task_end(event)
        session.keep(setup, evaluators, task.index + 1)
        session.save(None)
        session.on_task_end(event)
    return evaluators


def task_end(index: int, tasks: int, evaluators: Evaluators, session: RunSession, impressions: Path | None) -> TaskEnd:
    """The event that trackers and drivers receive after a task."""
    figures = {split: evaluator.figures() for split, evaluator in evaluators.items()}
    values = {f"{split}_{name}": found[name] for split, found in figures.items() for name in metrics.SCALARS}
    confusion = {split: evaluator.confusions[-1] for split, evaluator in evaluators.items()}
    stored = session.record["stored_after_task"][-1]
    return TaskEnd(index, tasks, {"seconds": session.total()} | values, confusion, impressions, stored)


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
        path.parent.mkdir(exist_ok=True)
        save_arrays(path, **tensors)
    return path


def save_arrays(path: Path, **tensors: Tensor) -> None:
    """A compressed .npz, whole or absent."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{key: value.cpu().numpy() for key, value in tensors.items()})
    write_atomically(path, buffer.getvalue())
