"""From a run's parts to data, tasks and learner that fit together."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ccsi.data import Dataset, Scenario, Source, opened
from ccsi.distributed import ProcessGroup
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


def read_data(dataset: Source, share_data: str | None) -> Dataset:
    """The data set; through the folder `share_data`, if any, in one copy for all runs of a machine."""
    return opened(dataset, Path(share_data).expanduser().absolute() if share_data is not None else None)


def set_up(
    data: Dataset,
    scenario: Scenario,
    model: ModelFactory,
    learner: LearnerFactory,
    training: Training,
    evaluate_test: bool,
    streams: Streams,
    device: torch.device,
) -> Setup:
    """Plan the tasks and make the learner. Raises UserError if the parts do not fit together."""
    plan = scenario.plan(len(data.class_names), streams)
    channels = data.train.images.shape[1]
    made = learner(model=model, in_channels=channels, training=training, streams=streams, device=device)
    made.check([len(classes) for classes in plan])
    if "test_images" in made.permissions and not evaluate_test:
        raise UserError(
            "learner.idc.target=as_released trains on test images, but evaluate_test=false keeps them "
            "out of reach (as a sweep's first phase does); expected another target."
        )
    return Setup(data, plan, made)


def check_same_images(setup: Setup) -> None:
    """Raise UserError in a worker whose images differ from those of the main one."""
    own = setup.data.checksum
    if own != ProcessGroup.current().broadcast_object(own):
        raise UserError(
            f"the images on {platform.node()} are not those of the other workers (their checksum differs); "
            "dataset.path and $CCSI_DATA must hold the same on all machines."
        )
