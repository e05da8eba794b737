"""Files of a run's folder, read without importing torch: result.json, and a fingerprint of the checkpoint."""

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from ccsi.errors import UserError
from ccsi.io.files import open_regular, read_bytes

RESULT, CHECKPOINT = "result.json", "checkpoint.pt"
SCHEMA = 3  # of result.json


@with_config(ConfigDict(strict=True))
class ResultFields(TypedDict, total=False):
    """Types of what readers of a result take; others are ignored."""

    name: str
    dataset: dict[str, Any]
    scenario: dict[str, list[int]]
    seed: int
    learner: str
    kind: str
    stored: list[dict[str, Any]]
    val: dict[str, Any]
    test: dict[str, Any]
    seconds: dict[str, float | None]


FIGURES = TypeAdapter(ResultFields)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a finished run's result.json, in the present schema; None without one, UserError if damaged."""
    path = folder / RESULT
    try:
        result = json.loads(read_bytes(path).decode())
        if not isinstance(result, dict):
            raise ValueError("no object")
        check_schema(result, SCHEMA, path)
        result = upgraded(result) if result.get("schema") in (1, 2) else result
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected a file that may be read.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): remove the folder to run it again.") from error
    except (LookupError, AttributeError, TypeError) as error:  # in `upgraded`
        raise UserError(f"{path} is damaged (no {error}): remove the folder to run it again.") from error
    try:
        FIGURES.validate_python(result)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"{path} is damaged ({problem}): remove the folder to run it again.") from error
    return result


def check_schema(record: Mapping[str, Any], known: int, path: Path) -> None:
    """Raise UserError if a record's `schema` (absent: 1) is none, or newer than the `known` one."""
    schema = record.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise UserError(f"{path}: schema is {schema}; expected a whole number from 1 to {known}.")
    if schema > known:
        raise UserError(f"{path} was written by a newer version of ccsi (schema {schema}, not {known}); update ccsi.")


def finite(value: Any) -> Any:
    """A copy of `value` with None for every number that JSON cannot hold (the AUC of a single class is NaN)."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def split_to_show(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """`test` and its figures where the run was evaluated on it, else `val` and its figures."""
    split = "test" if result["test"]["accuracy_matrix"] else "val"
    return split, result[split]


def classes_of_tasks(result: Mapping[str, Any]) -> list[list[str]]:
    """The names of each task's classes."""
    names = iter(result["dataset"]["class_names"])
    return [list(islice(names, count)) for count in result["scenario"]["classes_per_task"]]


def upgraded(result: dict[str, Any]) -> dict[str, Any]:
    """A result of schema 1 or 2 in the present one.

    In schema 1 the figures on test are at the top level, and names are longer. Up to schema 2 `macro_over_tasks` is
    called macro, and `macro_over_classes` is not there.
    """
    if result["schema"] == 1:
        val = result["val"]
        # final_accuracy_macro, final_accuracy_micro (equal to acc) and average_incremental_accuracy are shorter now
        names = {key: key.removeprefix("final_accuracy_").removesuffix("_accuracy") for key in val if key != "acc"}
        splits = {"test": result, "val": val}
        figures = {split: {new: own.get(old) for old, new in names.items()} for split, own in splits.items()}
        result = {key: result[key] for key in result if key not in val} | figures
    return result | {"schema": SCHEMA} | {split: with_both_macros(result[split]) for split in ("test", "val")}


def with_both_macros(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A split's figures of schema 2 in the present one; what cannot be known from them is None."""
    recalls = [recall for recall in figures.get("recall_per_class") or [] if recall is not None]  # None: no images
    macros = {"macro_over_tasks": figures.get("macro"), "macro_over_classes": fmean(recalls) if recalls else None}
    return macros | {name: value for name, value in figures.items() if name != "macro"}


def fingerprint(checkpoint: Path) -> str:
    """A text that identifies a checkpoint's content, from its size and first and last 128 bytes. Raises OSError."""
    with open_regular(checkpoint) as file:
        ends = file.read(128)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 128))
        ends += file.read()
    return f"{size}-{hashlib.sha256(ends).hexdigest()[:32]}"
