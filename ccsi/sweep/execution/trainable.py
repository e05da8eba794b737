"""What happens inside one Tune trial: the same `ccsi.experiment.run` as `ccsi run`, seed after seed.

It never starts over: its runs live in the sweep's folder and resume from their own newest checkpoint, so that a trial
restarted after a crash, or in a resumed sweep, ends with the bits of an undisturbed one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray import train, tune

from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.io.run_files import read_result
from ccsi.sweep.events import Event, RunId, TaskReported, to_record
from ccsi.sweep.execution.context import TrialContext, execute, reset_process
from ccsi.sweep.execution.failures import GivenUpError, RetryCounter, reason
from ccsi.sweep.execution.metrics import RayMetrics
from ccsi.sweep.runs import Result, summary_of, wait_for_result
from ccsi.tracking.events import TaskEnd

Send = Callable[[dict[str, Any]], None]


@dataclass
class Reporter:
    """Makes a job's reports.

    Attributes:
        metric: `val_micro`, …, as `TaskEnd.figures` names it.
        done: tasks of the job's finished runs. values: their values of the metric.
    """

    metric: str
    done: int = 0
    values: list[float] = field(default_factory=list)

    def report_task(self, run: RunId, send: Send, event: TaskEnd) -> None:
        """After a task; not after the last, which is reported once result.json is there: any report may be the end."""
        if event.task + 1 < event.tasks:
            score, seconds = event.figures[self.metric], event.figures["seconds"]
            send(self._report(run, event.task + 1, event.tasks, score, seconds))

    def end_report(self, run: RunId, result: Result) -> dict[str, Any]:
        """After the run's last task: its figures are part of it, and of all later reports."""
        end = summary_of(run, result)
        score = end.val.get(self.metric.removeprefix("val_"))
        if score is None:
            raise UserError(f"{self.metric} is not a number after the last task; expected val images of every class.")
        report = self._report(run, end.tasks, end.tasks, score, end.seconds, end)
        self.done += end.tasks
        self.values.append(score)
        return report

    def _report(self, run: RunId, task: int, tasks: int, score: float, seconds: float, *end: Event) -> dict[str, Any]:
        value = (sum(self.values) + score) / (len(self.values) + 1)
        events = TaskReported(run, task, self.done + task, value, tasks, score, seconds), *end
        return {"events": json.dumps([to_record(event) for event in events])}


def run_trial(job: Mapping[str, Any], context: TrialContext, metric: str) -> None:
    """A Tune trial: the runs of one job (`runs`: JSON of their configurations), one after another.

    A report to Tune has JSON of its `events`: `TaskReported`, and at a run's end `RunFinished`. What no retry would
    change, such as a mistake in the configuration, is reported as `error`; after any other exception Tune retries in
    another process.
    """
    context.enter()
    reporter = Reporter(metric)
    for config in json.loads(job["runs"]):
        folder = Path(config["run_dir"])
        run, retries = RunId.parse(folder.name), RetryCounter(folder, context)
        try:
            context.check_folder(folder.parent)
            with retries.attempt():
                result = finish_run(config, context, partial(reporter.report_task, run))
            report = reporter.end_report(run, result)
        except UserError as error:
            return tune.report({"error": str(error)})
        except GivenUpError as error:
            return tune.report({"error": reason(str(error)), "traceback": str(error)})
        retries.clear()
        tune.report(report)


def finish_run(config: Config, context: TrialContext, report_task: Callable[[Send, TaskEnd], None]) -> Result:
    """One run, or what is left of it, in this process or in several; returns the contents of its result.json."""
    if context.workers == 1:
        reset_process(int(config["seed"]), context.gpu)
        return execute(config, partial(report_task, tune.report), RayMetrics(context.sweep), context.storage)
    from ccsi.sweep.execution.data_parallel import run_workers  # imports torch

    folder = Path(config["run_dir"])
    if read_result(folder) is None:
        run_workers(config, context, partial(report_task, train.report))
    return wait_for_result(folder)
