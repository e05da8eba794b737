"""The runs of a sweep, from its runs.csv and their folders."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccsi.errors import UserError
from ccsi.io.run_files import read_result

NAME = "runs.csv"
Run = dict[str, str]
"""A row of runs.csv: `phase`, `trial`, `seed`, `status`, figures such as `val_macro`, `config/<key>`, `run_dir` …"""


def read_runs(folder: Path) -> list[Run]:
    """The rows of a sweep's runs.csv.

    Raises:
        UserError: the folder has none.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{folder} holds no {NAME}; expected the folder of a sweep.")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path, run: Run) -> Mapping[str, Any] | None:
    """The content of a run's result.json, wherever the sweep's folder is now; None if it has none."""
    run_dir = run.get("run_dir", "")
    for place in (folder / run_dir, folder / "runs" / Path(run_dir).name):  # the second: the sweep was moved
        if run_dir and (result := read_result(place)) is not None:
            return result
    return None
