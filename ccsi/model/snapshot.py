"""A model as its folder holds it: the record, the learner with its tensors, and files for people."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ccsi.experiment.environment import DeviceName, torch_device
from ccsi.io.files import read_bytes
from ccsi.io.paths import absolute
from ccsi.learners.base import NetLearner
from ccsi.model.card import card_text
from ccsi.model.folder import CARD, model_files, read_folder, write_folder
from ccsi.model.record import ModelRecord
from ccsi.model.reference import Reference

PICTURES = ("training.png", "impressions.png")
LARGEST = 64 * 2**20
"""Bytes of a picture that is read back."""


@dataclass(eq=False)
class Snapshot:
    """A model after its last task.

    Attributes:
        record: what model.json says. learner: the method, which has learned all tasks.
        reference: what is kept of each class for familiarity and calibration.
        pictures: files to save beside the model, by name.
    """

    record: ModelRecord
    learner: NetLearner
    reference: Reference
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return tuple(self.record.class_names)

    def save(self, path: str | Path) -> None:
        """Write the model to a new folder, whole or not at all; UserError if there is something already.

        A folder with real images is for its owner's eyes alone.
        """
        self.record, files = model_files(self.record, self.learner, self.reference)
        mode = 0o777 if self.record.data_free else 0o700
        write_folder(absolute(path, "out"), {**files, CARD: card_text(self.record).encode(), **self.pictures}, mode)


def read_snapshot(path: str | Path, device: DeviceName) -> Snapshot:
    """The model in a folder, on a device; UserError as of `read_folder`."""
    record, learner, reference = read_folder(path, torch_device(device))
    files = {name: absolute(path, "MODEL") / name for name in PICTURES}
    with suppress(OSError):  # they are for people, and may have been removed
        return Snapshot(record, learner, reference, {n: read_bytes(f, LARGEST) for n, f in files.items() if f.exists()})
    return Snapshot(record, learner, reference)
