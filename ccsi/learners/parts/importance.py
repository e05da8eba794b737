"""Quadratic penalties on changes of important weights.

A stiffness is at most 1/lr, where a step of SGD returns a weight to its anchor; above 2/lr it would diverge.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.models import IncrementalNet


def penalized(by_name: Mapping[str, Tensor]) -> list[Tensor]:
    """Values for a net's parameters in order: scale, prototypes (old ones first, [n, D]), then the backbone's."""
    backbone = [value for name, value in by_name.items() if name.startswith("backbone.")]
    return [by_name["scale"], torch.cat([by_name["old"], by_name["new"]]), *backbone]


def penalized_weights(net: IncrementalNet) -> list[Tensor]:
    """All weights of a net."""
    return penalized(dict(net.named_parameters()))


def padded(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """`values`, one for each of `like`, with rows of 0 for prototypes that were added later; none: all 0."""
    if not values:
        return [torch.zeros_like(now) for now in like]
    return [
        F.pad(value, (0, 0, 0, len(now) - len(value))) if value.shape != now.shape else value
        for value, now in zip(values, like, strict=True)
    ]


def quadratic(net: IncrementalNet, stiffness: Sequence[Tensor], anchor: Sequence[Tensor]) -> Tensor:
    """This worker's part of ½ Σ_i stiffness_i · (θ_i − anchor_i)²; prototypes that were added later are free."""
    now = penalized_weights(net)
    held = zip(padded(stiffness, now), now, padded(anchor, now), strict=True)
    return torch.stack([(w * (p - a).square()).sum() for w, p, a in held]).sum() / 2 / net.process_group.world_size
