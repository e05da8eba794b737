"""What a sweep runs, in which order: the trials of phase 1, and the finalists of phase 2 as soon as they are known."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from ccsi.sweep import selection
from ccsi.sweep.events import ConfigSuggested, JobId, SearchEnded, Status, TrialPromoted, TrialStarted
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.search import suggest_config

OnPhase = Callable[[int, int], None]
"""Called when a phase starts, with its number and how many jobs it has."""


def generate_jobs(
    recorder: SweepRecorder, on_phase: OnPhase = lambda phase, n_jobs: None
) -> Iterator[dict[str, Any] | None]:
    """The sweep's jobs, as `run_trial` takes them; None: no job until the next event.

    It ends when all wanted jobs have been handed out, even if dominated trials of phase 1 still run.
    """
    handed_out = set[JobId]()
    state = recorder.state
    interrupted = sorted(selection.unfinished(state) & state.started)
    n_jobs = len(state.started) + len(selection.not_started(state)) + selection.n_unsuggested(state)
    if n_jobs:
        on_phase(1, min(n_jobs, max(state.definition.sweep.budget.trials or n_jobs, len(state.started))))
    while True:
        state = recorder.state
        trial = interrupted.pop(0) if interrupted else next_trial(recorder)
        if trial is not None:
            job = JobId(1, trial)
            if trial in selection.dominated(state):
                recorder.stopping[job] = dominated_reason(recorder)
                recorder.end_job(job, None)
            else:
                yield job_spec(recorder, job)
            continue
        new = [job for n in selection.finalists(state) for job in state.jobs(2, n) if is_open(recorder, job)]
        new = [job for job in new if job not in handed_out]
        if new:
            if not handed_out:
                on_phase(2, selection.n_finalists(state) * len(state.definition.sweep.seeds.reporting))
            handed_out.add(new[0])
            yield job_spec(recorder, new[0])
        elif selection.finalists_known(state):
            return
        else:
            yield None


def next_trial(recorder: SweepRecorder) -> int | None:
    """The next trial of phase 1, recorded: a promoted one, or a new one; None if there is none now."""
    trial = selection.next_promotion(recorder.state)
    if trial is not None:
        recorder.record(TrialPromoted(trial, selection.is_promoted_anyway(recorder.state, trial)))
        return trial
    return start_trial(recorder)


def start_trial(recorder: SweepRecorder) -> int | None:
    """The next new trial of phase 1, suggested if need be; None if there is none, or a limit is reached."""
    state = recorder.state
    if state.exhausted_by():
        return None
    trial = min(selection.not_started(state), default=None)
    if trial is None and not state.suggestions_complete:
        values = next_config(recorder)
        if values is None:
            recorder.record(SearchEnded())
        else:
            trial = len(state.configs)
            recorder.record(ConfigSuggested(values, trial))
    if trial is not None:
        recorder.record(TrialStarted(trial))
    return trial


def next_config(recorder: SweepRecorder) -> dict[str, Any] | None:
    """What the search suggests next: the warm start's configs first."""
    state, sweep = recorder.state, recorder.definition.sweep
    first, n = state.warm_configs(), len(state.configs)
    if n < min(len(first), sweep.num_samples):
        return first[n]
    if n >= sweep.num_samples:
        return None
    tried, earlier = selection.tried_configs(state), selection.earlier_configs(state)
    return suggest_config(recorder.definition.space, tried, sweep.seed, earlier, sweep.minimize is not None)


def is_open(recorder: SweepRecorder, job: JobId) -> bool:
    """Whether a job has neither ended nor all its results."""
    state = recorder.state
    return any(state.run_status(run) is Status.INCOMPLETE for run in state.runs_of(job))


def dominated_reason(recorder: SweepRecorder) -> str:
    """Why a dominated trial is stopped, for the tables."""
    return f"because it could no longer reach the best {recorder.definition.sweep.top_k}"


def reason_to_stop(recorder: SweepRecorder, job: JobId) -> str | None:
    """Why a job is stopped at its last report; None: it continues."""
    state = recorder.state
    if job in state.to_prune:
        return state.pruned_by_scheduler
    if job.phase == 1 and job.trial in selection.dominated(state):
        return dominated_reason(recorder)
    return None


def job_spec(recorder: SweepRecorder, job: JobId) -> dict[str, Any]:
    """A job for Tune. The configurations of its runs are text, so that Tune does not look into them."""
    state, definition = recorder.state, recorder.definition
    configs = [
        definition.run_config(state.configs[run.trial], run.phase, run.seed, definition.runs / str(run))
        for run in state.runs_of(job)
    ]
    return {"name": str(job), "runs": json.dumps(configs)}
