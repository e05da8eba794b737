"""What a model keeps of each class's images to say how familiar a new image is, and how sure the model may be.

All of it is derived from real images, and is counted in the model's record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.errors import UserError
from ccsi.evaluation.familiarity import (
    LEVELS,
    ClassGaussians,
    Distances,
    familiarity,
    layer_moments,
    reference_quantiles,
)
from ccsi.learners.base import NetLearner
from ccsi.model.record import StoredRecord
from ccsi.models import IncrementalNet
from ccsi.saved import Shaped, check_saved

PREFIX, BACKBONE = "familiarity.", "familiarity.backbone."
"""How the names of tensors begin: all of them, and those of the first task's backbone."""


@dataclass(frozen=True)
class Reference:
    """What is kept of each class, in the order of the model's classes.

    Attributes:
        gaussians: after each task, of the layer moments of the training images so far, in the net of the first task.
        quantiles: for each class, of its val images' relative distances from it, with the sign turned, float64
            [n, 100] (both: see `ccsi.evaluation.familiarity`).
        features: mean feature of each class's training images, in the net that had just learned it: [n, D].
        backbone: the state of the first task's backbone; empty where the learner's own is still the same.
    """

    gaussians: tuple[ClassGaussians, ...]
    quantiles: Tensor
    features: Tensor
    backbone: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, as `read_reference` expects it."""
        scatter, count = (torch.stack([getattr(own, key) for own in self.gaussians]) for key in ("scatter", "count"))
        parts = {"means": self.gaussians[-1].means, "scatter": scatter, "count": count, "quantiles": self.quantiles}
        named = {f"{PREFIX}{key}": value for key, value in {**parts, "features": self.features}.items()}
        named |= {f"{BACKBONE}{key}": value for key, value in self.backbone.items()}
        return {key: value.detach().cpu().contiguous() for key, value in named.items()}

    def stored(self) -> list[StoredRecord]:
        """What of it is derived from real images, the first backbone apart."""
        n = len(self.quantiles)
        scatter = sum(own.scatter.nbytes + own.count.nbytes for own in self.gaussians)
        return [
            StoredRecord("familiarity means", n, self.gaussians[-1].means.nbytes),
            StoredRecord("familiarity scatter", len(self.gaussians), scatter),
            StoredRecord("familiarity quantiles", self.quantiles.numel(), self.quantiles.nbytes),
            StoredRecord("calibration features", n, self.features.nbytes),
        ]

    @cached_property
    def distances(self) -> tuple[tuple[Distances, range], ...]:
        """For each task, the distances after it, and the classes that it brought."""
        ends = [0, *(len(own.means) for own in self.gaussians)]
        return tuple((own.distances(), range(*pair)) for own, pair in zip(self.gaussians, pairwise(ends), strict=True))

    def values(self, moments: Tensor) -> Tensor:
        """How near images are to each class, [N, n], high for near ones: moments is [N, d]."""
        return torch.cat([-of(moments)[:, own.start : own.stop] for of, own in self.distances], 1)


def reference_of(
    learner: NetLearner, train: Labelled, val: Labelled, classes: range, old: Reference | None, net: IncrementalNet
) -> Reference:
    """The reference with the classes of the task that the learner has just learned.

    Args:
        train, val: the task's images, with labels in `classes`. old, net: of the model before, else None and the
            learner's own net.
    """
    before = net.backbone.state_dict() if old is None or not old.backbone else old.backbone
    now = learner.net.backbone.state_dict()
    same = all(torch.equal(value.cpu(), now[key].cpu()) for key, value in before.items())
    backbone = {} if same else {key: value.detach().cpu().clone() for key, value in before.items()}
    features = learner.features(train.images.to(learner.device)).cpu()
    means = torch.stack([features[train.labels.cpu() == c].mean(0) for c in classes])
    first = first_net(learner, backbone)
    moments = [layer_moments(first, part.images.to(learner.device)) for part in (train, val)]
    before_it = ClassGaussians.empty(moments[0].shape[1]) if old is None else old.gaussians[-1]
    gaussians = before_it.extended(moments[0], train.labels.cpu(), classes)
    labels = val.labels.cpu()
    own = -gaussians.relative_distances(moments[1]).gather(1, labels[:, None])[:, 0]
    quantiles = reference_quantiles(own, labels, classes)
    if old is None:
        return Reference((gaussians,), quantiles, means, backbone)
    quantiles, means = torch.cat([old.quantiles, quantiles]), torch.cat([old.features, means])
    return Reference((*old.gaussians, gaussians), quantiles, means, backbone)


def first_net(learner: NetLearner, backbone: Mapping[str, Tensor]) -> IncrementalNet:
    """The net of the first task, on the learner's device; `backbone`: see `Reference`."""
    net = learner.frozen_net()
    if backbone:
        net.backbone.load_state_dict(backbone)
    return net


def read_reference(tensors: Mapping[str, Tensor], learner: NetLearner, where: str) -> Reference:
    """The reference in the tensors of a model's file; UserError if they are not of this learner's classes and net."""
    named = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    backbone = {key.removeprefix("backbone."): named.pop(key) for key in [*named] if key.startswith("backbone.")}
    own, n = learner.net.backbone.state_dict(), sum(map(len, learner.heads))
    n_tasks, d = len(learner.heads), named["means"].shape[-1] if isinstance(named.get("means"), Tensor) else 0
    like = {
        "means": Shaped((n, d), torch.float64),
        "scatter": Shaped((n_tasks, d, d), torch.float64),
        "count": Shaped((n_tasks,), torch.int64),
        "quantiles": Shaped((n, LEVELS), torch.float64),
        "features": Shaped((n, learner.net.backbone.n_features), learner.net.scale.dtype),
    }
    try:
        check_saved(named, like, "familiarity")
        check_saved(backbone, own if backbone else {}, "familiarity.backbone")
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('checkpoint.pt: ')}") from error
    numbers = (named["means"], named["scatter"], named["features"], *backbone.values())
    if not all(value.isfinite().all() for value in numbers) or (named["count"] < 1).any():
        raise UserError(f"{where}: familiarity has numbers that are not finite; expected the file as ccsi wrote it.")
    parts = zip(learner.heads, named["scatter"], named["count"], strict=True)
    gaussians = tuple(ClassGaussians(named["means"][: head.stop], *sums) for head, *sums in parts)
    return Reference(gaussians, named["quantiles"], named["features"], backbone)


def familiarity_of(net: IncrementalNet, reference: Reference, images: Tensor) -> Tensor:
    """How familiar images are, float64 [N] in [0, 100]; see `ccsi.evaluation.familiarity`.

    Args:
        net: of the first task. images: uint8 [N, C, S, S].
    """
    return familiarity(reference.values(layer_moments(net, images)), reference.quantiles)
