"""model.json: everything about a model that is not a tensor."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError, with_config

from ccsi.checks import NonNegative, Positive, Probability
from ccsi.data.input import InputFormat
from ccsi.errors import UserError
from ccsi.io.run_files import check_schema

SCHEMA = 1
LONGEST = 64 * 2**20
"""Bytes of model.json at most."""
Count = Annotated[int, Ge(0), Le(2**53)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@with_config(STRICT)
@dataclass(frozen=True)
class Figures:
    """Of images of some classes, scored among all classes that the model knows.

    Attributes:
        images: how many. accuracy: share that is classified correctly. macro_recall: mean recall of the classes.
        auc: MedMNIST's; None for a single class. recall_per_class: None for a class without images.
        confusion: counts; a row for each of the classes, a column for each class of the model.
    """

    images: Count
    accuracy: Probability
    macro_recall: Probability
    auc: Probability | None
    recall_per_class: list[Probability | None]
    confusion: list[list[Count]]


@with_config(STRICT)
@dataclass(frozen=True)
class Calibration:
    """How far a task's probabilities are from the share of correct answers.

    Attributes:
        task: 1-based. measured_on: `val`; of old classes `exemplars`, or `kept statistics`: features of new images,
            moved to the mean features of old classes.
        images: how many. before, after: expected calibration error without and with the temperature.
    """

    task: Count
    measured_on: str
    images: Count
    before: Probability | None
    after: Probability | None


@with_config(STRICT)
@dataclass(frozen=True)
class StoredRecord:
    """A `ccsi.learners.base.Stored`."""

    kind: str
    count: Count
    bytes: Count


@with_config(STRICT)
@dataclass(frozen=True)
class Shown:
    """What `evaluate.data` showed: accuracy on old and new classes before and after the task; None without images."""

    images: Count
    old_before: Probability | None
    old_after: Probability | None
    new_after: Probability | None


@with_config(STRICT)
@dataclass(frozen=True)
class TaskRecord:
    """One task: a first fit, or an extension.

    Attributes:
        classes: names, in the order of the model's classes. images: by split, how many of each class.
        data: name of the data set. data_sha256: of its images and labels at the network's input size.
        date: the day it was learned, UTC. versions: of ccsi, python, torch, …. seconds: of work.
        changes: settings that differ from those of the task before, by dotted key.
        weights_sha256, impressions_sha256: after this task; a run of the same tasks has the same.
        stored: data derived from real images that the model kept then.
        val, test: on this task's own images; test is None where there were none.
        calibration: of each task so far. shown: see `Shown`; None where no image of an old class was shown.
    """

    classes: list[str]
    images: dict[str, list[Count]]
    data: str
    data_sha256: str
    date: str
    versions: dict[str, str]
    device: str
    threads: Count
    workers: Count
    seconds: NonNegative
    changes: dict[str, JsonValue]
    weights_sha256: str
    impressions_sha256: str | None
    stored: list[StoredRecord]
    val: Figures
    test: Figures | None
    calibration: list[Calibration]
    shown: Shown | None


@with_config(STRICT)
@dataclass(frozen=True)
class FileRecord:
    """A file of the folder."""

    bytes: Count
    sha256: str


@with_config(STRICT)
@dataclass(frozen=True)
class ModelRecord:
    """The content of model.json.

    Attributes:
        learner: the method's name. about: what it is, in one paragraph. data_free: no real image is in the folder.
        parameters: of the network. pretrained: the weights that it started from; "" for a random start.
        input: how a stored image becomes the network's input, uint8, which is divided by 255.
        temperature: probabilities are softmax(scores / temperature).
        reference: what `ccsi.model.reference` keeps that is derived from real images.
        config: the nodes `model`, `learner`, `training` and `dataset` of the configuration, and seed, threads, device.
        files: those with the tensors.
    """

    schema: int
    learner: str
    about: str
    data_free: bool
    parameters: Count
    pretrained: str
    class_names: list[str]
    input: InputFormat
    temperature: Positive
    reference: list[StoredRecord]
    config: dict[str, Any]
    tasks: list[TaskRecord]
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """The number of classes of each task."""
        return [len(task.classes) for task in self.tasks]

    @property
    def sha256(self) -> str:
        """Of the whole record."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()

    def to_json(self) -> bytes:
        """The content of model.json, which ends with its own checksum."""
        return json.dumps(asdict(self) | {"sha256": self.sha256}, indent=1, allow_nan=False).encode()


ADAPTER = TypeAdapter(ModelRecord)


def canonical(value: Any) -> bytes:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_record(data: bytes, path: Path) -> ModelRecord:
    """The record in the content of a model.json.

    Raises:
        UserError: it is damaged or was edited, is of a newer version, or does not fit together.
    """
    copy = "expected the file as ccsi wrote it; put back a good copy of the folder"
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is no JSON object; {copy}.") from error
    check_schema(content, SCHEMA, path)
    digest = content.pop("sha256", None)
    try:
        whole = hashlib.sha256(canonical(content)).hexdigest()
    except (ValueError, RecursionError):
        whole = ""
    if digest != whole:
        raise UserError(f"{path} is damaged or was edited: its checksum does not match; {copy}.")
    try:
        record = ADAPTER.validate_json(canonical(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(f"{path}: {where}: {first['msg']}; {copy}.") from error
    if [name for task in record.tasks for name in task.classes] != record.class_names or not record.tasks:
        raise UserError(f"{path}: class_names are not those of the tasks; {copy}.")
    return record
