"""What is remembered of a class's real images, and how far a batch is from it (METHOD section 4)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.models import IncrementalNet, Tap


@dataclass
class ClassMemory:
    """Aggregates of real images, per class seen so far; nothing of a single image is kept.

    Attributes:
        means: mean image of each class, float [n, C, S, S] in [0, 1].
        group_means, group_vars: per norm layer, the mean over a class's images of the GN group means and
            variances, [n, G]; empty lists for networks without group normalization.
    """

    means: Tensor
    group_means: list[Tensor] = field(default_factory=list)
    group_vars: list[Tensor] = field(default_factory=list)

    def n_bytes(self) -> dict[str, int]:
        """Size of what is kept: `class means` and `normalization moments`, in bytes."""
        moments = sum(t.numel() * t.element_size() for t in (*self.group_means, *self.group_vars))
        return {"class means": self.means.numel() * self.means.element_size(), "normalization moments": moments}

    def extended(self, other: "ClassMemory") -> "ClassMemory":
        """This and `other`'s classes behind them."""
        if not len(self.means):
            return other

        def joined(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
            return [torch.cat(pair) for pair in zip(a, b, strict=True)]

        return ClassMemory(
            torch.cat([self.means, other.means]),
            joined(self.group_means, other.group_means),
            joined(self.group_vars, other.group_vars),
        )


def group_moments(a: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Per image and channel group: mean and (biased) variance of [N, C, H, W], each [N, G]."""
    var, mean = torch.var_mean(a.reshape(len(a), groups, -1), dim=2, correction=0)
    return mean, var


@torch.no_grad()
def remember(net: IncrementalNet, data: Labelled, classes: range, batch_size: int = 256) -> ClassMemory:
    """The memory of `classes`, from one eval-mode pass over their images right after they were learned.

    Args:
        data: images uint8 [N, C, S, S] and labels. classes: whose rows to make, in order.
    """
    was_training = net.training
    net.eval()
    means, group_means, group_vars = [], [], []
    for c in classes:
        images = data.images[data.labels == c]
        image_sum = torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device)
        sums: list[tuple[Tensor, Tensor]] = []
        for part in images.split(batch_size):
            x = part.to(net.scale.dtype) / 255
            taps: list[Tap] = []
            net.features(x, taps)
            image_sum += x.sum(0, dtype=torch.float64)
            layers = [group_moments(tap.input, tap.norm.groups) for tap in taps if tap.norm.groups is not None]
            new = [(mean.sum(0), var.sum(0)) for mean, var in layers]
            sums = [(m + dm, v + dv) for (m, v), (dm, dv) in zip(sums, new, strict=True)] if sums else new
        means.append((image_sum / len(images)).to(net.scale.dtype))
        group_means.append([m / len(images) for m, _ in sums])
        group_vars.append([v / len(images) for _, v in sums])
    net.train(was_training)
    return ClassMemory(
        torch.stack(means),
        [torch.stack(layer) for layer in zip(*group_means, strict=True)],
        [torch.stack(layer) for layer in zip(*group_vars, strict=True)],
    )


def batch_norm_distance(tap: Tap, n_groups: int) -> Tensor:
    """‖μ − mean‖₂ + ‖σ² − var‖₂ over channels, against BN's running moments, per synthesis group.

    The batch [N, C, H, W] of the tap is `n_groups` synthesis groups of N / n_groups images one behind the
    other; μ and σ² are a group's own. Returns [n_groups]. DeepInversion, eq. 4 (norms not squared).
    """
    h = tap.normalized.unflatten(0, (n_groups, -1))
    var, mean = torch.var_mean(h, dim=(1, 3, 4), correction=0)
    far = torch.linalg.vector_norm(mean - tap.norm.running_mean, dim=1)
    return far + torch.linalg.vector_norm(var - tap.norm.running_var, dim=1)


def class_moment_distance(tap: Tap, mean_of_class: Tensor, var_of_class: Tensor, labels: Tensor) -> Tensor:
    """‖GN group means − m_y‖₂ + ‖GN group variances − v_y‖₂ per image, [N]. CCSI, class-adaptive moments.

    Args:
        mean_of_class, var_of_class: [n, G] of this layer. labels: int64 [N].
    """
    assert tap.norm.groups is not None
    mean, var = group_moments(tap.input, tap.norm.groups)
    far = torch.linalg.vector_norm(mean - mean_of_class[labels], dim=1)
    return far + torch.linalg.vector_norm(var - var_of_class[labels], dim=1)
