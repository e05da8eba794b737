"""Which weights matter for what was learned, and what it costs to move them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.models import IncrementalNet


def guarded(net: IncrementalNet) -> list[Tensor]:
    """All weights of a net: scale, prototypes (old ones first, [n, D]), then the backbone's, in order."""
    return [net.scale, torch.cat([net.old, net.new]), *net.backbone.parameters()]


def gradients(net: IncrementalNet) -> list[Tensor]:
    """The last gradients of `guarded`, 0 where there are none."""

    def of(p: Tensor) -> Tensor:
        return torch.zeros_like(p) if p.grad is None else p.grad

    return [of(net.scale), torch.cat([of(net.old), of(net.new)]), *(of(p) for p in net.backbone.parameters())]


def grown(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """`values`, one for each of `like`, with rows of 0 for prototypes that have come since."""
    return [
        F.pad(value, (0, 0, 0, len(now) - len(value))) if value.shape != now.shape else value
        for value, now in zip(values, like, strict=True)
    ]


def quadratic(net: IncrementalNet, stiffness: Sequence[Tensor], anchor: Sequence[Tensor]) -> Tensor:
    """½ Σ_i stiffness_i · (θ_i − anchor_i)² over all weights; prototypes that have come since are free."""
    now = guarded(net)
    stiffness, anchor = grown(stiffness, now), grown(anchor, now)
    return torch.stack([(w * (p - a).square()).sum() for w, p, a in zip(stiffness, now, anchor, strict=True)]).sum() / 2


def bounded(stiffness: Sequence[Tensor], lr: float) -> list[Tensor]:
    """At most 1/lr: there a step of SGD puts a weight back on its anchor, from 2/lr on it would swing ever further."""
    return [value.clamp(max=1 / lr) for value in stiffness]
