"""Files of a run's folder, read without importing torch: result.json, and a fingerprint of the checkpoint."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ccsi.errors import UserError

RESULT, CHECKPOINT = "result.json", "checkpoint.pt"
SCHEMA = 2
"""Of result.json. Schema 1 has the figures on test at the top level, and some of them under other names."""
RENAMED = {
    "final_accuracy_macro": "macro",
    "final_accuracy_micro": "micro",
    "average_incremental_accuracy": "average_incremental",
}
"""Figures of schema 1 that have another name now."""


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a finished run's result.json, in the present schema; None if the run is not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict):
            raise ValueError("no object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove the folder to run it again.") from error
    return upgraded(result) if result.get("schema") == 1 else result


def finite(value: Any) -> Any:
    """`value` with None for every number that JSON cannot hold (the AUC of a single class is NaN)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def split_to_show(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """`test` and its figures where the run was evaluated on it, else `val` and its figures."""
    split = "test" if result["test"]["accuracy_matrix"] else "val"
    return split, result[split]


def classes_of_tasks(result: Mapping[str, Any]) -> list[list[str]]:
    """The names of each task's classes."""
    names = iter(result["dataset"]["class_names"])
    return [list(islice(names, count)) for count in result["scenario"]["classes_per_task"]]


def upgraded(result: dict[str, Any]) -> dict[str, Any]:
    """A result of schema 1 in the present one."""
    val = result["val"]
    names = {key: RENAMED.get(key, key) for key in val if key != "acc"}  # acc was micro
    splits = {"test": result, "val": val}
    figures = {split: {new: own.get(old) for old, new in names.items()} for split, own in splits.items()}
    return {key: result[key] for key in result if key not in val} | {"schema": SCHEMA} | figures


def fingerprint(checkpoint: Path) -> str:
    """A short text that is the same for copies of a checkpoint file, and another for every other state.

    Reads the file's ends only, where its digest is (see `ccsi.experiment.checkpoint`). Raises OSError if it cannot.
    """
    with checkpoint.open("rb") as file:
        ends = file.read(128)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 128))
        ends += file.read()
    return f"{size}-{hashlib.sha256(ends).hexdigest()[:32]}"
