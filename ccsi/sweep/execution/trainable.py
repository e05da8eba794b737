"""What happens inside one Tune trial: the same `ccsi.experiment.run` as `ccsi run`, seed after seed.

It never starts over: its runs live in the sweep's folder and resume from their own newest checkpoint, so that a trial
restarted after a crash, or in a resumed sweep, ends with the bits of an undisturbed one.
"""

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.io.run_files import read_result
from ccsi.sweep.events import RunId, TaskReported, to_record
from ccsi.sweep.execution.context import TrialContext, execute, reset_process
from ccsi.sweep.execution.failures import GivenUpError, RetryCounter, memory_advice, reason
from ccsi.sweep.execution.metrics import RayMetrics
from ccsi.sweep.runs import Result, summary_of, wait_for_result
from ccsi.tracking.events import TaskEnd


@dataclass(frozen=True)
class Reporter:
    """Makes a job's reports of one of its runs.

    Attributes:
        metric: `val_macro`, …, as `TaskEnd.figures` names it.
        done: tasks of the job's runs before it. values: their values of the metric.
    """

    run: RunId
    metric: str
    done: int
    values: Sequence[float]

    def task_report(self, event: TaskEnd) -> dict[str, Any] | None:
        """After a task; None after the last, which is reported once result.json is there: any report may be the end."""
        if event.task + 1 == event.tasks:
            return None
        score, seconds = event.figures[self.metric], event.figures["seconds"]
        return {"report": self._record(event.task + 1, event.tasks, score, seconds)}

    def end_report(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """After the run's last task: its figures are part of it."""
        end = summary_of(self.run, result)
        score = end.val.get(self.metric.removeprefix("val_"))
        if score is None:
            raise UserError(f"{self.metric} is not a number after the last task; expected val images of every class.")
        return {"report": self._record(end.tasks, end.tasks, score, end.seconds), "end": json.dumps(to_record(end))}

    def _record(self, task: int, tasks: int, score: float, seconds: float) -> str:
        value = (sum(self.values) + score) / (len(self.values) + 1)
        return json.dumps(to_record(TaskReported(self.run, task, self.done + task, value, tasks, score, seconds)))


def run_trial(job: Mapping[str, Any], context: TrialContext, metric: str) -> None:
    """A Tune trial: the runs of one job, one after another, each task reported to Tune.

    A report is a `TaskReported` event as JSON (key `report`), and at a run's end a `RunFinished` (key `end`). A mistake
    in the configuration is reported as `error` and not raised, because a retry would not change it.

    Args:
        job: `name`; `runs`: JSON of its runs' configurations.
    """
    from ray import tune

    context.enter()
    done, values = 0, list[float]()
    for config in json.loads(job["runs"]):
        folder = Path(config["run_dir"])
        retries = RetryCounter(folder, context.call)
        try:
            context.check_folder(folder.parent)
            retries.begin(context.max_failures)
            reporter = Reporter(RunId.parse(folder.name), metric, done, tuple(values))
            result = attempt(config, context, reporter, retries)
            report = reporter.end_report(result)
        except UserError as error:
            tune.report({"error": str(error)})
            return
        except GivenUpError as error:
            tune.report({"error": reason(str(error)), "traceback": str(error)})
            return
        retries.clear()
        tune.report(report)
        end = summary_of(reporter.run, result)
        values.append(end.val[metric.removeprefix("val_")])
        done += end.tasks


def attempt(config: Config, context: TrialContext, reporter: Reporter, retries: RetryCounter) -> Result:
    """One run, or what is left of it; returns the contents of its result.json.

    Raises:
        UserError, GivenUpError: a retry would not help. Any other exception: Tune retries, in another process.
    """
    try:
        if context.workers == 1:
            return run_alone(config, context, reporter)
        return run_data_parallel(config, context, reporter)
    except UserError:
        raise
    except Exception as error:
        retries.crashed(context.max_failures, traceback.format_exc(), memory_advice(error, context.gpu))
        raise


def run_alone(config: Config, context: TrialContext, reporter: Reporter) -> dict[str, Any]:
    """One run in this process."""
    from ray import tune

    def on_task_end(event: TaskEnd) -> None:
        report = reporter.task_report(event)
        if report is not None:
            tune.report(report)

    reset_process(int(config["seed"]), context.gpu)
    return execute(config, on_task_end, RayMetrics(context.sweep), context.storage)


def run_data_parallel(config: Config, context: TrialContext, reporter: Reporter) -> Result:
    """One run in several workers of Ray Train's."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from ccsi.sweep.execution.data_parallel import run_workers

    folder = Path(config["run_dir"])
    if read_result(folder) is None:
        run_workers(config, context, reporter.task_report, [TuneReportCallback()])  # type: ignore[no-untyped-call]
    return wait_for_result(folder)
