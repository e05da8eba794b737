"""The spine: one run, from a data set and a learner to a folder of results. Every driver calls `run`."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from ccsi.checks import FileName, NonNegative, PositiveInt, Seed
from ccsi.data import Labelled, Scenario, Source
from ccsi.data.scenario import relabelled
from ccsi.data.summary import Summary
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError, memory_as_user_error
from ccsi.experiment import description
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.experiment.environment import DeviceName, set_up_torch
from ccsi.experiment.folder import default_run_dir, finished_result, lock_run_dir
from ccsi.experiment.record import result_of
from ccsi.experiment.tasks import LearnerFactory, RunSession, Setup, learn_all, set_up
from ccsi.io.atomic import write_atomically
from ccsi.io.run_files import RESULT
from ccsi.io.text import first_line, warn
from ccsi.learners.base import ModelFactory
from ccsi.tracking import RunStart, TaskEnd, Tracker, Trackers
from ccsi.training import Training


@with_config(ConfigDict(extra="forbid"))
class ReportOptions(TypedDict):
    """What a run's pictures may show. real_images: a few training images beside the impressions."""

    real_images: bool


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
    name: FileName,
    seed: Seed = 0,
    device: DeviceName = "auto",
    threads: PositiveInt = 1,
    workers: PositiveInt = 1,
    run_dir: str | None = None,
    evaluate_test: bool = True,
    report: bool | ReportOptions = True,
    checkpoint_every: NonNegative = 60.0,
    share_data: str | None = None,
    config: Mapping[str, Any] | None = None,
    on_task_end: Callable[[TaskEnd], None] | None = None,
    on_checkpoint: Callable[[], None] | None = None,
    watch: Tracker | None = None,
    describe: bool = True,
) -> RunResult:
    """Learn task after task, evaluate after each, and leave everything in the run's folder.

    The same call with the same `run_dir` resumes where the last one was interrupted, to the same bits; of a finished
    run it shows the figures again. What configs/config.yaml has is described there. Every worker calls this.

    Args:
        config: the resolved configuration, for the record. watch: one more tracker.
        describe: print a summary of the data and write split.csv; a sweep's driver does it once for all trials.
        on_task_end: called after each task's checkpoint, and again after a resume. on_checkpoint: after each.

    Raises:
        UserError: values that do not fit together, a folder that holds something else. Nothing is written.
    """
    group, resolved = ProcessGroup.current(), dict(config or {})
    check_workers(workers, group.world_size)
    where = set_up_torch(device, threads)
    folder = default_run_dir(run_dir, name, seed, resolved)
    tracking.watch, tracking.enabled = watch, group.is_main
    on_checkpoint, on_task_end = on_checkpoint or (lambda: None), on_task_end or (lambda event: None)
    session = RunSession(folder, where, tracking, Checkpoints(folder, checkpoint_every), on_checkpoint, on_task_end)
    if earlier := group.on_main(lambda: finished_result(folder, resolved)):  # before the data is read
        tracking.show_finished(earlier, folder)
        return RunResult(folder, earlier)
    parts = partial(set_up, dataset=dataset, scenario=scenario, model=model, learner=learner, training=training)
    with memory_as_user_error(), ExitStack() as stack:
        setup = group.on_all(lambda: parts(evaluate_test=evaluate_test, share_data=share_data, seed=seed, where=where))
        saved = group.on_main(lambda: stack.enter_context(lock_run_dir(folder, resolved)))
        lines = session.load(saved, setup) if saved is not None else 0
        stack.callback(lambda: tracking.finish(session.result))
        names = tuple(tuple(setup.data.class_names[c] for c in classes) for classes in setup.plan)
        summary = Summary()
        if describe and session.writes:
            summary = description.describe(setup.data, setup.plan, setup.learner)
        start = RunStart(f"{name}-s{seed}", folder, resolved, names, lines, summary.lines, summary.warnings)
        group.on_main(lambda: tracking.start(start))
        if describe and session.writes:
            description.write_description(folder, setup.data, summary)
        learn_all(setup, session, saved)
        result = result_of(setup, session, name, seed, summary.record)
        if session.writes:
            # last: a run that has it is finished; its pictures are drawn from files, and can be drawn again
            write_atomically(folder / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
        session.result = result
        if session.writes and report:
            draw(folder, result, setup.data.train if isinstance(report, dict) and report["real_images"] else None)
    return RunResult(folder, result)


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
) -> Setup:
    """Do what `run` does before it writes to its folder, on the CPU, and leave the data in the folder `share_data`.

    Raises:
        UserError: values that do not fit the data or each other; a sweep finds them so before its first trial.
    """
    parts = partial(set_up, dataset=dataset, scenario=scenario, model=model, learner=learner, training=training)
    with memory_as_user_error():
        return parts(evaluate_test=evaluate_test, share_data=share_data)


def check_workers(wanted: int, here: int) -> None:
    """Raise UserError unless as many workers as wanted share this run."""
    if wanted != here:
        raise UserError(
            f"workers={wanted}, but here {'is' if here == 1 else 'are'} {here}: "
            "a run of several workers is started by ccsi train workers=…"
        )


def draw(folder: Path, result: Mapping[str, Any], real: Labelled | None) -> None:
    """Draw the run's pictures; with `real`, the training images, a few of each class beside the impressions.

    What fails is one warning: result.json is written.
    """
    try:
        from ccsi.report.run import draw_run  # matplotlib takes a second to import; most sweeps' trials do not draw

        if real is not None:
            real = Labelled(real.images, relabelled(real.labels, result["scenario"]["class_order"], 0))
        draw_run(folder, result, real)
    except Exception as error:
        warn(f"{folder}: not all pictures were drawn ({first_line(error)}); draw them with ccsi report {folder}")
