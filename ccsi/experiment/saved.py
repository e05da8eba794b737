"""The plain part of a checkpoint: which fields it has, and of what type. The learner checks its own part."""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import Ge
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from ccsi.errors import UserError
from ccsi.io.run_files import check_schema
from ccsi.stage import State

Count = Annotated[int, Ge(0)]
SCHEMA = 1
"""Of a checkpoint; one without a schema is of the first."""


@with_config(ConfigDict(strict=True))
class SavedStages(TypedDict):
    """The stages of the task in progress: results of those done, the name and state of the present one."""

    done: dict[str, Any]
    name: str
    state: Any


@with_config(ConfigDict(strict=True))
class SavedEvaluator(TypedDict):
    """Of one split, after each task: the confusion matrix, and the AUC (NaN for a single class)."""

    confusions: list[list[list[Count]]]
    aucs: list[float]


@with_config(ConfigDict(strict=True))
class SavedStored(TypedDict):
    """A `ccsi.learners.base.Stored`."""

    kind: str
    count: Count
    bytes: Count


@with_config(ConfigDict(strict=True))
class SavedRecord(TypedDict):
    """What result.json has of each task."""

    impressions_sha256: list[str]
    stored_after_task: list[list[SavedStored]]


@with_config(ConfigDict(strict=True))
class Saved(TypedDict):
    """Fields that a checkpoint has; others are ignored."""

    data: str
    device: str
    tasks_done: Count
    learner: dict[str, Any]
    evaluators: dict[str, SavedEvaluator]
    record: SavedRecord
    seconds: dict[str, float]
    total_seconds: float
    peak_bytes: dict[str, int]
    stages: SavedStages | None
    lines: int
    starts: NotRequired[list[dict[str, JsonValue]]]


SAVED = TypeAdapter[Any](Saved)


def check_fields(saved: Any, path: Path) -> State:
    """A checkpoint without fields that are not known here.

    Raises:
        UserError: it is of a newer version, lacks a field or has one of another type.
    """
    if isinstance(saved, dict):
        check_schema(saved, SCHEMA, path)
    try:
        fields: State = SAVED.validate_python(saved)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(
            f"{path} is not as this version of ccsi writes it ({where}: {first['msg']}); put back a good copy to "
            "resume, or start anew with another run_dir."
        ) from error
    return fields


def check_tasks(saved: State, n_tasks: int, path: Path) -> None:
    """Raise UserError unless a checkpoint has the figures of every task that it says is done."""
    done = saved["tasks_done"]
    counts = [done, *(len(one[key]) for one in saved["evaluators"].values() for key in ("confusions", "aucs"))]
    counts.append(len(saved["record"]["stored_after_task"]))
    if done > n_tasks or len(set(counts)) > 1:
        raise UserError(
            f"{path}: tasks_done is {done} of {n_tasks}, but its figures are of {min(counts)} to {max(counts)} tasks; "
            "put back a good copy to resume, or start anew with another run_dir."
        )
