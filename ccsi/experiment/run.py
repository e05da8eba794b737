"""The spine: one run, from a data set and a learner to a folder of results. Every driver calls `run`."""

import copy
import dataclasses
import io
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ccsi.checks import NonNegative, NonNegativeInt, PositiveInt
from ccsi.data import Dataset, Labelled, Scenario, Source, opened
from ccsi.data.scenario import make_tasks, relabelled, take
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.evaluation import Evaluator, metrics
from ccsi.experiment.checkpoint import Checkpoints, sha256_of
from ccsi.experiment.folder import check_run_dir, default_run_dir, lock_run_dir, write_config
from ccsi.io.atomic import write_atomically
from ccsi.learners import Learner, Stored
from ccsi.learners.base import ModelFactory
from ccsi.rng import Streams
from ccsi.stage import Stages
from ccsi.tracking import NullTrackers, Progress, RunStart, TaskEnd, Tracker, Trackers
from ccsi.training import Training

PROTOCOLS = {
    "all_tasks": "joint training on the images of all tasks (upper bound)",
    "unlabeled_pool": "transductive: uses unlabelled val images of all classes seen",
    "test_images": "leaks unlabelled test images into training (only to measure the leak)",
}
"""What a permission means for the figures it was used for."""


class LearnerFactory(Protocol):
    """A configured learner, still without what a run gives it."""

    def __call__(
        self, *, model: ModelFactory, in_channels: int, training: Training, streams: Streams, device: torch.device
    ) -> Learner: ...


@dataclass(frozen=True)
class RunResult:
    """A finished run. folder: where its files are; figures: the content of result.json."""

    folder: Path
    figures: dict[str, Any]


def run(
    *,
    dataset: Source,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    tracking: Trackers,
    name: str,
    seed: NonNegativeInt = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: PositiveInt = 1,
    workers: PositiveInt = 1,
    run_dir: str | None = None,
    evaluate_test: bool = True,
    report: bool = True,
    checkpoint_every: NonNegative = 60.0,
    share_data: str | None = None,
    config: Mapping[str, Any] | None = None,
    on_task_end: Callable[[TaskEnd], None] | None = None,
    on_checkpoint: Callable[[], None] | None = None,
    watch: Tracker | None = None,
) -> RunResult:
    """Learn task after task, evaluate after each, and leave everything in the run's folder.

    The same call with the same `run_dir` goes on where the last one was interrupted, to the same bits.

    Args:
        name: short, for tables and trackers. threads: CPU threads of torch; part of the configuration,
            because sums over threads differ in their last bits. workers: processes that share the run, each with
            so many threads (see `ccsi.distributed`); this is called in each of them, and the leader writes the files.
        run_dir: the run's folder; None: runs/<name>-s<seed>-<hash of the settings>.
        evaluate_test: False keeps test out of reach (tuning).
        report: draw pictures at the end (they may show a few real images of the data).
        checkpoint_every: seconds between checkpoints inside a stage.
        share_data: a folder through which the runs of a machine share one copy of the images, on disk and in memory
            (see `ccsi.data.opened`); None: a private copy.
        config: the resolved configuration, for the record. on_task_end: called after each task's checkpoint,
            and again when a run goes on; on_checkpoint: after each.
        watch: one more tracker.

    Raises:
        UserError: settings that do not fit together, a folder that holds something else. Nothing is written.
    """
    started = time.monotonic()
    group = ProcessGroup.current()
    if workers != group.world_size:
        raise UserError(
            f"workers={workers}, but here {'is' if group.world_size == 1 else 'are'} {group.world_size}: "
            "a run of several workers is started by python tune/train.py workers=…"
        )
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # NumPy's and scikit-learn's, whatever the environment said when they were imported
    where = torch_device(device)
    if where.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = False  # float32 shall be float32; bfloat16 is a setting
    streams = Streams(seed)
    settings = dict(config or {})
    folder = default_run_dir(run_dir, name, seed, settings)
    group.on_main(lambda: check_run_dir(folder, settings))  # before the data is read, which may take long
    code = commit()
    data, plan, method = group.on_all(
        lambda: prepared(dataset, scenario, model, learner, training, evaluate_test, share_data, streams, where)
    )
    group.on_all(lambda: same_on_all(group.broadcast_object(data.checksum), data.checksum))
    if not group.is_main:
        tracking = NullTrackers()
    tracking.watch = watch
    with ExitStack() as stack:
        saved = group.on_main(lambda: stack.enter_context(lock_run_dir(folder, settings)))
        if saved is not None and saved["data"] != data.checksum:
            raise UserError(f"{folder} was begun on other images (their checksum differs); choose another run_dir.")
        if saved is not None and saved["device"] != where.type:
            raise UserError(
                f"{folder} was begun on device={saved['device']}, not {where.type}; "
                "go on there, or choose another run_dir."
            )
        if saved is not None and "record" not in saved:
            raise UserError(f"{folder} was begun by an earlier version of ccsi; choose another run_dir.")
        evaluators = {"val": Evaluator(data.val, plan, where)}
        if evaluate_test:
            evaluators["test"] = Evaluator(data.test, plan, where)
        order = [c for classes in plan for c in classes]
        session = RunSession(folder, tracking, checkpoint_every, where, started, group.is_main, on_checkpoint)
        if group.is_main:
            write_config(folder, settings)
        result: dict[str, Any] | None = None
        try:
            names = tuple(tuple(data.class_names[c] for c in classes) for classes in plan)
            start = RunStart(f"{name}-s{seed}", folder, settings, names, saved["lines"] if saved else 0)
            group.on_main(lambda: tracking.start(start))
            record = learn_all(data, plan, method, evaluators, session, folder, saved, on_task_end)
            figures = {
                "schema": 1,
                "name": f"{name}-s{seed}",
                "dataset": {
                    "name": data.name,
                    "checksum": data.checksum,
                    "class_names": [data.class_names[c] for c in order],
                    "train": len(data.train),
                    "val": len(data.val),
                    "test": len(data.test),
                },
                "scenario": {"class_order": order, "classes_per_task": [len(classes) for classes in plan]},
                "seed": seed,
                **outcome(method, evaluators),
                **record,
                "seconds": session.seconds | {"total": session.total()},
                "peak_memory_bytes": session.peak_bytes,
                "threads": threads,
                "workers": workers,
                "device": device_name(where),
                "versions": {"python": platform.python_version()}
                | {package: version(package) for package in ("torch", "torchvision", "numpy")},
                "commit": code,
            }
            figures = finite(figures)
            if report and group.is_main:
                draw(folder, figures, data.train, order)
            if group.is_main:  # last: a run that has it is finished
                write_atomically(folder / "result.json", json.dumps(figures, indent=1, allow_nan=False).encode())
            result = figures
        finally:
            tracking.finish(result)
    return RunResult(folder, result)


def prepared(
    dataset: Source,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    evaluate_test: bool,
    share_data: str | None,
    streams: Streams,
    device: torch.device,
) -> tuple[Dataset, list[list[int]], Learner]:
    """The data, the classes of each task and the learner, which fit together.

    Raises:
        UserError: they do not.
    """
    data = opened(dataset, Path(share_data).expanduser().absolute() if share_data is not None else None)
    plan = scenario.plan(len(data.class_names), streams)
    channels = data.train.images.shape[1]
    method = learner(model=model, in_channels=channels, training=training, streams=streams, device=device)
    method.check([len(classes) for classes in plan])
    if "test_images" in method.permissions and not evaluate_test:
        raise UserError(
            "learner.idc.target=as_released trains on test images, but evaluate_test=false keeps them "
            "out of reach (as a sweep's first phase does); expected another target."
        )
    return data, plan, method


def same_on_all(leaders: str, mine: str) -> None:
    """UserError unless this worker's images are the leader's."""
    if mine != leaders:
        raise UserError(
            f"the images on {platform.node()} are not those of the other workers (their checksum differs); "
            "dataset.path and $CCSI_DATA must hold the same on all machines."
        )


def validate(
    *,
    dataset: Source,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    evaluate_test: bool = True,
    share_data: str | None = None,
    **others: Any,
) -> None:
    """What `run` does before it writes to its folder, on the CPU: lets a sweep find bad input before its first trial.

    What the runs share (`share_data`) is there afterwards.

    Raises:
        UserError: as `run`, for settings that do not fit the data or each other.
    """
    streams, device = Streams(0), torch.device("cpu")
    prepared(dataset, scenario, model, learner, training, evaluate_test, share_data, streams, device)


class RunSession:
    """What a run did and cost so far, and its checkpoint. Holds no image: a learner may reach it.

    Of several workers, only the one that `writes` saves checkpoints.

    Attributes:
        fixed: the part of a checkpoint that does not change while a task is learned.
        seconds, peak_bytes: per phase.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Trackers,
        every: float,
        device: torch.device,
        started: float,
        writes: bool,
        on_checkpoint: Callable[[], None] | None,
    ) -> None:
        self.checkpoints, self.trackers, self.device = Checkpoints(folder, every), trackers, device
        self.writes, self.on_checkpoint = writes, on_checkpoint
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self.fixed: dict[str, Any] = {}
        self.started = started
        self.running: tuple[str, float] | None = None

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the seconds and the peak memory of what runs inside to `phase`."""
        forget_peak_memory(self.device)
        self.running = (phase, time.monotonic())
        try:
            yield
        finally:
            self.seconds = self.seconds_now()
            self.running = None
            self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), peak_memory(self.device))

    def seconds_now(self) -> dict[str, float]:
        """Seconds per phase, and in `total`, over all starts of this run."""
        seconds = dict(self.seconds)
        if self.running is not None:
            phase, began = self.running
            seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - began
        return seconds

    def total(self) -> float:
        """Seconds of work on this run so far, over all its starts."""
        return time.monotonic() - self.started

    def stages(self, task: int, saved: dict[str, Any] | None) -> Stages:
        """The stages of a task, which log, take the time, and save checkpoints here."""

        def due() -> bool:
            return self.writes and self.checkpoints.due()

        def log(phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
            self.trackers.progress(Progress(task, phase, step, steps, values))

        return Stages(saved, due, self.save, log, self.clock)

    def save(self, stages: dict[str, Any] | None) -> None:
        """Write the checkpoint: `fixed`, the task's own part, and what was spent."""
        if not self.writes:
            return
        spent = {"seconds": self.seconds_now(), "total_seconds": self.total(), "peak_bytes": dict(self.peak_bytes)}
        self.checkpoints.save(self.fixed | spent | {"stages": stages, "lines": self.trackers.files.lines})
        if self.on_checkpoint is not None:
            self.on_checkpoint()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on counting where `state` was saved."""
        self.seconds, self.peak_bytes = dict(state["seconds"]), dict(state["peak_bytes"])
        self.started -= state["total_seconds"]


def learn_all(
    data: Dataset,
    plan: list[list[int]],
    learner: Learner,
    evaluators: Mapping[str, Evaluator],
    session: RunSession,
    folder: Path,
    saved: Mapping[str, Any] | None,
    on_task_end: Callable[[TaskEnd], None] | None,
) -> dict[str, list[Any]]:
    """Learn and evaluate every task not yet done.

    Returns:
        `impressions_sha256` of each task that made some, and `stored_after_task`: what was kept after each.
    """
    done, stages_saved, record = 0, None, {"impressions_sha256": list[Any](), "stored_after_task": list[Any]()}
    if saved is not None:
        done, stages_saved, record = saved["tasks_done"], saved["stages"], copy.deepcopy(saved["record"])
        learner.load_state_dict(saved["learner"])
        for split, evaluator in evaluators.items():
            evaluator.load_state_dict(saved["evaluators"][split])
        session.load(saved)
        if done and on_task_end is not None:  # whoever was told may not have heard it
            on_task_end(task_end(done - 1, len(plan), evaluators, session, record["stored_after_task"][-1], None))
    everything = "all_tasks" in learner.permissions
    for task in make_tasks(data.train, data.val, plan, session.device, done, everything):
        for permission, pool in (("unlabeled_pool", data.val), ("test_images", data.test)):
            if permission in learner.permissions:
                seen = [c for classes in plan[: task.index + 1] for c in classes]
                task = dataclasses.replace(task, unlabeled=take(pool, seen, 0, session.device).images)
        # the learner's state at the start of its task: stages begun later are part of the checkpoint themselves
        before = copy.deepcopy(learner.state_dict())
        session.fixed = run_state(data, session.device, task.index, before, evaluators, record)
        learner.learn(task, session.stages(task.index, stages_saved))
        stages_saved = None
        impressions = keep_impressions(folder, task.index, learner, record["impressions_sha256"])
        record["stored_after_task"].append([dataclasses.asdict(item) for item in learner.stored()])
        with session.clock("evaluation"):
            for evaluator in evaluators.values():
                evaluator(learner)
        event = task_end(task.index, len(plan), evaluators, session, record["stored_after_task"][-1], impressions)
        session.trackers.task_end(event)
        session.fixed = run_state(data, session.device, task.index + 1, learner.state_dict(), evaluators, record)
        session.save(None)
        if on_task_end is not None:
            on_task_end(event)
    return record


def run_state(
    data: Dataset,
    device: torch.device,
    tasks_done: int,
    learner: dict[str, Any],
    evaluators: Mapping[str, Evaluator],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of a checkpoint that stays the same while a task is learned."""
    return {
        "data": data.checksum,
        "device": device.type,
        "tasks_done": tasks_done,
        "learner": learner,
        "evaluators": {split: evaluator.state_dict() for split, evaluator in evaluators.items()},
        "record": copy.deepcopy(record),
    }


def keep_impressions(folder: Path, index: int, learner: Learner, made: list[str]) -> Path | None:
    """Write this task's impressions, and the class means, to the run's folder; notes their SHA-256 in `made`."""
    memory = getattr(learner, "memory", None)
    leads = ProcessGroup.current().is_main
    if leads and memory is not None and len(memory.means):
        save_arrays(folder / "class_means.npz", images=memory.means)
    impressions: Labelled | None = getattr(learner, "impressions", None)
    if impressions is None:
        return None
    made.append(sha256_of({"images": impressions.images, "labels": impressions.labels}))
    path = folder / "impressions" / f"task{index + 1}.npz"
    if leads:
        path.parent.mkdir(exist_ok=True)
        save_arrays(path, images=impressions.images, labels=impressions.labels)
    return path


def task_end(
    index: int,
    tasks: int,
    evaluators: Mapping[str, Evaluator],
    session: RunSession,
    stored: list[dict[str, Any]],
    impressions: Path | None,
) -> TaskEnd:
    """What is told to trackers and drivers after a task."""
    values = {"seconds": session.total()}
    for split, evaluator in evaluators.items():
        now = evaluator.figures()
        values[f"{split}_micro"] = now["final_accuracy_micro"]
        values[f"{split}_macro"] = now["final_accuracy_macro"]
        values[f"{split}_average_incremental"] = now["average_incremental_accuracy"]
        values[f"{split}_forgetting"] = now["forgetting"]
    confusion = {split: evaluator.confusions[-1] for split, evaluator in evaluators.items()}
    return TaskEnd(index, tasks, values, confusion, impressions, stored)


def outcome(learner: Learner, evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """What result.json says about the learner and its figures."""
    stored: list[Stored] = learner.stored()
    weights = dict(learner.weights())
    exemplars = any(item.kind == "exemplars" for item in stored)
    protocol = "; ".join(PROTOCOLS[p] for p in learner.permissions) or ("exemplar replay" if exemplars else "data-free")
    test = evaluators["test"].figures() if "test" in evaluators else dict(metrics.EMPTY)
    return {
        "learner": learner.name,
        "kind": learner.kind,
        "data_free": not learner.permissions and not exemplars,
        "permissions": list(learner.permissions),
        "protocol": protocol,
        **test,
        "val": evaluators["val"].figures(),
        "stored": [dataclasses.asdict(item) for item in stored],
        "weights_sha256": sha256_of(weights),
        "parameters": sum(value.numel() for key, value in weights.items() if "running_" not in key),
    }


def save_arrays(path: Path, **tensors: Tensor) -> None:
    """A compressed .npz, whole or absent."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{key: value.cpu().numpy() for key, value in tensors.items()})
    write_atomically(path, buffer.getvalue())


def finite(value: Any) -> Any:
    """`value` with null for every number that JSON has no word for (the AUC of a single class)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(folder: Path, result: Mapping[str, Any], train: Labelled, order: list[int]) -> None:
    """The run's pictures, with a few images of `train` (original labels) beside the impressions."""
    from ccsi.report.run import draw_run  # matplotlib takes a second to import; most sweeps' trials do not draw

    draw_run(folder, result, Labelled(train.images, relabelled(train.labels, order, 0)))


def torch_device(wanted: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        UserError: `cuda` where there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: this machine has no CUDA GPU that torch can use; expected device=cpu or auto.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What figures are reported with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}"


def forget_peak_memory(device: torch.device) -> None:
    """Begin to measure `peak_memory` anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux; elsewhere the peak is the process's since its start
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes, the largest since `forget_peak_memory`: the GPU's allocations, on a CPU the process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def commit() -> str | None:
    """The checkout's commit, with `+` if files differ from it; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # installed: a repository further up would be somebody else's
        return None
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
