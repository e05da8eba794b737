"""Tune in this process: the sweep's own searcher, scheduler and callback, and made-up trials. No Ray is started."""

import json
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from rich.console import Console

from ccsi.io.run_files import SCHEMA
from ccsi.sweep.events import RunId
from ccsi.sweep.execution.context import TrialContext, execute
from ccsi.sweep.execution.trainable import Reporter, run_trial
from ccsi.sweep.execution.tuner import JournalCallback, PruningScheduler, TrialSearcher
from ccsi.sweep.progress import ProgressPrinter
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.runs import finished_runs, run_folder, summary_of
from ccsi.sweep.trial_generator import generate_jobs
from ccsi.tracking.events import TaskEnd

Learn = Callable[[dict[str, Any], int], Sequence[float]]
"""A run's configuration and phase -> its accuracy after each task; empty: its configuration is wrong."""
FIGURES = ("macro_over_tasks", "macro_over_classes", "micro", "average_incremental", "forgetting")


def drive(
    recorder: SweepRecorder, learn: Learn, workers: int = 2, events_left: int = 10**9, lost: bool = False
) -> bool:
    """Run a sweep's jobs, `workers` at a time; stops after `events_left` reports, as when the driver is killed.

    Then the last report was recorded; or is `lost`, though its checkpoint is there.

    A task takes `wait` of its run's configuration (default 1) on a clock of its own; of two jobs that report at
    the same time the one started first does. learn: None runs what the configurations say, in threads.

    Returns:
        Whether the sweep came to its end.
    """
    tune.report = lambda report: HERE.report(report)
    recorder.start(finished_runs(recorder.definition))
    recorder.extend()
    searcher, scheduler = TrialSearcher(generate_jobs(recorder), workers), PruningScheduler(recorder)
    callback = JournalCallback(recorder, searcher, ProgressPrinter(recorder, Console(quiet=True)))
    live: dict[str, tuple[float, Any, Generator[dict[str, Any]]]] = {}
    now, numbers = 0.0, count()

    def stop(trial: Any) -> None:
        _, _, reported = live.pop(trial.trial_id)
        reported.close()
        searcher.on_trial_complete(trial.trial_id)
        callback.on_trial_complete(0, [], trial)

    controller: Any = SimpleNamespace(
        get_live_trials=lambda: [trial for _, trial, _ in live.values()], get_trials=list, stop_trial=stop
    )
    while True:
        while isinstance(job := searcher.suggest(name := f"{next(numbers):06d}"), dict):
            trial: Any = SimpleNamespace(trial_id=name, config=job, last_result=None)
            live[name] = (
                now + wait(job),
                trial,
                iter(real(recorder, job) if learn is None else reports(recorder, job, learn)),
            )
            scheduler.on_trial_add(controller, trial)
            callback.on_trial_start(0, [], trial)
        if job == "FINISHED":
            return True
        assert live, "nothing runs, and nothing is offered"
        scheduler.choose_trial_to_run(controller)  # before the next event, as Tune does
        if not live:
            continue
        name = min(live, key=lambda one: (live[one][0], one))
        now, trial, rest = live[name]
        result = next(rest, None)
        events_left -= result is not None
        if lost and events_left == 0:
            return False
        stopped = False
        if result is not None:
            live[name] = (now + wait(trial.config), trial, rest)
            stopped = scheduler.on_trial_result(controller, trial, result) == "STOP"
            trial.last_result = result
        if result is None or stopped:
            stop(trial)
        if events_left == 0:
            return False


def wait(job: dict[str, Any]) -> float:
    """Seconds a task of this job takes."""
    return float(json.loads(job["runs"])[0].get("wait", 1))


def real(recorder: SweepRecorder, job: dict[str, Any]) -> "RealJob":
    """A job as its configuration says."""
    context = TrialContext(1, 1.0, 0.0, recorder.definition.sweep.max_failures, "s", call="the driver")
    return RealJob(job, context, recorder.definition.sweep.metric)


def reports(recorder: SweepRecorder, job: dict[str, Any], learn: Learn) -> Generator[dict[str, Any]]:
    """What `run_trial` reports: after each task, the last of a run when its result.json is there."""
    metric, sent = recorder.definition.sweep.metric, list[dict[str, Any]]()
    reporter = Reporter(metric)
    for config in json.loads(job["runs"]):
        folder = Path(config["run_dir"])
        after = learn(config, int(folder.name[1]))
        if not after:
            yield {"error": "not to my liking"}
            return
        run = RunId.parse(folder.name)
        for task in range(1, len(after) + 1):
            score = sum(after[:task]) / task if metric == "val_average_incremental" else after[task - 1]
            reached = len(list(folder.glob("task*")))
            if (folder / "result.json").exists() or task < reached:
                continue  # it resumes from its checkpoint, and reports that again
            if task < len(after):
                folder.mkdir(exist_ok=True)
                (folder / f"task{task}").touch()
                event = TaskEnd(task - 1, len(after), {metric: score, "seconds": float(task)}, {})
                reporter.report_task(run, sent.append, event)
                yield sent.pop()
        result = finish(folder, score, len(after), float(config.get("wait", 1)))
        yield reporter.end_report(run, result)


def finish(folder: Path, val: float, tasks: int = 2, seconds: float = 1.5, test: float | None = None) -> dict[str, Any]:
    """Write a finished run; returns the content of its result.json. seconds: of a task."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "test": dict.fromkeys(FIGURES, test),
        "val": dict.fromkeys(FIGURES, val),
    }
    result |= {"scenario": {"classes_per_task": [2] * tasks}, "seconds": {"total": seconds * tasks}}
    result |= {"protocol": "data-free"}
    folder.mkdir(exist_ok=True, parents=True)
    part = folder / "part"
    part.write_text(json.dumps(result))
    part.replace(folder / "result.json")
    return result


def finish_run(recorder: SweepRecorder, run: str, val: float, **more: Any) -> None:
    """Finish a run and record its end, as when its worker reports it."""
    one = RunId.parse(run)
    recorder.record(summary_of(one, finish(run_folder(recorder.definition, one), val, **more)))


def execute_phase(recorder: SweepRecorder, phase: int, trials: Sequence[int]) -> None:
    """Run trials one after another in this process, as `ccsi run` does."""
    definition = recorder.definition
    for trial in trials:
        for run in recorder.state.runs(phase, trial):
            values = recorder.state.configs[trial]
            config = definition.run_config(values, phase, run.seed, run_folder(definition, run))
            recorder.record(summary_of(run, execute(config, lambda event: None)))


HERE = threading.local()
"""Of a thread that runs a job: where its reports go."""


class StoppedError(BaseException):
    """Tune has stopped the job."""


class RealJob:
    """The reports of `run_trial`, which runs in a thread of its own and waits after each of them, as under Tune."""

    def __init__(self, job: dict[str, Any], context: TrialContext, metric: str) -> None:
        self.reports, self.answers = queue.Queue[dict[str, Any] | None](), queue.Queue[bool]()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(job, context, metric), daemon=True)
        self.started = False

    def _run(self, job: dict[str, Any], context: TrialContext, metric: str) -> None:
        try:
            HERE.report = self._report
            run_trial(job, context, metric)
        except StoppedError:
            pass
        except Exception as error:
            self.error = error
        self.reports.put(None)

    def _report(self, report: dict[str, Any]) -> None:
        self.reports.put(report)
        if not self.answers.get(timeout=120):
            raise StoppedError

    def __iter__(self) -> Generator[dict[str, Any]]:
        self.thread.start()
        try:
            while (report := self.reports.get(timeout=120)) is not None:
                yield report
                self.answers.put(True)
        finally:  # the generator is closed when the job is stopped
            self.answers.put(False)
            self.thread.join(120)
        if self.error is not None:
            raise self.error
