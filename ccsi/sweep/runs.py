"""The runs of a sweep as their folders show them: results, and how far an unfinished run is."""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ccsi.config
from ccsi.errors import UserError
from ccsi.io.files import open_regular
from ccsi.io.run_files import RESULT, read_result
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import JobId, RunFinished, RunId, Status, trial_name
from ccsi.sweep.remote import Remote
from ccsi.sweep.search_space import same
from ccsi.sweep.state import SweepState
from ccsi.tracking.files import NAME as METRICS

VISIBLE_WITHIN = 90.0
"""Seconds after which a machine sees what another has written; NFS caches for 30 to 60 s that a file is absent."""
Result = Mapping[str, Any]
DAMAGED = (KeyError, TypeError, AttributeError, ValueError, OverflowError)
"""What reading a damaged result.json may raise."""


def run_folder(definition: Definition, run: RunId) -> Path:
    """A run's folder in the sweep's folder."""
    return definition.folder / "runs" / str(run)


def traceback_file(definition: Definition, job: JobId) -> Path:
    """Where the driver writes the traceback of a failed job, if it has one."""
    return definition.folder / "runs" / f"{job}.error.txt"


def describe_failures(state: SweepState, jobs: Iterable[JobId] | None = None) -> list[str]:
    """A line for each of these failed jobs (default: all): its reason, and the file of its traceback if it has one."""
    lines = list[str]()
    for job in sorted(state.ends) if jobs is None else jobs:
        end, path = state.ends[job], traceback_file(state.definition, job)
        if end.status is Status.FAILED:
            where = f" (traceback: {path})" if os.path.exists(path) else ""
            lines.append(f"failed: {job}: {' '.join(end.reason.split())}{where}")
    return lines


def summary_of(run: RunId, result: Result) -> RunFinished:
    """The end of a run, from the contents of its result.json; one of `DAMAGED` if parts lack or are odd."""
    val = {name: float(value) for name, value in result["val"].items() if isinstance(value, int | float)}
    return RunFinished(run, len(result["scenario"]["classes_per_task"]), val, float(result["seconds"]["total"]))


def run_folders(definition: Definition) -> Iterator[tuple[RunId, Path]]:
    """The runs that have a folder; UserError if that cannot be known."""
    folder = definition.folder / "runs"
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); expected a folder that may be read.") from error
    for name in names:
        with suppress(ValueError):
            yield RunId.parse(name), folder / name


def finished_runs(definition: Definition, unread: list[str] | None = None) -> dict[RunId, RunFinished]:
    """The ends of all finished runs.

    unread: takes what is wrong with each result that cannot be read, in place of a UserError for the first one.
    """
    found = {}
    for run, folder in run_folders(definition):
        try:
            if (result := read_result(folder)) is not None:
                end = summary_of(run, result)
                if (metric := definition.sweep.metric.removeprefix("val_")) not in end.val:
                    raise KeyError(metric)
                found[run] = end
        except (UserError, OSError, *DAMAGED) as error:
            problem = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "is damaged"
            sentence = f"{folder / RESULT} {problem}: remove the folder to run it again."
            sentence = str(error) if isinstance(error, UserError) else sentence
            if unread is None:
                raise UserError(sentence) from error
            unread.append(sentence)
    return found


def read_results(
    definition: Definition, runs: Iterable[RunId], remote: Remote | None = None, wait: float = VISIBLE_WITHIN
) -> dict[RunId, Result]:
    """The contents of result.json of these runs, without those that NFS still hides after `wait` seconds."""
    folders = {run: run_folder(definition, run) for run in runs}
    if remote is not None:
        with suppress(OSError):
            hidden = [folder.name for folder in folders.values() if not (folder / RESULT).exists()]
            remote.fetch_results(hidden, definition.folder / "runs")
    results = _wait_for_results(folders.values(), wait)
    return {run: results[folder] for run, folder in folders.items() if folder in results}


def wait_for_result(folder: Path) -> Result:
    """The content of a run's result.json, which another machine may have written (RuntimeError: it does not appear)."""
    results = _wait_for_results([folder], VISIBLE_WITHIN)
    if not results:
        raise RuntimeError(f"the run ended without writing {folder / RESULT}")
    return results[folder]


def _wait_for_results(folders: Collection[Path], wait: float) -> dict[Path, Result]:
    """The contents of result.json in these folders, as far as they appear within `wait` seconds."""
    found, deadline = dict[Path, Result](), time.monotonic() + wait
    while True:
        absent = [folder for folder in folders if folder not in found]
        found |= {folder: result for folder in absent if (result := read_result(folder)) is not None}
        if len(found) == len(folders) or time.monotonic() >= deadline:
            return found
        time.sleep(min(1.0, wait))


def check_known(state: SweepState, results: Iterable[RunId]) -> None:
    """Raise UserError unless results that the journal lacks belong to the trials whose numbers they have.

    What the journal says of trials must also name only code that is trusted.
    """
    ccsi.config.check_targets(state.configs)
    for run in sorted(set(results) - state.results.keys()):
        folder = run_folder(state.definition, run)
        if run.trial >= len(state.configs):
            raise UserError(f"{folder} belongs to a trial that journal.jsonl does not know; put back a whole journal.")
        path = folder / "config.yaml"
        ran = ccsi.config.flat(ccsi.config.read(path)) if path.exists() else {}
        for key, value in state.configs[run.trial].items():
            if key in ran and not same(ran[key], value):
                raise UserError(
                    f"{folder} was run with {key}={ran[key]}, but trial {trial_name(run.trial)} has {value}; put "
                    "back the journal.jsonl of this sweep."
                )


def last_events(folder: Path) -> list[Mapping[str, Any]]:
    """The last events in a run's metrics.jsonl, oldest first, without lines that are damaged or being written."""
    try:
        with open_regular(folder / METRICS) as file:
            file.seek(max(0, file.seek(0, 2) - 2**16))
            lines = file.read().splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict)]


class OpenRun(NamedTuple):
    """A run that was started and has not ended. task: 1-based, None before the first event. age: of its newest file."""

    run: RunId
    task: int | None
    phase: str
    step: str
    age: float


def read_open_run(run: RunId, folder: Path) -> OpenRun:
    """How far a run is."""
    newest = 0.0
    with suppress(OSError):  # a folder that may not be read
        for file in (folder, *folder.iterdir()):
            with suppress(OSError):  # a temporary file, renamed meanwhile
                newest = max(newest, file.stat().st_mtime)
    events = [event for event in last_events(folder) if isinstance(event.get("task"), int)]
    last = events[-1] if events else {}
    step = f"{last['step']}/{last['steps']}" if {"step", "steps"} <= last.keys() else ""
    return OpenRun(run, last.get("task"), str(last.get("phase", "")), step, max(0.0, time.time() - newest))
