"""model.json: everything about a model that is not a tensor."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import AfterValidator, ConfigDict, JsonValue, TypeAdapter, ValidationError, with_config

from ccsi.checks import NonNegative, Probability
from ccsi.config.trust import walk
from ccsi.data.dataset import SPLITS
from ccsi.data.input import InputFormat
from ccsi.errors import UserError
from ccsi.io.run_files import check_schema
from ccsi.io.text import printable

SCHEMA = 1
LONGEST = 64 * 2**20
"""Bytes of model.json at most."""
MOST = 4_000_000
"""Values of model.json at most, that is entries of its confusion matrices: enough for some 1,400 classes."""
DEEPEST = 20
"""Levels of lists and objects in model.json at most; a network's own settings may be nested, too."""
NODES, VALUES = {"model", "learner", "training", "dataset"}, {"seed", "threads", "device"}
"""Keys of a record's `config`, and of no other: an extension takes over what is there."""


def check_line(text: str) -> str:
    """The text; ValueError if it has signs that a terminal obeys."""
    if printable(text) != text:
        raise ValueError("expected one line of printable text")
    return text


Line = Annotated[str, AfterValidator(check_line)]
Count = Annotated[int, Ge(0), Le(2**53)]
Temperature = Annotated[float, Ge(1e-6), Le(1e6)]
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
    measured_on: Line
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
    data_sha256: Line
    date: Line
    versions: dict[str, Line]
    device: str
    threads: Count
    workers: Count
    seconds: NonNegative
    changes: dict[str, JsonValue]
    weights_sha256: Line
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
    about: Line
    data_free: bool
    parameters: Count
    pretrained: str
    class_names: list[str]
    input: InputFormat
    temperature: Temperature
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

    @property
    def identity(self) -> str:
        """A checksum of what an extension depends on, without when and where it was learned."""
        tasks = [(task.classes, task.images, task.data_sha256, task.weights_sha256) for task in self.tasks]
        return hashlib.sha256(canonical([tasks, self.config, asdict(self.input)])).hexdigest()

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
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST:
        raise UserError(f"{path} is damaged: it has more values than ccsi writes; {copy}.")
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is no JSON object; {copy}.") from error
    check_schema(content, SCHEMA, path)
    digest = content.pop("sha256", None)
    try:
        check_depth(content)
        text = canonical(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its values are none that ccsi writes; {copy}.") from error
    if digest != hashlib.sha256(text).hexdigest():
        raise UserError(f"{path} is damaged or was edited: its checksum does not match; {copy}.")
    try:
        record = ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}; {copy}.") from error
    if problem := next(problems(record), None):
        raise UserError(f"{path}: {problem}; {copy}.")
    return record


def check_depth(content: Any) -> None:
    """Raise ValueError for what is nested so deeply that functions which call themselves would not come to its end."""
    level = [content]
    for _ in range(DEEPEST):
        level = [one for part in level for one in (part.values() if isinstance(part, dict) else part)]
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
    raise ValueError("nested too deeply")


def problems(record: ModelRecord) -> Iterator[str]:
    """What does not fit together in a record, whose parts have the right types."""
    names, config = record.class_names, record.config
    if [name for task in record.tasks for name in task.classes] != names or not all(record.sizes) or not names:
        yield "class_names are not those of the tasks"
    if len(set(names)) < len(names) or not all(map(str.strip, names)):
        yield "class_names has a name twice, or one that is empty"
    for task in record.tasks:
        if task.images.keys() != set(SPLITS) or any(len(one) != len(task.classes) for one in task.images.values()):
            yield "tasks.images is not the number of images of each class, by split"
    if kind := next((kind for kind, (low, high) in record.input.ranges.items() if not low < high), None):
        yield f"input.ranges.{kind} does not rise"
    if config.keys() != NODES | VALUES or not all(isinstance(config[key], dict) for key in NODES):
        yield f"config has not the keys {', '.join(sorted(NODES | VALUES))} alone"
    if key := next((key for key, one in walk(config) if "${" in key or (isinstance(one, str) and "${" in one)), None):
        yield f"config.{key} has a ${{, which stands for another value"
