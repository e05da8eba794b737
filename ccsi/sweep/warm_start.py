"""Warm start: what earlier sweeps found, read once, at a sweep's first start."""

from pathlib import Path
from typing import Any

from ccsi.config import flat, shown
from ccsi.errors import UserError
from ccsi.io.paths import expand
from ccsi.sweep import selection
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import JobId, Status, WarmStarted
from ccsi.sweep.journal import Journal
from ccsi.sweep.recorder import SweepRecorder, replay
from ccsi.sweep.resume import read_definition
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.search_space import same


def warm_start(recorder: SweepRecorder) -> None:
    """Record what the sweeps in `sweep.warm_start` found, so that later starts do not need their folders."""
    folders = recorder.definition.sweep.warm_start
    if folders and not recorder.state.warm_start.folders:
        trials = [one for folder in folders for one in completed_trials(folder, recorder.definition)]
        recorder.record(WarmStarted(list(folders), trials))


def completed_trials(folder: str, mine: Definition) -> list[dict[str, Any]]:
    """`values`, `score` and `seconds` of the trials of an earlier sweep that completed phase 1 and lie in this space.

    A score is read from the journal where the runs are gone (an old journal has no seconds).

    Raises:
        UserError: `folder` (from where this sweep was typed) is not a sweep's, has no such trial, or other scores.
    """
    where = f"sweep.warm_start={folder}"
    theirs = read_definition(Path(mine.cwd) / expand(folder, "sweep.warm_start"), check=False, key="sweep.warm_start")
    check_comparable(mine, theirs, where)
    state = replay(theirs, Journal(theirs.folder / "journal.jsonl"))
    for result in finished_runs(theirs).values():
        state.apply(result)
    space, completed = {dimension.key: dimension for dimension in mine.space}, list[dict[str, Any]]()
    for trial, one in enumerate(selection.tried_configs(state)):
        end = state.ends.get(JobId(1, trial))
        done = one.state == "done" or (end is not None and end.status is Status.DONE)
        if done and all(space[key].holds(value) for key, value in one.values.items()):
            values = {key: space[key].as_drawn(one.values[key]) for key in space}
            completed.append({"values": values, "score": one.score, "seconds": one.seconds})
    if not completed:
        raise UserError(f"{where}: none of its trials that completed phase 1 lies in this sweep's space.")
    return completed


def check_comparable(mine: Definition, theirs: Definition, where: str) -> None:
    """Raise UserError, naming the difference, unless both have the same metric, data, tasks, learner and swept keys."""
    if theirs.compared is not None:
        raise UserError(f"{where} compares several of {theirs.compared}; expected a sweep of one.")
    pairs: list[tuple[str, Any, Any]] = [("sweep.metric", theirs.sweep.metric, mine.sweep.metric)]
    pairs.append(("the list of keys in sweep.space", sorted(theirs.sweep.space), sorted(mine.sweep.space)))
    for name in sorted(set(theirs.bases) & set(mine.bases)):
        there, here = flat(theirs.bases[name]), flat(mine.bases[name])
        keys = [key for key in there | here if key.startswith(("dataset.", "scenario.")) or key == "learner._target_"]
        pairs += [(key, there.get(key), here.get(key)) for key in keys if key not in mine.sweep.space]
    for key, there, here in pairs:
        if not same(there, here):
            raise UserError(f"{where}: {key} is {shown(there)} there and {shown(here)} here; expected the same.")
