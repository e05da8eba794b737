"""The spine: one run, from a data set and a learner to a folder of results. Every driver calls `run`."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ccsi.checks import NonNegative, NonNegativeInt, PositiveInt
from ccsi.data import Labelled, Scenario, Source
from ccsi.data.scenario import relabelled
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.experiment.environment import DeviceName, set_up_torch
from ccsi.experiment.folder import check_run_dir, default_run_dir, lock_run_dir
from ccsi.experiment.record import result_of
from ccsi.experiment.tasks import LearnerFactory, RunSession, Setup, check_state, learn_all, read_data, set_up
from ccsi.io.atomic import write_atomically
from ccsi.io.run_files import RESULT
from ccsi.learners.base import ModelFactory
from ccsi.rng import Streams
from ccsi.tracking import RunStart, TaskEnd, Tracker, Trackers
from ccsi.training import Training


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
    device: DeviceName = "auto",
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

    The same call with the same `run_dir` resumes where the last one was interrupted, to the same bits. The settings are
    described in configs/config.yaml. With several workers, this is called in each of them (see `ccsi.distributed`).

    Args:
        share_data: a folder through which the runs of a machine share one copy of the images (`ccsi.data.opened`).
        config: the resolved configuration, for the record. watch: one more tracker.
        on_task_end: called after each task's checkpoint, and again after a resume. on_checkpoint: after each.

    Raises:
        UserError: settings that do not fit together, a folder that holds something else. Nothing is written.
    """
    group, settings = ProcessGroup.current(), dict(config or {})
    check_workers(workers, group.world_size)
    where = set_up_torch(device, threads)
    folder = default_run_dir(run_dir, name, seed, settings)
    tracking.watch = watch
    session = RunSession(folder, where, tracking, checkpoint_every, on_checkpoint, on_task_end)
    group.on_main(lambda: check_run_dir(folder, settings))  # before the data is read, which may take long
    data = group.on_all(lambda: read_data(dataset, share_data))
    setup = group.on_all(lambda: set_up(data, scenario, model, learner, training, evaluate_test, Streams(seed), where))
    figures = run_in_folder(setup, session, settings, name, seed, evaluate_test, report)
    return RunResult(folder, figures)


def run_in_folder(
    setup: Setup, session: RunSession, settings: dict[str, Any], name: str, seed: int, evaluate_test: bool, report: bool
) -> dict[str, Any]:
    """`run`, once everything is set up: from the locked folder to result.json, whose content is returned."""
    group, folder = ProcessGroup.current(), session.folder
    with ExitStack() as stack:
        saved = group.on_main(lambda: stack.enter_context(lock_run_dir(folder, settings)))
        check_state(saved, setup.data.checksum, session)
        stack.callback(lambda: session.trackers.finish(session.result))
        names = tuple(tuple(setup.data.class_names[c] for c in classes) for classes in setup.plan)
        start = RunStart(f"{name}-s{seed}", folder, settings, names, saved["lines"] if saved else 0)
        group.on_main(lambda: session.trackers.start(start))
        evaluators = learn_all(setup, evaluate_test, session, saved)
        result = result_of(setup, evaluators, session, name, seed)
        if report and session.writes:
            draw(folder, result, setup)
        if session.writes:  # last: a run that has it is finished
            write_atomically(folder / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
        session.result = result
    return result


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
    data = read_data(dataset, share_data)
    set_up(data, scenario, model, learner, training, evaluate_test, Streams(0), torch.device("cpu"))


def check_workers(wanted: int, here: int) -> None:
    """Raise UserError unless as many workers as wanted share this run."""
    if wanted != here:
        raise UserError(
            f"workers={wanted}, but here {'is' if here == 1 else 'are'} {here}: "
            "a run of several workers is started by ccsi train workers=…"
        )


def draw(folder: Path, result: Mapping[str, Any], setup: Setup) -> None:
    """Draw the run's pictures, with a few training images beside the impressions."""
    from ccsi.report.run import draw_run  # matplotlib takes a second to import; most sweeps' trials do not draw

    train = setup.data.train
    draw_run(folder, result, Labelled(train.images, relabelled(train.labels, setup.order, 0)))
