"""What a sweep does next and which trials it reports: functions of a SweepState. Phase 2 runs the `finalists`."""

from statistics import fmean

from ccsi.sweep.events import JobId, Status, TrialPromoted
from ccsi.sweep.ranking import select_best
from ccsi.sweep.search import TriedConfig
from ccsi.sweep.state import SweepState, cached

CLOSE = 1e-9
"""Scores closer than this count as equal: a bound is computed in another order than the score it bounds."""


def not_started(state: SweepState) -> set[int]:
    """Trials that no worker has started."""
    return state.incomplete - state.started


def unfinished(state: SweepState) -> set[int]:
    """Trials of phase 1 that have not ended, without those that a budget leaves out."""
    return state.incomplete & state.started if state.exhausted_by() else state.incomplete


def known_trials(state: SweepState) -> list[int]:
    """The trials that phase 1 has had or will have, without those that a budget leaves out."""
    left_out = not_started(state) if state.exhausted_by() else state.untuned
    return [n for n in range(len(state.configs)) if n not in left_out]


def n_unsuggested(state: SweepState) -> int:
    """How many trials may still be suggested."""
    return 0 if state.exhausted_by() else state.n_planned - len(state.configs)


def is_search_finished(state: SweepState) -> bool:
    """Whether phase 1 is finished."""
    return not n_unsuggested(state) and not unfinished(state) and next_promotion(state) is None


@cached
def next_promotion(state: SweepState) -> TrialPromoted | None:
    """The stopped trial that resumes from its checkpoint next, if any: the best of those with the most tasks done.

    It is one that the scheduler would no longer stop, because others have come to its rung; or any, if phase 1 would
    end with fewer than `top_k` complete trials.
    """
    rungs = sorted((tasks for tasks, trials in state.stopped.items() if trials), reverse=True)
    for tasks in rungs:
        value, trial = state.stopped[tasks][0]
        at_rung = len(state.pruner.values[tasks])
        if not state.is_held(tasks) and state.pruner.is_promotable(tasks, -value, at_rung):
            return TrialPromoted(trial, anyway=False)
    running = unfinished(state)
    enough = len(state.ranked) + len(running) >= state.definition.sweep.top_k
    if not rungs or n_unsuggested(state) or enough or running - state.promoted_anyway:  # these may still be stopped
        return None
    return TrialPromoted(state.stopped[rungs[0]][0][1], anyway=True)


def promotable_trials(state: SweepState) -> set[int]:
    """The stopped trials that may still be among the best quarter of their rung."""
    n_trials = len(known_trials(state)) + n_unsuggested(state)
    return {
        trial
        for tasks, trials in state.stopped.items()
        for value, trial in trials
        if state.pruner.is_promotable(tasks, -value, n_trials)
    }


@cached
def waiting_trials(state: SweepState) -> set[int]:
    """The stopped trials that may still resume; none once phase 1 is finished."""
    if is_search_finished(state):
        return set()
    waiting = promotable_trials(state)
    if len(state.ranked) + len(unfinished(state)) + len(waiting) >= state.definition.sweep.top_k:
        return waiting
    return {trial for trials in state.stopped.values() for _, trial in trials}  # some of them are promoted anyway


def pruned_by(state: SweepState, trial: int) -> str | None:
    """Why and where a trial was pruned (`by ASHA after task 2 of seed 100`); None if it was not."""
    if state.trial_status(1, trial) is not Status.PRUNED:
        return None
    job = JobId(1, trial)
    last, reason = state.last_report(job), state.ends[job].reason
    where = "before its first task ended" if last is None else f"after task {last.task} of seed {last.run.seed}"
    return f"{reason} {where}".strip()


@cached
def best_trials(state: SweepState) -> list[int]:
    """The best `top_k` trials of phase 1 so far, best first; of each arm the best, if candidates are compared."""
    sweep, ranked = state.definition.sweep, [*state.untuned, *(trial for _, trial in state.ranked)]
    if sweep.minimize:
        results = {trial: (-score, fmean(state.seconds(1, trial))) for score, trial in state.ranked}
        return select_best(results, sweep.top_k, by_front=True)
    if not state.arms:
        return ranked[: sweep.top_k]
    rank = {trial: number for number, trial in enumerate(ranked)}
    return [min(found, key=rank.__getitem__) for arm in state.arms if (found := rank.keys() & set(arm))]


def n_finalists(state: SweepState) -> int:
    """How many trials phase 2 has, if as many complete phase 1."""
    return len(best_trials(state)) if finalists_known(state) else len(state.arms) or state.definition.sweep.top_k


def finalists(state: SweepState) -> list[int]:
    """The trials that are certain to be reported in phase 2, best first: all of them once phase 1 is finished.

    A completed trial is certain as soon as fewer than `top_k` others can still beat it: better completed ones,
    unfinished or promotable ones whose `score_bound` reaches it, and any not yet suggested. (With `sweep.minimize`
    none is before the end: seconds have no such bound.)
    """
    return _certain(state)[0]


def dominated(state: SweepState) -> set[int]:
    """The unfinished trials that can no longer be among the best `top_k`, once no other is waited for.

    None while phase 1 has trials to start: Optuna learns from every end. With a scheduler, none before all unfinished
    trials are dominated: what others are compared with must not depend on which were stopped here.
    """
    return _certain(state)[1]


def finalists_known(state: SweepState) -> bool:
    """Whether it is known which trials phase 2 reports, though dominated ones may still run."""
    waits = n_unsuggested(state) or next_promotion(state) or len(dominated(state)) < len(unfinished(state))
    return not waits


def is_over(state: SweepState) -> bool:
    """Whether all that is still wanted has been done."""
    return finalists_known(state) and not any(
        state.run_status(run) is Status.INCOMPLETE for trial in finalists(state) for run in state.runs(2, trial)
    )


def is_complete(state: SweepState) -> bool:
    """Whether both phases are finished without a failure in phase 2."""
    return is_search_finished(state) and all(state.trial_status(2, n) is Status.DONE for n in best_trials(state))


@cached
def _certain(state: SweepState) -> tuple[list[int], set[int]]:
    """`finalists` and `dominated`."""
    if is_search_finished(state):
        return best_trials(state), set()
    if state.definition.sweep.minimize:
        return [], set()
    parts = [_certain_of(state, set(arm)) for arm in state.arms] or [_certain_of(state, None)]
    certain = [trial for trials, _ in parts for trial in trials]
    lost = set[int]().union(*(trials for _, trials in parts))
    return certain, set() if unfinished(state) - state.started else lost


def _certain_of(state: SweepState, arm: set[int] | None) -> tuple[list[int], set[int]]:
    """`finalists` and `dominated` among the trials of an arm (None: among all)."""
    sweep, running, ranked = state.definition.sweep, unfinished(state), state.ranked
    if arm is not None:
        if arm <= state.untuned:
            return list(arm), set()
        running, ranked = running & arm, [(score, n) for score, n in ranked if n in arm]
    unknown = n_unsuggested(state) + len(running - state.started)  # these may reach any score
    if unknown >= sweep.top_k:
        return [], set()
    promotable = promotable_trials(state)
    bounds = {n: score_bound(state, n) for n in running & state.started | promotable}
    best = [(n, -score) for score, n in ranked[: sweep.top_k]]
    reaching = [sum(bound >= score - CLOSE for bound in bounds.values()) for _, score in best]
    certain = [n for rank, (n, _) in enumerate(best) if rank + unknown + reaching[rank] < sweep.top_k]
    lost = set[int]()
    if not unknown and len(best) == sweep.top_k:
        lost = {n for n, bound in bounds.items() if bound < best[-1][1] - CLOSE}
    if sweep.scheduler != "none" and len(lost) < len(bounds):
        return certain, set()
    return certain, lost - promotable


def score_bound(state: SweepState, trial: int) -> float:
    """The largest score that an unfinished trial of phase 1 can reach: each accuracy to come is at most 1.

    Average incremental accuracy is the mean over tasks of the accuracy after each: with mean m after k of T tasks it
    ends at (k m + T - k) / T at most. A final accuracy is bounded by 1 alone.
    """
    last = {report.run: report for report in state.reports.get(JobId(1, trial), [])}
    metric, bounds = state.definition.sweep.metric, list[float]()
    for run in state.runs(1, trial):
        report, bound = last.get(run), 1.0
        if run in state.results:
            bound = state.results[run].val[metric.removeprefix("val_")]
        elif report and report.score is not None and report.tasks and metric == "val_average_incremental":
            bound = (report.task * report.score + report.tasks - report.task) / report.tasks
        bounds.append(bound)
    return fmean(bounds)


def tried_configs(state: SweepState) -> list[TriedConfig]:
    """The trials so far, as the search wants them."""
    tried, scores = list[TriedConfig](), {trial: -score for score, trial in state.ranked}
    for trial, values in enumerate(state.configs):
        if trial in scores:
            tried.append(TriedConfig(values, scores[trial], "done", fmean(state.seconds(1, trial))))
            continue
        status, last = state.trial_status(1, trial), state.last_report(JobId(1, trial))
        word = "running" if status is Status.INCOMPLETE else str(status)
        tried.append(TriedConfig(values, last.value if last else None, word, tasks=last.tasks_done if last else 0))
    return tried
