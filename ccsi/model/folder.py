"""A model as a folder: model.json, tensors as safetensors, and files for people. Written whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ccsi.config import check_targets
from ccsi.errors import UserError, memory_as_user_error
from ccsi.experiment.checkpoint import sha256_of
from ccsi.io.atomic import sync_folder
from ccsi.io.files import read_bytes
from ccsi.io.paths import absolute, is_folder
from ccsi.io.text import first_line, printable
from ccsi.learners.base import NetLearner
from ccsi.model.method import NET, check_restored, method_of, restore, tensors_of, trial_image
from ccsi.model.record import LONGEST, FileRecord, ModelRecord, parse_record
from ccsi.model.reference import PREFIX, Reference, familiarity_of, first_net, read_reference

MODEL_JSON, CARD = "model.json", "MODEL_CARD.md"
WEIGHTS, MEMORY, REFERENCE = "weights.safetensors", "memory.safetensors", "familiarity.safetensors"
HEADER = 4 * 2**20
"""Bytes of the header of a file of tensors at most: one of 1,000 tensors has 100 kB."""
COPY = "expected the folder as ccsi wrote it; put back a good copy"


def model_files(record: ModelRecord, learner: NetLearner, reference: Reference) -> tuple[ModelRecord, dict[str, bytes]]:
    """The record, with what it says of its files, and the content of these files and of model.json, by name."""
    from safetensors.torch import save

    tensors = tensors_of(learner)
    check_no_images(learner, tensors)
    parts = {
        WEIGHTS: {name: value for name, value in tensors.items() if name.startswith(NET)},
        MEMORY: {name: value for name, value in tensors.items() if not name.startswith(NET)},
        REFERENCE: reference.tensors(),
    }
    files = {name: save(dict(sorted(part.items()))) for name, part in parts.items()}
    listed = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    record = replace(record, files=listed)
    return record, {MODEL_JSON: record.to_json(), **files}


def check_no_images(learner: NetLearner, tensors: Mapping[str, Tensor]) -> None:
    """Raise TypeError if a learner that keeps no exemplars has bytes among its tensors, as images are stored."""
    if any(item.kind == "exemplars" for item in learner.stored()):
        return
    if found := [name for name, value in tensors.items() if value.dtype == torch.uint8]:
        raise TypeError(f"{type(learner).__name__} keeps no exemplars, but {found[0]} has bytes, as images have.")


def check_new(path: Path, key: str = "out") -> None:
    """Raise UserError if there is something at the path of a new folder already, or its parent is no folder."""
    try:
        if os.path.lexists(path):
            raise UserError(f"{key}={printable(path)} exists already; a model is never changed: choose another name.")
        path.with_name(f"{path.name}.partial").exists()  # the name may be too long
        parent = next(one for one in path.parents if one.exists())
    except OSError as error:
        raise UserError(f"{key}={printable(path)} cannot be made ({error.strerror}); choose another folder.") from error
    if not is_folder(parent, key) or not os.access(parent, os.W_OK):
        raise UserError(f"{key}={printable(path)}: {printable(parent)} is no folder that may be written to.")


def write_folder(path: Path, files: Mapping[str, bytes], mode: int = 0o777) -> None:
    """Write a new folder with these files, whole or not at all; UserError if it exists or cannot be written."""
    check_new(path)
    part = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a killed process
        path.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode)
        for name, data in files.items():
            with (part / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(part)
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"out={printable(path)} cannot be written ({reason}); choose another folder.") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(part)


def read_record(path: str | Path) -> ModelRecord:
    """The record of a model folder; UserError if there is none, or if it is damaged, edited or of a newer version."""
    folder = absolute(path, "MODEL")
    if not is_folder(folder, "MODEL"):
        raise UserError(f"{printable(folder)} is no folder; expected one that ccsi fit or ccsi extend made.")
    with reading(folder / MODEL_JSON):
        return parse_record(read_bytes(folder / MODEL_JSON, LONGEST), folder / MODEL_JSON)


def read_folder(path: str | Path, device: torch.device) -> tuple[ModelRecord, NetLearner, Reference]:
    """The record, the learner and the reference of a model folder. Nothing in it is executed.

    Raises:
        UserError: it is incomplete, damaged, edited, of a newer version, or names code that is not trusted.
    """
    folder, record = absolute(path, "MODEL"), read_record(path)
    with described(folder), memory_as_user_error():
        check_targets(record.config)
        tensors = read_tensors(folder, record)
        learner = method_of(record.config).make(record.input.channels, device)
        of_reference = {name: tensors.pop(name) for name in [*tensors] if name.startswith(PREFIX)}
        restore(learner, tensors, record.sizes, printable(folder))
        reference = read_reference(of_reference, learner, printable(folder))
        check_restored(learner, tensors, record.input, len(record.class_names), printable(folder))
        familiarity_of(first_net(learner, reference.backbone), reference, trial_image(record.input, learner.device))
    if record.learner != learner.name or record.tasks[-1].weights_sha256 != sha256_of(learner.net.state_dict()):
        raise UserError(f"{printable(folder)}: its weights are not those that {MODEL_JSON} describes; {COPY}.")
    return record, learner, reference


def read_tensors(folder: Path, record: ModelRecord) -> dict[str, Tensor]:
    """The tensors of a model's files, whose sizes and checksums are compared first."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    tensors: dict[str, Tensor] = {}
    if record.files.keys() != {WEIGHTS, MEMORY, REFERENCE}:
        names = f"{WEIGHTS}, {MEMORY} and {REFERENCE}"
        raise UserError(f"{printable(folder / MODEL_JSON)} does not name {names}; {COPY}.")
    for name, expected in record.files.items():
        path = folder / name
        with reading(path):
            if (size := path.stat().st_size) != expected.bytes:
                raise UserError(f"{printable(path)} has {size:,} bytes, not {expected.bytes:,}; {COPY}.")
            data = read_bytes(path, expected.bytes)
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise UserError(f"{printable(path)} is damaged, or of another model: its checksum does not match; {COPY}.")
        try:
            if int.from_bytes(data[:8], "little") > HEADER:
                raise ValueError("its header is too long")
            found = load(data)
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{printable(path)} is no safetensors file ({error}); {COPY}.") from error
        if odd := found.keys() & tensors.keys():
            raise UserError(f"{printable(path)}: {min(odd)} is in two files; {COPY}.")
        tensors |= found
    return tensors


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with a file, as a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{printable(path)} is missing; expected a whole folder that ccsi fit or ccsi extend made."
        ) from error
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); {COPY}.") from error
    except MemoryError as error:
        raise UserError(f"{printable(path)} is larger than this machine's memory; {COPY}.") from error


@contextmanager
def described(folder: Path) -> Iterator[None]:
    """What a method says of a configuration or of tensors that do not fit it, with the folder's name."""
    try:
        yield
    except UserError as error:
        where = printable(folder)
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"{printable(folder)}: its parts do not fit together ({reason}); {COPY}.") from error
