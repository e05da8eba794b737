"""Quadratic penalties on changes of important weights."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.models import IncrementalNet


def penalized_weights(net: IncrementalNet) -> list[Tensor]:
    """All weights of a net: scale, prototypes (old ones first, [n, D]), then the backbone's, in order."""
    return [net.scale, torch.cat([net.old, net.new]), *net.backbone.parameters()]


def gradients(net: IncrementalNet) -> list[Tensor]:
    """The last gradients of `penalized_weights`, 0 where there are none."""

    def of(p: Tensor) -> Tensor:
        return torch.zeros_like(p) if p.grad is None else p.grad

    return [of(net.scale), torch.cat([of(net.old), of(net.new)]), *(of(p) for p in net.backbone.parameters())]


def padded(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """`values`, one for each of `like`, with rows of 0 for prototypes that were added later."""
    return [
        F.pad(value, (0, 0, 0, len(now) - len(value))) if value.shape != now.shape else value
        for value, now in zip(values, like, strict=True)
    ]


def quadratic(net: IncrementalNet, stiffness: Sequence[Tensor], anchor: Sequence[Tensor]) -> Tensor:
    """½ Σ_i stiffness_i · (θ_i − anchor_i)² over all weights; prototypes that were added later are free."""
    now = penalized_weights(net)
    stiffness, anchor = padded(stiffness, now), padded(anchor, now)
    return torch.stack([(w * (p - a).square()).sum() for w, p, a in zip(stiffness, now, anchor, strict=True)]).sum() / 2


def bounded(stiffness: Sequence[Tensor], lr: float) -> list[Tensor]:
    """`stiffness`, at most 1/lr. There a step of SGD returns a weight to its anchor; above 2/lr it would diverge."""
    return [value.clamp(max=1 / lr) for value in stiffness]
