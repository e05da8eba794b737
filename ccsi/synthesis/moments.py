"""The moments that are kept of each class's real images, and a batch's distances from them (METHOD section 4)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.models import ContinualNorm2d, IncrementalNet, Tap
from ccsi.precision import float64_on


@dataclass
class ClassMemory:
    """Aggregates of the real images of each class seen so far; no single image is kept.

    Attributes:
        means: mean image of each class, float [n, C, S, S] in [0, 1].
        group_means, group_vars: per norm layer, the mean over a class's images of the GN group means and
            variances, [n, G]; empty lists for networks without group normalization.
    """

    means: Tensor
    group_means: list[Tensor] = field(default_factory=list)
    group_vars: list[Tensor] = field(default_factory=list)

    def n_bytes(self) -> dict[str, int]:
        """Bytes of `class means` and of `normalization moments`."""
        moments = sum(t.nbytes for t in (*self.group_means, *self.group_vars))
        return {"class means": self.means.nbytes, "normalization moments": moments}

    def to(self, device: torch.device) -> "ClassMemory":
        """The same on `device`."""
        layers = ([t.to(device) for t in moments] for moments in (self.group_means, self.group_vars))
        return ClassMemory(self.means.to(device), *layers)

    def extended(self, other: "ClassMemory") -> "ClassMemory":
        """The classes of this memory followed by those of `other`."""
        if not len(self.means):
            return other
        pairs = (self.group_means, other.group_means), (self.group_vars, other.group_vars)
        layers = ([torch.cat(both) for both in zip(*pair, strict=True)] for pair in pairs)
        return ClassMemory(torch.cat([self.means, other.means]), *layers)


class _Moments(torch.autograd.Function):
    """First and second moment of each map, with a backward in one pass; autograd's takes three."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        return a.mean((2, 3)), a.square().mean((2, 3))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        g1, g2 = (g[:, :, None, None] / (a.shape[2] * a.shape[3]) for g in grads)
        return torch.addcmul(g1, a, 2 * g2)


def map_moments(a: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each map of [N, C, H, W] over its pixels, each [N, C].

    Group and batch statistics of a layer's input and GN output follow from these two, so that maps are read once.
    """
    first, second = _Moments.apply(a)
    return first, second


def group_moments(first: Tensor, second: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Per image and channel group: mean and (biased) variance, each [N, G], from `map_moments`."""
    mean = first.unflatten(1, (groups, -1)).mean(2)
    return mean, (second.unflatten(1, (groups, -1)).mean(2) - mean.square()).clamp(min=0)


def normalized_moments(first: Tensor, second: Tensor, groups: int | None, eps: float) -> tuple[Tensor, Tensor]:
    """`map_moments` of GN_G(a), from those of a: GN subtracts a group's mean and divides by its deviation.

    Without groups there is no GN.
    """
    if groups is None:
        return first, second
    mean, var = group_moments(first, second, groups)
    size = first.shape[1] // groups
    mean = mean.repeat_interleave(size, 1)
    scale = torch.rsqrt(var + eps).repeat_interleave(size, 1)
    return (first - mean) * scale, (second - 2 * mean * first + mean.square()) * scale.square()


@torch.no_grad()
def remember(net: IncrementalNet, data: Labelled, classes: range, batch_size: int = 256) -> ClassMemory:
    """The memory of `classes`, a row each, from one eval-mode pass over their images right after they were learned.

    The net's workers share each class's images, and each returns the memory of all.
    """
    was_training, rows = net.training, []
    net.eval()
    for c in classes:
        members = (data.labels == c).nonzero()[:, 0]
        sums: list[Tensor] = []  # of the images, and of mean and variance of each layer in turn
        for part in members[net.process_group.shard(len(members))].split(batch_size):
            x = data.images[part].to(net.scale.dtype) / 255
            taps: list[Tap] = []
            net.features(x, taps)
            layers = [group_moments(*map_moments(tap.input), tap.norm.groups) for tap in taps if tap.norm.groups]
            new = [x.sum(0, dtype=float64_on(x.device)), *(moment.sum(0) for layer in layers for moment in layer)]
            sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
        rows.append([net.process_group.all_reduce(value) / len(members) for value in sums])
    net.train(was_training)
    means, *moments = (torch.stack(column) for column in zip(*rows, strict=True))
    return ClassMemory(means.to(net.scale.dtype), moments[::2], moments[1::2])


def moment_distances(
    taps: list[Tap], memory: ClassMemory, y: Tensor, n_groups: int, stem: float, of_class: float, of_batch: float
) -> Tensor:
    """Σ_l a_l·R_l of each synthesis group, [n_groups] (METHOD section 4).

    Args:
        taps: the layers' inputs [N, C, H, W], `n_groups` groups of images one after the other. y: their classes, [N].
        stem: a_l of the first layer; 1 for the others.
        of_class, of_batch: weights of the class-adaptive part of R_l and of its BN part.
    """
    total = torch.zeros(n_groups, device=y.device)
    stored = zip(memory.group_means, memory.group_vars, strict=True)  # of the layers with groups
    for number, tap in enumerate(taps):
        norm, weight = tap.norm, stem if number == 0 else 1.0
        first, second = map_moments(tap.input.to(memory.means.dtype))
        targets = next(stored, None) if norm.groups is not None else None
        if norm.groups is not None and targets is not None and of_class > 0:
            mean, var = (target[y] for target in targets)
            distance = moment_distance(*group_moments(first, second, norm.groups), mean, var)
            total = total + weight * of_class * distance.view(n_groups, -1).mean(1)
        if of_batch > 0:
            normalized = normalized_moments(first, second, norm.groups, norm.eps)
            total = total + weight * of_batch * batch_norm_distance(norm, *normalized, n_groups)
    return total


def batch_norm_distance(norm: ContinualNorm2d, first: Tensor, second: Tensor, n_groups: int) -> Tensor:
    """‖μ − mean‖₂ + ‖σ² − var‖₂ over channels, against BN's running moments, for each synthesis group: [n_groups].

    From `map_moments` [N, C] of BN's input (the GN output under CN); N images are `n_groups` groups, one after the
    other. Source: DeepInversion, eq. 4 (norms not squared).
    """
    mean = first.unflatten(0, (n_groups, -1)).mean(1)
    var = (second.unflatten(0, (n_groups, -1)).mean(1) - mean.square()).clamp(min=0)
    return moment_distance(mean, var, norm.running_mean, norm.running_var)


def batch_norm_divergence(norm: ContinualNorm2d, first: Tensor, second: Tensor) -> Tensor:
    """KL(N(running moments) ‖ N(batch's)), mean over channels: a scalar, from `map_moments` [N, C] of BN's input.

    Source: ABD (Smith et al. 2021), eq. 4.
    """
    mean = first.mean(0)
    var = (second.mean(0) - mean.square()).clamp(min=norm.eps)
    ratio = (norm.running_var + norm.eps) / var
    return (ratio - ratio.log() - 1 + (norm.running_mean - mean).square() / var).mean() / 2


def moment_distance(mean: Tensor, var: Tensor, target_mean: Tensor, target_var: Tensor) -> Tensor:
    """‖mean − target mean‖₂ + ‖variance − target variance‖₂ of each row: all [N, D] to [N].

    Of GN group moments, with those of each image's class as targets: CCSI's class-adaptive moments (METHOD section 4).
    """
    return torch.linalg.vector_norm(mean - target_mean, dim=1) + torch.linalg.vector_norm(var - target_var, dim=1)
