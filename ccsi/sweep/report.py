"""A sweep's tables and pictures once more, from its files."""

from pathlib import Path

from rich.console import Console

from ccsi.io.text import warn
from ccsi.sweep.driver import write_tables
from ccsi.sweep.folder import lock_sweep
from ccsi.sweep.recorder import SweepRecorder, reconcile
from ccsi.sweep.resume import read_definition
from ccsi.sweep.runs import finished_runs


def report_sweep(folder: Path, console: Console) -> int:
    """Write and print what a sweep's end does; returns the exit code, see `write_tables`. Its journal is not changed.

    Raises:
        UserError: it is no sweep's folder, or a driver is at work in it.
    """
    definition = read_definition(folder, check=False, key="sweep")
    with lock_sweep(folder):
        recorder = SweepRecorder(definition)
        unread = list[str]()
        for event in reconcile(recorder.state, finished_runs(definition, unread)):
            recorder.state.apply(event)
        for line in unread:
            warn(f"not in the tables: {line}")
        return write_tables(recorder, console)
