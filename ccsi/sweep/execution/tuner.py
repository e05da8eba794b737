"""Ray Tune runs one job after another; each of its events becomes one of the sweep's.

Tune decides where and when a job runs and restarts it when it crashes. The state of the sweep is never asked of Tune,
and every start uses a fresh Tuner, so that resuming after kill -9 is exact.
"""

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.trainable.function_trainable import wrap_function

from ccsi.sweep import selection
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import JobId, from_record
from ccsi.sweep.execution import cluster
from ccsi.sweep.execution.context import TrialContext
from ccsi.sweep.execution.failures import WORKER_DIED, reason
from ccsi.sweep.execution.gpu_packing import measure_gpu_share
from ccsi.sweep.execution.trainable import run_trial
from ccsi.sweep.folder import TUNE_FOLDER
from ccsi.sweep.progress import ProgressPrinter
from ccsi.sweep.recorder import SweepInterruptedError, SweepRecorder
from ccsi.sweep.trial_generator import reason_to_stop

COUNT_SECONDS = 10.0  # between two counts of how many trials fit the nodes
Job = dict[str, Any]


class NotSaved:
    """Tune copies everything for a restore that is unused: we resume from the journal."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSearcher(NotSaved, Searcher):
    """Tune's search algorithm, which takes the next job from a generator.

    Args:
        max_live: how many jobs may live at once. count: counts them again now and then, because nodes come and go.
    """

    def __init__(self, jobs: Iterator[Job | None], max_live: int, count: Callable[[], int] | None = None) -> None:
        super().__init__()
        self.jobs, self.again = jobs, list[Job]()
        self.max_live, self.live = max_live, set[str]()
        self.count, self.counted = count, time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        if self.count is not None and time.monotonic() - self.counted > COUNT_SECONDS:
            self.max_live, self.counted = self.count(), time.monotonic()
        if len(self.live) >= self.max_live:
            return None
        try:
            job = self.again.pop(0) if self.again else next(self.jobs)
        except StopIteration:
            return None if self.live else Searcher.FINISHED  # one of those may have to be offered again
        if job is not None:
            self.live.add(trial_id)
        return job

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """See `NotSaved`."""


class PruningScheduler(NotSaved, FIFOScheduler):
    """Records each report, and stops trials of phase 1 that are pruned or dominated.

    Tune asks the scheduler first, so the report is recorded here. A dominated trial (see `selection.dominated`) is
    stopped at its next report, where its worker is free at once; or now, if all other work is done.
    """

    def __init__(self, recorder: SweepRecorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "events" not in result:
            return TrialScheduler.CONTINUE
        events: list[Any] = [from_record(record) for record in json.loads(result["events"])]
        job = events[0].run.job
        self.recorder.report(*events)
        if self.recorder.state.is_finished(job):  # else Tune polls for 0.2 s until the trial's function has returned
            return TrialScheduler.STOP
        why = reason_to_stop(self.recorder, job)
        if why is not None:
            self.recorder.stopping[job] = why
        return TrialScheduler.CONTINUE if why is None else TrialScheduler.STOP

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self.recorder.error is not None:  # Tune swallows what a callback raises when it stops a trial
            raise self.recorder.error
        state = self.recorder.state
        if selection.is_over(state):
            needless = {str(JobId(1, trial)) for trial in selection.dominated(state)}
            for trial in [t for t in tune_controller.get_live_trials() if t.config["name"] in needless]:
                self.recorder.stopping[JobId.parse(trial.config["name"])] = state.pruned_as_dominated
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


class JournalCallback(NotSaved, tune.Callback):
    """Records how jobs end, and prints the progress."""

    def __init__(self, recorder: SweepRecorder, searcher: TrialSearcher, progress: ProgressPrinter) -> None:
        self.recorder, self.searcher, self.progress = recorder, searcher, progress
        self.failed, self.offered, self.reasons = set[str](), Counter[str](), dict[str, str]()

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self.recorder.running.add(JobId.parse(trial.config["name"]))
        self.progress.job_started()

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        if trial.error_file:
            self.reasons[trial.trial_id] = reason(Path(trial.error_file).read_text())

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        error = last.get("error")
        if error == WORKER_DIED:  # all a trial knows of its own end; Ray may know more
            error = self.reasons.get(trial.trial_id, error)
        self._end(JobId.parse(trial.config["name"]), error, last.get("traceback", ""))
        if hasattr(trial, "run_metadata"):  # Tune's statistics and the configurations are not read again
            trial.run_metadata.metric_analysis.clear()
            trial.run_metadata.metric_n_steps.clear()
            trial.config["runs"] = ""

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self.failed.add(trial.trial_id)
        text = Path(trial.error_file).read_text() if trial.error_file else "it crashed without a reason"
        name = trial.config["name"]
        if reason(text) == WORKER_DIED and self.offered[name] < self.recorder.definition.sweep.max_failures:
            # Tune counts no failures when it hands a trial to an idle worker that has died: it drops the trial
            self.offered[name] += 1
            self.recorder.running.discard(JobId.parse(name))
            self.searcher.again.append(trial.config)
            return
        self._end(JobId.parse(name), reason(text), text)

    def _end(self, job: JobId, error: str | None, traceback: str) -> None:
        self.recorder.end_job(job, error, traceback)
        self.progress.job_ended(job)

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        for trial in trials:
            if trial.status == "ERROR" and trial.trial_id not in self.failed:  # Tune drops some without a callback
                self.on_trial_error(iteration, trials, trial)
                self.searcher.on_trial_complete(trial.trial_id, error=True)
        self.progress.tick()


def run_jobs(recorder: SweepRecorder, progress: ProgressPrinter, jobs: Iterator[Job | None]) -> None:
    """Run every job of `jobs` (see `trial_generator`) and record what happens.

    Both phases go through one Tuner, so that phase 2 finds the warm workers of phase 1.

    Raises:
        SweepInterruptedError: the disk is full, or Tune gave up; what is done is kept.
    """
    definition, sweep = recorder.definition, recorder.definition.sweep
    context = make_context(recorder, progress)
    cpu, gpu, workers = context.cpu, context.gpu, context.workers
    # with ray.autoscale the nodes come when trials wait for them
    autoscaled = sweep.max_concurrent if definition.ray.autoscale else None
    slots = autoscaled or cluster.count_trials(cpu, gpu, workers)

    def count() -> int:
        recorder.sync()
        nodes = cluster.live_nodes()
        slots = autoscaled or cluster.count_slots(nodes, cpu, gpu) // workers
        if searcher.max_live and not slots:
            text = f"No room for a trial is left (there is: {cluster.format_nodes(nodes)}): waiting."
            progress.console.print(text)
        return max_live(definition, slots)

    searcher = TrialSearcher(jobs, max_live(definition, slots), count)
    if definition.ray.address is not None:
        cluster.check_nodes(str(definition.runs), sweep.storage, cpu, gpu)
    # Workers start side by side. By default one by one, and when a trial ends, Tune gives its worker to the next trial
    # and drops the worker still starting for that one.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(slots, sweep.max_concurrent or slots))
    tuner = make_tuner(context, JournalCallback(recorder, searcher, progress))
    address = ray.get_runtime_context().gcs_address
    try:
        lost = partial(leave_lost_cluster, recorder, address)
        local = definition.ray.address is None  # a local one is watched from its start
        with contextlib.nullcontext() if local else cluster.watch_head(address, lost):
            tuner.fit()
    except (OSError, tune.TuneError) as error:  # Tune wraps what our callbacks raise, but not our generator and disk
        raise SweepInterruptedError(reason(str(error))) from error
    if sweep.storage is not None:  # the nodes' own disks hold copies of the images, among others
        cluster.call_on_nodes(cpu, gpu, shutil.rmtree, str(definition.runs), True)


def max_live(definition: Definition, slots: int) -> int:
    """How many jobs Tune may have at a time: as many as fit, and one waiting, so that no worker idles."""
    sweep = definition.sweep
    at_most = sweep.max_concurrent or slots
    # jobs of several workers ask for no resources that would hold one back
    one_waits = sweep.search != "optuna" and 0 < slots <= at_most and definition.resources.workers == 1
    return min(slots, at_most) + one_waits


def make_context(recorder: SweepRecorder, progress: ProgressPrinter) -> TrialContext:
    """Where and how the sweep's runs compute."""
    definition = recorder.definition
    wanted = definition.resources.gpu
    context = TrialContext(
        workers=definition.resources.workers,
        cpu=definition.cpus(),
        gpu=1.0 if wanted == "auto" else float(wanted),
        max_failures=definition.sweep.max_failures,
        sweep=definition.name,
        storage=definition.sweep.storage,
        local=definition.ray.address is None,
        cwd=definition.cwd,
    )
    if wanted == "auto":
        return replace(context, gpu=measure_gpu_share(recorder, context, cluster.live_nodes(), progress.console))
    return context


def make_tuner(context: TrialContext, callback: JournalCallback) -> tune.Tuner:
    """The Tuner, its own files in a folder that is emptied at each start."""
    definition = callback.recorder.definition
    storage = definition.folder / TUNE_FOLDER
    shutil.rmtree(storage, ignore_errors=True)  # of a driver that was killed
    wants = {"cpu": context.cpu} | ({"gpu": context.gpu} if context.gpu > 0 else {})
    if context.workers > 1:  # the trial itself only waits for its workers, which Ray Train asks for
        wants = {"memory": 1}
    function = tune.with_parameters(run_trial, context=context, metric=definition.sweep.metric)
    trainable = wrap_function(tune.with_resources(function, wants), name=definition.name)
    trainable.__name__ = trainable.__qualname__ = "Trial"  # in the dashboard an actor is a Trial of this sweep
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=callback.searcher,
            scheduler=PruningScheduler(callback.recorder),
            num_samples=-1,
            reuse_actors=context.workers == 1,
            trial_name_creator=lambda trial: trial.config["name"],
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name=context.call,
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=1000),  # a trial counts its own: see `RetryCounter`
            callbacks=[callback],
            verbose=0,
        ),
    )


def leave_lost_cluster(recorder: SweepRecorder, address: str) -> None:
    """End this process because the cluster's head is lost."""
    problem = f"the cluster's head at {address} no longer answers; start it again, and resume with"
    cluster.leave_lost_ray(
        f"{problem} ccsi sweep resume={recorder.definition.folder}", None, recorder.stop, recorder.sync
    )
