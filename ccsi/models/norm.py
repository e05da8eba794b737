"""Continual Normalization (Pham et al., ICLR 2022), with plain BatchNorm as its special case."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.errors import UserError
from ccsi.workers import Workers


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

    Where workers share a batch, BN's moments are those of the whole batch.

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
        self.workers = Workers.here()
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
        if self.training and not self.workers.alone:
            return self._shared(h, update)
        keep = update or not self.training
        mean, var = (self.running_mean, self.running_var) if keep else (None, None)
        return F.batch_norm(h, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def _shared(self, h: Tensor, update: bool) -> Tensor:
        """BN of this worker's part of a batch, by the moments of the whole."""
        out: Tensor
        out, mean, var, n = _SharedBatchNorm.apply(h, self.weight, self.bias, self.eps, self.workers)
        if update:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                self.running_var.lerp_((var * n / (n - 1)).to(self.running_var), self.momentum)
        return out


class _SharedBatchNorm(torch.autograd.Function):
    """Training-mode batch normalization over the images of all workers (torch's SyncBatchNorm is for GPUs only)."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, eps: float, workers: Workers
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, dtype = h.numel() // h.shape[1], torch.promote_types(h.dtype, torch.float32)
        own = torch.zeros(3, h.shape[1], dtype=dtype, device=h.device)
        if count and h.is_cpu:  # three times as fast there
            own[0], own[1] = torch.batch_norm_update_stats(h.to(dtype), None, None, 0.0)
        elif count:
            own[1], own[0] = torch.var_mean(h.to(dtype), (0, 2, 3), correction=0)
        own[2] = count
        means, variances, counts = workers.stack(own).unbind(1)  # each [workers, C]
        n = counts[:, 0].sum()
        mean = (means * counts).sum(0) / n
        var = ((variances + (means - mean).square()) * counts).sum(0) / n
        ctx.save_for_backward(h, weight, mean, var, n)
        ctx.eps, ctx.workers = eps, workers
        ctx.mark_non_differentiable(mean, var, n)
        return F.batch_norm(h, mean, var, weight, bias, False, 0.0, eps), mean, var, n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad = grads[0]
        h, weight, mean, var, n = ctx.saved_tensors
        # dγ and dβ, as if the moments were fixed, are also what the moments' own share of dh is made of
        d_weight = d_bias = torch.zeros_like(weight)
        if len(h):  # torch's own kernel divides by it
            _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
                grad, h, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        all_weight, all_bias = ctx.workers.total(torch.stack([d_weight, d_bias])) / n
        inverse = torch.rsqrt(var + ctx.eps)
        a = weight * inverse
        b = -a * inverse * all_weight
        c = -a * all_bias - b * mean
        a, b, c = (v[:, None, None] for v in (a, b, c))
        return torch.addcmul(c, h, b).addcmul_(grad, a).to(h.dtype), d_weight, d_bias, None, None
