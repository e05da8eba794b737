"""Continual Normalization (Pham et al., ICLR 2022), with plain BatchNorm as its special case."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.errors import UserError


@dataclass(frozen=True)
class Tap:
    """What one norm layer saw in a forward pass: all that the moment losses of synthesis need.

    Attributes:
        norm: the layer. input: what went in, [N, C, H, W].
    """

    norm: "ContinualNorm2d"
    input: Tensor


class ContinualNorm2d(nn.Module):
    """CN(a) = γ · BN(GN_G(a)) + β, GN without affine (METHOD section 2; CN paper, eq. 5).

    Args:
        channels: C. groups: G, or None for plain BatchNorm. momentum: of BN's running moments.
    """

    def __init__(self, channels: int, groups: int | None, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if groups is not None and channels % groups:
            raise UserError(
                f"model.groups={groups} does not divide a layer's {channels} channels; expected one that does."
            )
        self.groups, self.momentum, self.eps = groups, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, a: Tensor, taps: list[Tap] | None = None, update: bool = True) -> Tensor:
        """Normalize [N, C, H, W].

        In training mode BN uses the batch's moments and, if `update`, moves its running moments towards
        them; in eval mode it uses the running moments. `taps` collects what the layer saw.
        """
        if taps is not None:
            taps.append(Tap(self, a))
        if self.groups is not None and not self.training:
            # BN is a fixed affine map now, and GN takes one: one pass over the map instead of two
            weight = self.weight * torch.rsqrt(self.running_var + self.eps)
            return F.group_norm(a, self.groups, weight, self.bias - self.running_mean * weight, self.eps)
        h = a if self.groups is None else F.group_norm(a, self.groups, eps=self.eps)
        keep = update or not self.training
        mean, var = (self.running_mean, self.running_var) if keep else (None, None)
        return F.batch_norm(h, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
