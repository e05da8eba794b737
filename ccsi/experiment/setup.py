"""From a run's parts to data, tasks and learner that fit together."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ccsi.data import Dataset, Scenario, Source, opened
from ccsi.errors import UserError
from ccsi.learners import Learner
from ccsi.learners.base import ModelFactory
from ccsi.rng import Streams
from ccsi.training import Training


class LearnerFactory(Protocol):
    """A configured learner, still without what a run gives it."""

    def __call__(
        self, *, model: ModelFactory, in_channels: int, training: Training, streams: Streams, device: torch.device
    ) -> Learner: ...


@dataclass(frozen=True)
class Setup:
    """A data set, the classes of each task (original labels), and the learner."""

    data: Dataset
    plan: list[list[int]]
    learner: Learner

    @property
    def order(self) -> list[int]:
        """Original classes in the order in which they are learned."""
        return [c for classes in self.plan for c in classes]

    @property
    def task_names(self) -> tuple[tuple[str, ...], ...]:
        """Class names of each task."""
        return tuple(tuple(self.data.class_names[c] for c in classes) for classes in self.plan)


@dataclass(frozen=True)
class Parts:
    """What a run is configured with; the attributes are those arguments of `ccsi.experiment.run`."""

    dataset: Source
    scenario: Scenario
    model: ModelFactory
    learner: LearnerFactory
    training: Training
    evaluate_test: bool
    share_data: str | None

    def set_up(self, streams: Streams, device: torch.device) -> Setup:
        """Read the data and make the learner.

        Raises:
            UserError: the parts do not fit together.
        """
        place = Path(self.share_data).expanduser().absolute() if self.share_data is not None else None
        data = opened(self.dataset, place)
        plan = self.scenario.plan(len(data.class_names), streams)
        channels = data.train.images.shape[1]
        learner = self.learner(
            model=self.model, in_channels=channels, training=self.training, streams=streams, device=device
        )
        learner.check([len(classes) for classes in plan])
        if "test_images" in learner.permissions and not self.evaluate_test:
            raise UserError(
                "learner.idc.target=as_released trains on test images, but evaluate_test=false keeps them "
                "out of reach (as a sweep's first phase does); expected another target."
            )
        return Setup(data, plan, learner)


def check_same_images(checksum_of_main: str, own: str) -> None:
    """Refuse images that differ from those of the process that writes the files.

    Raises:
        UserError: they differ.
    """
    if own != checksum_of_main:
        raise UserError(
            f"the images on {platform.node()} are not those of the other workers (their checksum differs); "
            "dataset.path and $CCSI_DATA must hold the same on all machines."
        )
