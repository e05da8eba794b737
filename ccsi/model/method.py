"""A method with its network as a model's configuration describes it, and the tensors of what it has learned."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ccsi.checks import Seed
from ccsi.config import Config, build
from ccsi.data.input import InputFormat
from ccsi.errors import UserError
from ccsi.experiment.tasks import LearnerFactory
from ccsi.learners.base import ModelFactory, NetLearner
from ccsi.rng import Streams
from ccsi.stage import State
from ccsi.training import Training

NET, STATE, DRAWN = "net.", "state.", "drawn."
"""How the names of tensors begin: of the network, of what else the learner remembers, of what it has drawn."""
IMAGES = (f"{STATE}memory.means", f"{STATE}kept.kept_images")
"""Tensors [n, C, S, S] of images."""
LARGEST = 256
"""Pixels of the side of the image by which a restored network is tried: one of 4,096 takes gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a learner is made from."""

    model: ModelFactory
    learner: LearnerFactory
    training: Training
    seed: Seed

    def make(self, in_channels: int, device: torch.device) -> NetLearner:
        """A learner that has learned nothing."""
        parts = {"model": self.model, "training": self.training, "streams": Streams(self.seed)}
        return self.learner(in_channels=in_channels, device=device, **parts)  # type: ignore[arg-type]


def method_of(config: Mapping[str, Any]) -> Method:
    """The method of a model's configuration; pretrained weights are not read again."""
    node: Config = {key: config[key] for key in ("model", "learner", "training", "seed")}
    if node["model"].get("weights") is not None:
        node["model"] = node["model"] | {"weights": None}
    method: Method = build({"_target_": Method, **node})
    return method


def check_extensible(learner: NetLearner) -> None:
    """Raise UserError for a learner that needs images of earlier tasks, or unlabelled ones of all classes."""
    if "all_tasks" in learner.permissions:
        raise UserError(
            f"learner={learner.name} trains on the images of all tasks again, which an extended model does not have; "
            "expected another learner (see --help)."
        )
    if learner.permissions:
        raise UserError(
            f"learner={learner.name} uses {' and '.join(learner.permissions)} of all classes, which an extended model "
            "does not have; expected learner.idc.target=new_train."
        )


def tensors_of(learner: NetLearner) -> dict[str, Tensor]:
    """Everything that a learner has learned, by dotted names; on the CPU."""
    state = learner.state_dict()
    net, rest = state.pop("net"), {key: value for key, value in state.items() if key != "heads"}
    found = {f"{NET}{name}": value for name, value in net.items()}
    found |= {f"{STATE}{name}": value for name, value in flattened(rest)}
    found |= {f"{DRAWN}{name}": getattr(learner, name) for name in learner.drawn_buffers}
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, each with its dotted name."""
    if isinstance(value, Tensor):
        yield name, value
    else:
        for key, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flattened(one, f"{name}.{key}" if name else str(key))


def restore(learner: NetLearner, tensors: Mapping[str, Tensor], sizes: list[int], where: str) -> None:
    """Give a new learner what `tensors_of` another had; sizes: the number of classes of each task.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape or dtype than this learner has.
    """
    rest, like = dict(tensors), learner.state_dict()
    # first: a learner computes with these what it needs, when its state is loaded
    for name in learner.drawn_buffers:
        value, own = rest.pop(f"{DRAWN}{name}", None), getattr(learner, name)
        if value is None or value.shape != own.shape or value.dtype != own.dtype:
            raise UserError(f"{where}: the tensor {DRAWN}{name} is missing or of another shape than the method's.")
        setattr(learner, name, value.to(learner.device))
    state: State = {"heads": sizes}
    for key, one in like.items():
        if key != "heads":
            state[key] = nested(rest, one, f"{NET[:-1]}" if key == "net" else f"{STATE}{key}", where)
    if rest:
        raise UserError(f"{where}: the tensor {min(rest)} is unknown; expected those of learner={learner.name} alone.")
    try:
        learner.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('checkpoint.pt: ')}") from error


def nested(rest: dict[str, Tensor], like: Any, name: str, where: str) -> Any:
    """The tensors whose names begin with `name`, taken out of `rest`, in dicts and lists as `like` has them."""
    if isinstance(like, Mapping):
        return {key: nested(rest, one, f"{name}.{key}", where) for key, one in like.items()}
    if isinstance(like, list):
        found = list[Tensor]()
        for number in count():
            if (value := rest.pop(f"{name}.{number}", None)) is None:
                return found
            found.append(value)
    if name not in rest:
        raise UserError(f"{where}: the tensor {name} is missing; expected the files as ccsi wrote them.")
    return rest.pop(name)


@torch.no_grad()
def check_restored(learner: NetLearner, tensors: Mapping[str, Tensor], form: InputFormat, n: int, where: str) -> None:
    """Raise UserError unless a restored learner has finite weights and gives an image a finite score for each class.

    Images that it keeps, and mean images, must be of the input's size.

    Args:
        tensors: those that it was restored from. n: the number of classes.
    """
    for name in IMAGES:
        if name in tensors and tensors[name].ndim == 4 and tensors[name].shape[2:] != (form.size, form.size):
            raise UserError(f"{where}: the tensor {name} has images of another size; expected {form.size} pixels.")
    for name, value in learner.net.state_dict().items():
        if not value.isfinite().all():
            raise UserError(f"{where}: the tensor {NET}{name} has values that are no finite numbers.")
    scores = learner.scores(trial_image(form, learner.device) / 255)
    if scores.shape != (1, n) or not scores.isfinite().all():
        raise UserError(f"{where}: its tensors do not give one finite score for each class; expected those of {n}.")


def trial_image(form: InputFormat, device: torch.device) -> Tensor:
    """A ramp of grey levels by which a restored network is tried, uint8 [1, C, S, S] with S up to `LARGEST`."""
    side = min(form.size, LARGEST)
    ramp = torch.linspace(0, 255, form.channels * side * side, device=device)
    return ramp.to(torch.uint8).view(1, form.channels, side, side)
