"""One row per run and one per trial: what `runs.csv` and `trials.csv` hold, and all other tables start from."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ccsi.io.atomic import write_atomically
from ccsi.sweep import selection
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import RunId, RunLost, Status, trial_name
from ccsi.sweep.progress import tasks_reported
from ccsi.sweep.recorder import SweepRecorder, replay
from ccsi.sweep.runs import VISIBLE_WITHIN, Result, read_results, run_folder
from ccsi.sweep.state import SweepState

FIGURES = ("macro", "micro", "average_incremental", "forgetting")
"""Figures of the tables, as result.json names them."""
HEADINGS = {"macro": "macro", "micro": "micro", "average_incremental": "avg. incremental", "forgetting": "forgetting"}


@dataclass(frozen=True)
class SweepResults:
    """A sweep's state with the result.json of its finished runs: all that tables are made from."""

    state: SweepState
    results: Mapping[RunId, Result]

    @property
    def definition(self) -> Definition:
        return self.state.definition

    def of_trial(self, phase: int, trial: int) -> list[Result]:
        """The results of a trial's finished runs."""
        return [self.results[run] for run in self.state.runs(phase, trial) if run in self.results]


def collect_results(recorder: SweepRecorder, wait: float = VISIBLE_WITHIN) -> SweepResults:
    """The state of now and the results of all finished runs; in phase 2 a run without result.json counts as open.

    Args:
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


def run_rows(sweep: SweepResults) -> list[dict[str, Any]]:
    """One row per run. Of phase 2 the finalists' runs, and all other finished ones.

    There are others when a trial that failed in phase 1 is retried, or a budget is raised: the finalists are then not
    known any more.
    """
    state = sweep.state
    finalists, known, waiting = (
        selection.finalists(state),
        selection.known_trials(state),
        selection.waiting_trials(state),
    )
    rows = [_run_row(sweep, run) for trial in known for run in state.runs(1, trial)]
    for row in rows:
        if row["status"] == Status.PRUNED and int(row["trial"][1:]) in waiting:
            row["status"], row["pruned"] = str(Status.WAITING), ""
    others = [trial for trial in known if trial not in finalists]
    return rows + [
        _run_row(sweep, run)
        for trial in [*finalists, *others]
        for run in state.runs(2, trial)
        if trial in finalists or run in state.results
    ]


def _run_row(sweep: SweepResults, run: RunId) -> dict[str, Any]:
    state, result = sweep.state, sweep.results.get(run)
    row: dict[str, Any] = {"phase": run.phase, "trial": trial_name(run.trial), "run": str(run), "seed": run.seed}
    row["status"] = str(state.run_status(run))
    row["protocol"] = result["protocol"] if result else None
    end = state.results.get(run)
    row["tasks_done"] = end.tasks if end else tasks_reported(state, run)
    row |= {f"val_{name}": end.val.get(name) if end else None for name in FIGURES}
    test = result["test"] if result and run.phase == 2 else {}  # phase 1 does not read test
    row |= {f"test_{name}": test.get(name) for name in FIGURES}
    reports = [report for report in state.reports.get(run.job, []) if report.run == run]
    row["seconds"] = end.seconds if end else reports[-1].seconds if reports else None
    row |= {f"config/{key}": value for key, value in state.configs[run.trial].items()}
    row["run_dir"] = str(run_folder(state.definition, run))
    row["pruned"] = (selection.pruned_by(state, run.trial) or "") if run.phase == 1 else ""
    failed = state.run_status(run) is Status.FAILED
    row["error"] = state.ends[run.job].reason if failed else ""
    return row


def trial_rows(sweep: SweepResults) -> list[dict[str, Any]]:
    """One row per trial: how it stands in both phases, its scores on val, and its config."""
    state, rows = sweep.state, list[dict[str, Any]]()
    finalists, waiting = selection.finalists(state), selection.waiting_trials(state)
    for trial in sorted({*selection.known_trials(state), *state.untuned}):
        status = state.trial_status(1, trial)
        row: dict[str, Any] = {"trial": trial_name(trial)}
        row["status"] = str(Status.WAITING if status is Status.PRUNED and trial in waiting else status)
        row["score"] = state.score(1, trial)
        row["tasks_done"] = sum(tasks_reported(state, run) for run in state.runs(1, trial))
        row["seconds"] = sum(state.seconds(1, trial)) or None
        row["finalist"] = trial in finalists
        row["phase_2_status"] = str(state.trial_status(2, trial)) if trial in finalists else None
        row["phase_2_score"] = state.score(2, trial) if trial in finalists else None
        row |= {f"config/{key}": value for key, value in state.configs[trial].items()}
        row["pruned"] = selection.pruned_by(state, trial) or ""
        ends = [state.ends[job] for phase in (1, 2) for job in state.jobs(phase, trial) if job in state.ends]
        row["error"] = next((end.reason for end in ends if end.status is Status.FAILED), "")
        if trial in state.untuned:
            row["status"] = "untuned"
        rows.append(row)
    return rows


def write_rows(sweep: SweepResults) -> pd.DataFrame:
    """Write runs.csv, runs.parquet and trials.csv; returns the table of runs."""
    runs = _table(run_rows(sweep))
    folder = sweep.definition.folder
    write_atomically(folder / "runs.csv", runs.to_csv(index=False).encode())
    buffer = io.BytesIO()
    runs.to_parquet(buffer, index=False)
    write_atomically(folder / "runs.parquet", buffer.getvalue())
    write_atomically(folder / "trials.csv", _table(trial_rows(sweep)).to_csv(index=False).encode())
    return runs


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table with one type per column: lists and mixed config values become text, as Parquet wants it."""
    table = pd.DataFrame(rows)
    for name in table.columns:
        if name.startswith("config/"):
            values = [value for value in table[name] if not (isinstance(value, float) and math.isnan(value))]
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                there = table[name].notna()  # a key that only some trials have
                texts = [value if isinstance(value, str) else json.dumps(value) for value in table[name]]
                table[name] = [text if known else None for text, known in zip(texts, there, strict=True)]
        elif name.startswith(("val_", "test_")) or name == "seconds":
            table[name] = table[name].astype("float64")
    return table
