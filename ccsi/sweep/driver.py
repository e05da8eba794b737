"""The driver of a sweep: both phases (METHOD section 8), then the tables.

Phase 1: a job is a *trial*, which runs its tuning seeds in turn; so no mean is taken over the seeds that happened to
survive. Phase 2: a job is a run, (trial, reporting seed), and none is pruned.
"""

import contextlib
import os
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from ccsi.config import build, shown
from ccsi.errors import UserError
from ccsi.io.text import first_line, warn
from ccsi.sweep import selection
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import RunFinished, RunId
from ccsi.sweep.execution.context import execute, prepare_ray
from ccsi.sweep.folder import TUNE_FOLDER, clean_folder, open_remote
from ccsi.sweep.processes import NOTE, ProcessWatch
from ccsi.sweep.progress import ProgressPrinter
from ccsi.sweep.recorder import SweepInterruptedError, SweepRecorder
from ccsi.sweep.runs import (
    VISIBLE_WITHIN,
    check_known,
    describe_failures,
    finished_runs,
    read_results,
    run_folder,
    summary_of,
)
from ccsi.sweep.trial_generator import generate_jobs, start_trial
from ccsi.sweep.warm_start import warm_start

if TYPE_CHECKING:  # it imports torch, which the driver of a cluster does not need
    from ccsi.experiment.tasks import Setup


def debug(definition: Definition, console: Console) -> int:
    """Run the first trial's first seed in this process: breakpoints work, exceptions come through."""
    describe_data(definition, console)
    definition.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    recorder = SweepRecorder(definition)
    warm_start(recorder)
    trial = 0 if recorder.state.configs else start_trial(recorder)
    assert trial is not None
    phase = 2 if trial in recorder.state.untuned else 1
    run = recorder.state.runs(phase, trial)[0]
    config = definition.run_config(recorder.state.configs[trial], phase, run.seed, definition.runs / str(run))
    result = execute(config, on_task_end=lambda event: None)
    metric = definition.sweep.metric
    value = result["val"][metric.removeprefix("val_")]
    console.print(f"{run}: {metric} {value:.3f}  ({run_folder(definition, run)})")
    return 0


def run_sweep(definition: Definition, console: Console) -> int:
    """Run both phases and write the tables; returns the exit code.

    0: done. 1: interrupted by an error, no figures, or a reported trial lacks seeds. 130: interrupted by Ctrl-C.
    """
    recorder = SweepRecorder(definition)
    if recorder.journal.n_skipped:
        lines = f"{recorder.journal.n_skipped} damaged line{'s' * (recorder.journal.n_skipped > 1)}"
        console.print(f"journal.jsonl: {lines} skipped (a kill or a full disk cuts the last one).")
    warm_start(recorder)
    console.print(f"Sweep {definition.name} in {definition.folder}", soft_wrap=True)
    if definition.sweep.storage is not None:
        recorder.remote = open_remote(definition, definition.sweep.storage)
        recorder.sync()
    try:
        recorder.start(results_at_start(recorder, console))
        try:
            if recorder.is_extended or not selection.is_complete(recorder.state):
                run_phases(recorder, console)
        finally:
            with contextlib.suppress(OSError):  # a full disk
                recorder.stop()
    except KeyboardInterrupt:
        from ccsi.sweep.tables.rows import collect_results, write_rows

        write_rows(collect_results(recorder, wait=0.0))
        done = len(recorder.state.results)
        console.print(f"Interrupted: {done} runs are done (runs.csv). Resume with:")
        console.print(f"  ccsi sweep resume={definition.folder}", soft_wrap=True)
        return 130
    except SweepInterruptedError as error:
        print(f"ccsi: interrupted: {error}; fix it, and resume with resume={definition.folder}.", file=sys.stderr)
        return 1
    else:
        return write_tables(recorder, console)
    finally:
        recorder.sync()
        if recorder.remote is not None:
            recorder.remote.release()


def results_at_start(recorder: SweepRecorder, console: Console) -> dict[RunId, RunFinished]:
    """The ends of all finished runs; waits for those of the journal that NFS may still hide."""
    definition, state, results = recorder.definition, recorder.state, finished_runs(recorder.definition)
    if hidden := [run for run in state.results if run not in results and run_folder(definition, run).is_dir()]:
        console.print(f"Waiting for the results of {len(hidden)} finished runs to be visible …")
        found = read_results(
            definition, hidden, recorder.remote, wait=1.0 if definition.ray.address is None else VISIBLE_WITHIN
        )
        results |= {run: summary_of(run, result) for run, result in found.items()}
    check_known(state, results)
    return results


def describe_data(definition: Definition, console: Console) -> None:
    """Check the sweep (see `validate`); print the summary of each of its data sets, once for all runs, and write it."""
    from ccsi.experiment.description import describe, write_description

    for number, setup in enumerate(validate(definition), start=1):
        summary = describe(setup.data, setup.plan, setup.learner)
        for line in summary.all_lines():
            console.print(line, soft_wrap=True)
        write_description(definition.folder, setup.data, summary, number)


def validate(definition: Definition) -> "list[Setup]":
    """Check that data, scenario, model and learner fit together, from the folder where the sweep was first typed.

    Returns:
        What a run works on, once for each data set.
    """
    try:
        os.chdir(definition.cwd)
    except OSError as error:
        raise UserError(
            f"{definition.cwd}, where this sweep was started and its relative paths begin, cannot be entered "
            f"({error.strerror}): put it back, or start a new sweep."
        ) from error
    found: dict[str, Setup] = {}
    for base in definition.bases.values():
        if base["_target_"] == "ccsi.experiment.run":
            shared = base.get("share_data") or str(definition.shared_data)
            import ccsi.experiment  # seconds: PyTorch

            as_in_phase_1 = {"_target_": ccsi.experiment.validate, "evaluate_test": False, "share_data": shared}
            setup = build(base | as_in_phase_1)()
            found.setdefault(setup.data.checksum, setup)
    return list(found.values())


def run_phases(recorder: SweepRecorder, console: Console) -> None:
    """Start Ray and run what is left of the two phases."""
    definition = recorder.definition
    prepare_ray(local=definition.ray.address is None)
    if definition.ray.address is None:
        describe_data(definition, console)  # a cluster's nodes may have data that this machine lacks
    console.print(f"Starting Ray ({shown(definition.ray.address or 'local')}) …")
    from ccsi.sweep.execution import cluster, tuner  # seconds to import

    def on_death(name: str) -> None:
        message = f"Ray's process {name} has died; resume with ccsi sweep resume={definition.folder}"
        cluster.leave_lost_ray(message, watch, recorder.stop, recorder.sync, partial(clean_folder, definition))

    progress, watch = ProgressPrinter(recorder, console), ProcessWatch(definition.folder / NOTE, on_death)
    try:
        with cluster.start_ray(definition.ray, console, watch, dashboard=definition.resources.workers > 1):
            recorder.extend()
            if recorder.state.extended and (limit := recorder.state.exhausted_by()):
                console.print(f"Phase 1 starts no further trial: {limit} is reached.")
            tuner.run_jobs(recorder, progress, generate_jobs(recorder, progress.start_phase))
    finally:  # no worker writes there any more
        shutil.rmtree(definition.folder / TUNE_FOLDER, ignore_errors=True)
        if recorder.remote is not None:
            shutil.rmtree(definition.runs, ignore_errors=True)


def write_tables(recorder: SweepRecorder, console: Console) -> int:
    """Write and print the results; returns the exit code."""
    from ccsi.sweep.tables.comparison import write_comparison
    from ccsi.sweep.tables.leaderboard import leaderboard, write_leaderboard
    from ccsi.sweep.tables.rows import collect_results, write_rows

    definition, sweep = recorder.definition, collect_results(recorder)
    rows = write_rows(sweep)
    failed = rows[rows["status"] == "failed"]
    if lines := describe_failures(sweep.state):
        lines.append(f"{len(lines)} failed; to try again: ccsi sweep resume={definition.folder}")
        console.print("\n".join(lines), soft_wrap=True)
    board = leaderboard(sweep)
    if not any(row["status"] == "done" for row in board):
        why = f"; the first error: {failed.iloc[0]['error']}" if len(failed) else ""
        problem = f"no trial completed phase {2 if board else 1}{why} (see runs.csv)"
        if not selection.is_search_finished(sweep.state):
            running, n_known = len(selection.unfinished(sweep.state)), len(selection.known_trials(sweep.state))
            n_trials = n_known + selection.n_unsuggested(sweep.state)
            problem = f"phase 1 is not finished ({n_known - running} of {n_trials} trials)"
            problem += f"; resume it with resume={definition.folder}, or see runs.csv"
        print(f"ccsi: nothing to report: {problem}", file=sys.stderr)
        return 1
    write_leaderboard(sweep, console)
    compared = write_comparison(sweep, console) if definition.compared else []
    try:  # an error in a picture must not cost a sweep its tables
        draw_plots(definition)
    except Exception as error:
        again = f"draw them with ccsi report {definition.folder}"
        warn(f"not all plots were drawn ({first_line(error)}); {again}")
    best = "best/" if definition.compared else "best.yaml"
    console.print(f"Tables, {best} and plots: {definition.folder}", soft_wrap=True)
    if incomplete := compared or [row["trial"] for row in board if row["status"] != "done"]:
        problem = f"{', '.join(incomplete)} lack reporting seeds and are not averaged"
        print(f"ccsi: {problem}; retry them with resume={definition.folder}", file=sys.stderr)
    return int(bool(incomplete))


def draw_plots(definition: Definition) -> None:
    """Draw the sweep's pictures from its tables."""
    from ccsi.report.sweep import draw_sweep

    sweep = definition.sweep
    draw_sweep(definition.folder, sweep.metric.removeprefix("val_"), sweep.minimize, definition.compared)
