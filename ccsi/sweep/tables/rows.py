"""One row per run and one per trial: what `runs.csv` and `trials.csv` hold, and all other tables start from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ccsi.io.atomic import write_atomically
from ccsi.io.text import all_printable
from ccsi.sweep import selection
from ccsi.sweep.events import JobId, RunId, RunLost, Status, trial_name
from ccsi.sweep.progress import tasks_done
from ccsi.sweep.recorder import SweepRecorder, replay
from ccsi.sweep.runs import VISIBLE_WITHIN, Result, read_results, run_folder
from ccsi.sweep.state import SweepState

Row = dict[str, Any]
HEADINGS = {"macro_over_tasks": "macro over tasks", "macro_over_classes": "macro over classes", "micro": "micro"}
HEADINGS |= {"average_incremental": "avg. incremental", "forgetting": "forgetting"}
"""Figures of the tables, as result.json names them -> as a heading."""


@dataclass(frozen=True)
class SweepResults:
    """A sweep's state with the result.json of its finished runs: all that tables are made from."""

    state: SweepState
    results: Mapping[RunId, Result]

    def of_trial(self, phase: int, trial: int) -> list[Result]:
        """The results of a trial's finished runs."""
        return [self.results[run] for run in self.state.runs(phase, trial) if run in self.results]


def collect_results(recorder: SweepRecorder, wait: float = VISIBLE_WITHIN) -> SweepResults:
    """The state of now and the results of all finished runs; in phase 2 a run without result.json counts as open.

    wait: seconds to wait for files that NFS still hides.
    """
    state = recorder.state
    results = read_results(recorder.definition, state.results, recorder.remote, wait)
    absent = [run for run in state.results if run.phase == 2 and run not in results]
    if absent:
        state = replay(recorder.definition, recorder.journal)
        for run in absent:
            state.apply(RunLost(run))
    return SweepResults(state, results)


def run_rows(sweep: SweepResults) -> list[Row]:
    """One row per run; in phase 2 also finished ones of former finalists (a trial is retried, or a budget raised)."""
    state, finalists, known = sweep.state, selection.finalists(sweep.state), selection.known_trials(sweep.state)
    runs = [run for trial in known for run in state.runs(1, trial)]
    for trial in dict.fromkeys([*finalists, *known]):
        runs += [run for run in state.runs(2, trial) if trial in finalists or run in state.results]
    return [_run_row(sweep, run) for run in runs]


def _run_row(sweep: SweepResults, run: RunId) -> Row:
    state, result, end = sweep.state, sweep.results.get(run), sweep.state.results.get(run)
    status, pruned = state.run_status(run), ""
    if run.phase == 1:
        pruned = selection.pruned_by(state, run.trial) or ""
        if status is Status.PRUNED and run.trial in selection.waiting_trials(state):
            status, pruned = Status.WAITING, ""
    row: Row = {"phase": run.phase, "trial": trial_name(run.trial), "run": str(run), "seed": run.seed}
    row |= {"status": str(status), "protocol": result["protocol"] if result else None}
    row["tasks_done"] = tasks_done(state, run)
    row |= {f"val_{name}": end.val.get(name) if end else None for name in HEADINGS}
    test = result["test"] if result and run.phase == 2 else {}  # phase 1 does not read test
    row |= {f"test_{name}": test.get(name) for name in HEADINGS}
    reported = [report.seconds for report in state.reports.get(run.job, []) if report.run == run]
    row["seconds"] = end.seconds if end else next(reversed(reported), None)
    row |= {f"config/{key}": value for key, value in state.configs[run.trial].items()}
    row |= {"run_dir": str(run_folder(state.definition, run)), "pruned": pruned}
    return row | {"error": state.ends[run.job].reason if status is Status.FAILED else ""}


def trial_rows(sweep: SweepResults) -> list[Row]:
    """One row per trial: how it stands in both phases, its scores on val, and its config."""
    state, rows = sweep.state, list[Row]()
    finalists, waiting = selection.finalists(state), selection.waiting_trials(state)
    for trial in sorted({*selection.known_trials(state), *state.untuned}):
        finalist = trial in finalists
        status = "untuned" if trial in state.untuned else str(state.trial_status(1, trial))
        if status == Status.PRUNED and trial in waiting:
            status = str(Status.WAITING)
        row: Row = {"trial": trial_name(trial), "status": status, "score": state.score(1, trial)}
        row["tasks_done"] = sum(tasks_done(state, run) for run in state.runs(1, trial))
        row |= {"seconds": sum(state.seconds(1, trial)) or None, "finalist": finalist}
        row["phase_2_status"] = str(state.trial_status(2, trial)) if finalist else None
        row["phase_2_score"] = state.score(2, trial) if finalist else None
        row |= {f"config/{key}": value for key, value in state.configs[trial].items()}
        row["pruned"] = selection.pruned_by(state, trial) or ""
        row["error"] = first_error(state, [*state.jobs(1, trial), *state.jobs(2, trial)])
        rows.append(row)
    return rows


def first_error(state: SweepState, jobs: Iterable[JobId]) -> str:
    """Why the first failed one of these jobs failed; empty if none did."""
    ends = [state.ends[job] for job in jobs if job in state.ends]
    return next((end.reason for end in ends if end.status is Status.FAILED), "")


def write_rows(sweep: SweepResults) -> pd.DataFrame:
    """Write runs.csv, runs.parquet and trials.csv; returns the table of runs."""
    runs, folder = _table(run_rows(sweep)), sweep.state.definition.folder
    write_csv(folder / "runs.csv", runs)
    write_atomically(folder / "runs.parquet", runs.to_parquet(index=False))
    write_csv(folder / "trials.csv", _table(trial_rows(sweep)))
    return runs


def _table(rows: Sequence[Row]) -> pd.DataFrame:
    """A table with one type per column: lists and mixed config values become text, as Parquet wants it."""
    table = pd.DataFrame(all_printable(rows))  # a path need not be UTF-8
    for name in table.filter(regex="^config/").select_dtypes(exclude="number"):
        table[name] = table[name].map(lambda v: v if isinstance(v, str) else json.dumps(v), na_action="ignore")
    return table.astype(dict.fromkeys(table.filter(regex="^(val_|test_|seconds$)"), "float64"))


def write_csv(path: Path, rows: pd.DataFrame | Sequence[Row]) -> None:
    """Write a table, lists and dicts in it as JSON."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(all_printable(rows))
    table = table.map(lambda value: json.dumps(value) if isinstance(value, list | dict) else value)
    write_atomically(path, table.to_csv(index=False).encode())
