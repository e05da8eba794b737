"""Real images that a method keeps: how many, and which."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import PositiveInt, ReplayShare
from ccsi.errors import UserError
from ccsi.precision import float64_on
from ccsi.rng import Streams


@dataclass(frozen=True, kw_only=True)
class ExemplarBudget:
    """Number and choice of the real images that are kept; either `per_class` or `total` is set.

    Args:
        per_class: images of each class.
        total: images of all classes together, shared equally, so that old classes lose images when new ones come.
        ratio: share of an epoch's draws that are exemplars; null: each image once an epoch, new or kept.
        selection: `herding` (their mean feature is nearest to the class's, best first) or `random`.
    """

    per_class: PositiveInt | None = None
    total: PositiveInt | None = None
    ratio: ReplayShare | None = None
    selection: Literal["herding", "random"] = "herding"

    def __post_init__(self) -> None:
        if (self.per_class is None) == (self.total is None):
            both = "null" if self.total is None else f"numbers, {self.per_class} and {self.total}"
            raise UserError(
                f"learner.budget.per_class and learner.budget.total are both {both}: expected one of them to be a "
                "number, the other null, such as learner.budget='{per_class: null, total: 200}'."
            )

    def quota(self, n_classes: int) -> int:
        """Images for each of `n_classes`; 0 if `total` is less than one each."""
        return self.per_class if self.per_class is not None else (self.total or 0) // n_classes

    def ranked(self, features: Tensor, count: int, streams: Streams, label: int) -> Tensor:
        """Positions of a class's images to keep, best first: int64 [min(count, N)], from their features [N, D]."""
        if self.selection == "herding":
            return herding(features, min(count, len(features)))
        order = torch.randperm(len(features), generator=streams.generator("exemplars", label))
        return order[:count].to(features.device)


def herding(features: Tensor, count: int) -> Tensor:
    """Positions of `count` of [N, D] features whose mean, normalized, stays nearest to that of all: int64 [count].

    Source: iCaRL (Rebuffi et al. 2017), algorithm 4.
    """
    unit = F.normalize(features.to(float64_on(features.device)))
    mean, total = unit.mean(0), unit.new_zeros(unit.shape[1])
    order = torch.zeros(count, dtype=torch.int64, device=unit.device)
    for k in range(count):
        distance = torch.linalg.vector_norm(mean - (total + unit) / (k + 1), dim=1)
        distance[order[:k]] = torch.inf
        order[k] = distance.argmin()
        total = total + unit[order[k]]
    return order
