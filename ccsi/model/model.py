"""A model in memory: what it has learned, its record, and what can be done with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ccsi.experiment.environment import DeviceName, torch_device
from ccsi.io.paths import absolute
from ccsi.learners.base import NetLearner
from ccsi.model.card import card_text
from ccsi.model.folder import CARD, model_files, read_folder, write_folder
from ccsi.model.record import ModelRecord


@dataclass(eq=False)
class Model:
    """A classifier that has learned one task after the other.

    Attributes:
        record: what model.json says.
        learner: the method, which has learned all tasks.
        quantiles: of val images' energy, float64 [n_classes, 100] (see `ccsi.evaluation.familiarity`).
        pictures: files to save beside the model, by name.
    """

    record: ModelRecord
    learner: NetLearner
    quantiles: Tensor
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return tuple(self.record.class_names)

    def save(self, path: str | Path) -> None:
        """Write the model to a new folder, whole or not at all; UserError if there is something already."""
        record, files = model_files(self.record, self.learner, self.quantiles)
        self.record = record
        write_folder(absolute(path, "out"), {**files, CARD: card_text(record).encode(), **self.pictures})


def load(path: str | Path, device: DeviceName = "auto") -> Model:
    """The model in a folder, on a device. Nothing in the folder is executed.

    Raises:
        UserError: the folder is incomplete, damaged, edited, of a newer version, or names code that is not trusted.
    """
    return Model(*read_folder(path, torch_device(device)))
