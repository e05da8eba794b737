"""A sweep's trials, as its trials.csv and the runs' folders tell."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Trial = dict[str, str]
"""A row of trials.csv."""


def result_of(folder: Path, trial: Trial) -> Mapping[str, Any] | None:
    """The contents of a trial's result.json, wherever the sweep's folder is now; None if it has none."""
    run_dir = trial.get("run_dir", "")
    for place in (folder / run_dir, folder / "runs" / Path(run_dir).name):  # the second: the sweep was moved
        if run_dir and (place / "result.json").is_file():
            result = json.loads((place / "result.json").read_text(encoding="utf-8"))
            return result if isinstance(result, dict) and result.get("val") else None
    return None
