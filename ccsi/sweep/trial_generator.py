"""What a sweep runs, in which order: the trials of phase 1, and the finalists of phase 2 as soon as they are known."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from ccsi.sweep import selection
from ccsi.sweep.events import ConfigSuggested, JobId, SearchEnded, Status, TrialStarted
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.search import TriedConfig, suggest_config


def generate_jobs(
    recorder: SweepRecorder, on_phase: Callable[[int, int], None] = lambda phase, n_jobs: None
) -> Iterator[dict[str, Any] | None]:
    """The sweep's jobs, as `run_trial` takes them; None: no job until the next event.

    It ends when phase 1 is finished (dominated trials may still bring others to promotion) and all jobs of phase 2 have
    been handed out. `on_phase` is called when a phase starts, with its number and how many jobs it has.
    """
    handed_out = set[JobId]()
    state = recorder.state
    interrupted = sorted(selection.unfinished(state) & state.started)
    n_jobs = len(state.started) + len(selection.not_started(state)) + selection.n_unsuggested(state)
    if n_jobs:
        on_phase(1, min(n_jobs, max(state.definition.sweep.budget.trials or n_jobs, len(state.started))))
    while True:
        state = recorder.state
        if interrupted:
            trial: int | None = interrupted.pop(0)
        elif promotion := selection.next_promotion(state):
            recorder.record(promotion)
            trial = promotion.trial
        else:
            trial = start_trial(recorder)
        if trial is not None:
            job = JobId(1, trial)
            if trial in selection.dominated(state):
                recorder.stopping[job] = state.pruned_as_dominated
                recorder.end_job(job, None)
            else:
                yield job_spec(recorder, job)
            continue
        runs = [run for n in selection.finalists(state) for run in state.runs(2, n) if run.job not in handed_out]
        new = next((run.job for run in runs if state.run_status(run) is Status.INCOMPLETE), None)
        if new is not None:
            if not handed_out:
                on_phase(2, selection.n_finalists(state) * len(state.definition.sweep.seeds.reporting))
            handed_out.add(new)
            yield job_spec(recorder, new)
        elif selection.is_search_finished(state):
            return
        else:
            yield None


def start_trial(recorder: SweepRecorder) -> int | None:
    """The next new trial of phase 1, suggested if need be; None if there is none, or a limit is reached."""
    state = recorder.state
    if state.exhausted_by():
        return None
    trial = min(selection.not_started(state), default=None)
    if trial is None and not state.suggestions_complete:
        trial, config = len(state.configs), next_config(recorder)
        if config is None:
            recorder.record(SearchEnded())
            return None
        recorder.record(ConfigSuggested(config, trial))
    if trial is not None:
        recorder.record(TrialStarted(trial))
    return trial


def next_config(recorder: SweepRecorder) -> dict[str, Any] | None:
    """What the search suggests next: the warm start's configs first."""
    state, sweep = recorder.state, recorder.definition.sweep
    first, n = state.warm_configs[: sweep.num_samples], len(state.configs)
    if n < len(first):
        return first[n]
    if n >= sweep.num_samples:
        return None
    earlier = [TriedConfig(state="done", **one) for one in state.warm_start.trials]
    tried, two = selection.tried_configs(state), sweep.minimize is not None
    return suggest_config(recorder.definition.space, tried, sweep.seed, earlier, two)


def reason_to_stop(recorder: SweepRecorder, job: JobId) -> str | None:
    """Why a job is stopped at its last report; None: it continues."""
    state = recorder.state
    if job in state.to_prune:
        return state.pruned_by_scheduler
    if job.phase == 1 and job.trial in selection.dominated(state):
        return state.pruned_as_dominated
    return None


def job_spec(recorder: SweepRecorder, job: JobId) -> dict[str, Any]:
    """A job for Tune. The configurations of its runs are text, so that Tune does not look into them."""
    state, definition = recorder.state, recorder.definition
    configs = [
        definition.run_config(state.configs[run.trial], run.phase, run.seed, definition.runs / str(run))
        for run in state.runs_of(job)
    ]
    return {"name": str(job), "runs": json.dumps(configs)}
