"""The growing cosine classifier on a backbone (METHOD section 3; LUCIR, CVPR 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.distributed import ProcessGroup
from ccsi.models.backbones import Backbone
from ccsi.models.norm import Tap


class IncrementalNet(nn.Module):
    """z_c(x) = σ · cos(f(x), w_c), with prototypes w added task by task.

    Old and new prototypes are two parameters, so that old ones are frozen by leaving them out of the optimizer:
    neither momentum nor weight decay changes them.

    Attributes:
        process_group: the workers that hold a copy of this net.
        old, new: prototypes [n, D] of earlier tasks and of the last one. scale: σ.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.process_group = ProcessGroup.current()
        self.old = nn.Parameter(torch.empty(0, backbone.n_features))
        self.new = nn.Parameter(torch.empty(0, backbone.n_features))
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def n_classes(self) -> int:
        return len(self.old) + len(self.new)

    def features(self, x: Tensor, taps: list[Tap] | None = None, moving: int | None = None) -> Tensor:
        """f(x): float [N, C, H, W] in [0, 1] to [N, D]. `moving`: see `ContinualNorm2d`."""
        return self.backbone(x, taps, moving)

    def features_apart(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """f of two batches; in training mode each has its own moments, and `other` does not update the running ones.

        Several workers use one pass, which halves their communication; for one worker it is not faster on a CPU.
        """
        if self.process_group.world_size == 1:
            return self.features(x), self.features(other, moving=0)
        first, second = self.features(torch.cat([x, other]), moving=len(x)).split([len(x), len(other)])
        return first, second

    def cosines(self, features: Tensor) -> Tensor:
        """cos(f, w_c) of all classes: [N, D] to [N, n_classes] in [-1, 1], in the weights' dtype."""
        with torch.autocast(features.device.type, enabled=False):  # margins are finer than bfloat16 near 1
            prototypes = torch.cat([self.old, self.new])
            return F.linear(F.normalize(features.to(prototypes.dtype)), F.normalize(prototypes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits z: [N, C, H, W] to [N, n_classes]."""
        return self.scale * self.cosines(self.features(x))

    def grow(self, prototypes: Tensor) -> None:
        """Append the new prototypes to the old ones, and take `prototypes` [n_new, D] as new."""
        self.resize(self.n_classes, len(prototypes), torch.cat([self.old, self.new, prototypes.to(self.old)]))

    def resize(self, n_old: int, n_new: int, prototypes: Tensor | None = None) -> None:
        """Allocate prototypes (before a state is loaded), filled with `prototypes` if given."""
        if prototypes is None:
            prototypes = self.old.new_zeros(n_old + n_new, self.backbone.n_features)
        self.old, self.new = (nn.Parameter(rows.detach().clone()) for rows in prototypes.split([n_old, n_new]))


def random_prototypes(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """[n, dim], uniform in ±1/sqrt(dim), as in LUCIR."""
    return (torch.rand(n, dim, generator=generator) * 2 - 1) / dim**0.5


def imprinted_prototypes(features: Tensor, labels: Tensor, classes: range, old: Tensor) -> Tensor:
    """The mean of the normalized features of each class, rescaled to the mean norm of the old prototypes.

    [N, D] and int64 [N] to [len(classes), D]; `old` is [n_old, D], n_old >= 1. Source: Qi et al., CVPR 2018
    (imprinting); METHOD section 3.
    """
    unit = F.normalize(features)
    means = torch.stack([unit[labels == c].mean(0) for c in classes])
    return F.normalize(means) * old.norm(dim=1).mean()
