"""What happens in a sweep: ids and typed events. An event is one line of journal.jsonl.

An event says all that the driver needs: the end of a run carries its val figures and seconds, so that no decision
waits for a file to become visible.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, get_type_hints

from annotated_types import Le
from pydantic import TypeAdapter

from ccsi.checks import PositiveInt, Seed

Samples = Annotated[PositiveInt, Le(100_000)]
"""A number of configs; more of them could not be run, and listing them would take minutes."""
Values = dict[str, Any]
"""A trial's config: each swept key with its value."""


class Status(StrEnum):
    """How a run or a trial stands."""

    DONE = "done"
    PRUNED = "pruned"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    """Not started, running, or interrupted."""
    WAITING = "waiting"
    """Stopped by successive halving, and may still be promoted; in tables only."""
    RUNNING = "running"
    """In tables only."""


class JobId(NamedTuple):
    """What Ray Tune runs as one of its trials: in phase 1 a trial with all its seeds, in phase 2 a single run."""

    phase: int
    trial: int
    seed: int | None = None

    def __str__(self) -> str:
        return f"p{self.phase}-c{self.trial:02d}" + ("" if self.seed is None else f"-s{self.seed}")

    @classmethod
    def parse(cls, name: str) -> "JobId":
        """`p1-c05` or `p2-c05-s1`. Raises ValueError for any other text."""
        if (found := re.fullmatch(r"p(1)-c(\d+)|p(2)-c(\d+)-s(\d+)", name)) is None:
            raise ValueError(f"{name} is not a job's name")
        return cls(*(int(number) for number in found.groups() if number is not None))


class RunId(NamedTuple):
    """One seed of a trial in one phase; its text is the name of its folder."""

    phase: int
    trial: int
    seed: int

    def __str__(self) -> str:
        return f"p{self.phase}-c{self.trial:02d}-s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> "RunId":
        """`p1-c05-s100`. Raises ValueError for any other text."""
        if (found := re.fullmatch(r"p([12])-c(\d+)-s(\d+)", name)) is None:
            raise ValueError(f"{name} is not a run's name")
        return cls(*map(int, found.groups()))

    @property
    def job(self) -> JobId:
        """The job it belongs to."""
        return JobId(self.phase, self.trial, None if self.phase == 1 else self.seed)


def trial_name(trial: int) -> str:
    """`c05`: how tables name a trial."""
    return f"c{trial:02d}"


@dataclass(frozen=True)
class DriverStarted:
    """A driver starts, or resumes the sweep: failed jobs are run again, because the disk may have been full."""


@dataclass(frozen=True)
class DriverStopped:
    """A driver stops."""


@dataclass(frozen=True)
class SweepExtended:
    """A resumed sweep goes further from now on. The fields are what it may increase: these keys of `sweep`."""

    num_samples: Samples
    top_k: PositiveInt
    reporting: list[Seed]


@dataclass(frozen=True)
class ConfigSuggested:
    """The search suggests the config of a new trial. trial: its number; the first journals lack it."""

    config: Values
    trial: int | None = None


@dataclass(frozen=True)
class SearchEnded:
    """The search suggests no further config."""


@dataclass(frozen=True)
class WarmStarted:
    """Earlier sweeps were read once. trials: `values`, `score` and `seconds` of each trial they completed."""

    folders: list[str]
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class GpuShareMeasured:
    """The fraction of a GPU that a trial gets."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"{self.share}: expected a share of a GPU")


@dataclass(frozen=True)
class TrialStarted:
    """A trial of phase 1 is handed to Tune for the first time."""

    trial: int


@dataclass(frozen=True)
class TrialPromoted:
    """A stopped trial resumes. anyway: its value is not among the best quarter, and it is not stopped again."""

    trial: int
    anyway: bool


@dataclass(frozen=True)
class TaskReported:
    """A run has learned a task.

    Attributes:
        task: 1-based, of `tasks`. score: the run's metric on val so far. seconds: of the run so far.
        tasks_done: counted over the seeds of the job. value: mean metric over its seeds so far.
    """

    run: RunId
    task: int
    tasks_done: int
    value: float
    tasks: int | None = None
    score: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class RunFinished:
    """A run has written its result.json. val: its figures there that are single numbers. seconds: total."""

    run: RunId
    tasks: int
    val: dict[str, float]
    seconds: float

    def __post_init__(self) -> None:
        if self.tasks < 1 or not all(map(math.isfinite, (*self.val.values(), self.seconds))):
            raise ValueError(f"{self.run}: expected finite figures of at least one task")


@dataclass(frozen=True)
class RunLost:
    """The result.json of a finished run is missing: the run is repeated."""

    run: RunId


@dataclass(frozen=True)
class JobEnded:
    """A job ended. status: done, pruned or failed. reason: who pruned it, or the error."""

    job: JobId
    status: Status
    reason: str = ""


Event = (
    DriverStarted | DriverStopped | SweepExtended | ConfigSuggested | SearchEnded | WarmStarted | GpuShareMeasured
    | TrialStarted | TrialPromoted | TaskReported | RunFinished | RunLost | JobEnded
)  # fmt: skip
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__args__}
PARSERS: dict[str, Callable[[str], Any]] = {"run": RunId.parse, "job": JobId.parse, "status": Status}
CHECKERS = {
    (kind, name): TypeAdapter[Any](hint)
    for kind, cls in KINDS.items()
    for name, hint in get_type_hints(cls, include_extras=True).items()
    if name not in PARSERS
}
"""Check the types of the other fields."""
OLD_KINDS = {"setting": "ConfigSuggested", "searched": "SearchEnded", "begun": "TrialStarted"}
OLD_KINDS |= {"gpu": "GpuShareMeasured", "recalled": "TrialPromoted"}
OLD_KINDS |= {"earlier": "WarmStarted", "report": "TaskReported", "end": "JobEnded"}
"""The kind of a record of the first journals (until November 2026), by a key that only this kind has there."""
OLD_FIELDS = {"setting": "config", "gpu": "share", "tried": "trials", "begun": "trial", "recalled": "trial"}
OLD_FIELDS |= {"spared": "anyway", "trial": "job", "end": "status", "error": "reason"}
"""Fields that had another name there."""


def to_record(event: Event) -> dict[str, Any]:
    """The event as plain JSON types, with its kind under `event`."""
    fields = {name: str(value) if name in PARSERS else value for name, value in vars(event).items()}
    return {"event": type(event).__name__, **fields}


def from_record(record: Mapping[str, Any]) -> Event:
    """The event of a line of any journal.jsonl. Raises KeyError, TypeError or ValueError if it is none."""
    if "event" not in record:
        record = _upgraded(record)
    if "macro" in record.get("val", {}):  # the name of a figure until 2026
        record = {**record, "val": {"macro_over_tasks" if k == "macro" else k: v for k, v in record["val"].items()}}
    kind = KINDS[record["event"]]
    fields = {name: value for name, value in record.items() if name in kind.__dataclass_fields__}
    return kind(**{name: _parse(kind, name, value) for name, value in fields.items()})


def _parse(kind: type[Event], name: str, value: Any) -> Any:
    """The value of an event's field, its type checked."""
    return (
        PARSERS[name](value) if name in PARSERS else CHECKERS[kind.__name__, name].validate_python(value, strict=True)
    )


def _upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the first journals as one of today's."""
    if set(record) == {"clock"}:
        return {"event": "DriverStopped"}
    (kind,) = (OLD_KINDS[key] for key in record if key in OLD_KINDS)  # ValueError: it is none
    values = {**record, **record.get("report", {}), **record.get("earlier", {})}
    return {"event": kind, **{OLD_FIELDS.get(name, name): value for name, value in values.items()}}
