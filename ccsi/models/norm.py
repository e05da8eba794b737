"""Continual Normalization (Pham et al., ICLR 2022), with plain BatchNorm as its special case."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError


@dataclass(frozen=True)
class Tap:
    """The input [N, C, H, W] of one norm layer in a forward pass, for the moment losses of synthesis."""

    norm: "ContinualNorm2d"
    input: Tensor


class ContinualNorm2d(nn.Module):
    """CN(a) = γ · BN(GN_G(a)) + β, GN without affine (METHOD section 2; CN paper, eq. 5).

    If workers share a batch, BN's moments are those of the whole batch.

    Args:
        groups: G, or None for plain BatchNorm.
    """

    def __init__(self, channels: int, groups: int | None, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if groups is not None and channels % groups:
            raise UserError(
                f"model.groups={groups} does not divide a layer's {channels} channels; expected one that does."
            )
        self.groups, self.momentum, self.eps = groups, momentum, eps
        self.process_group = ProcessGroup.current()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running_mean, self.running_var = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))

    def forward(self, a: Tensor, taps: list[Tap] | None = None, moving: int | None = None) -> Tensor:
        """Normalize [N, C, H, W]; in eval mode by the running moments, in training mode by the batch's own.

        Args:
            taps: receives the layer's input.
            moving: in training mode, the first `moving` images are one batch, which updates the running moments, and
                the others a second batch, which does not. None: all are the first.
        """
        if taps is not None:
            taps.append(Tap(self, a))
        if self.groups is not None and not self.training:
            # BN is a fixed affine map here, which GN can apply: one pass over the map instead of two
            weight = self.weight * torch.rsqrt(self.running_var + self.eps)
            return F.group_norm(a, self.groups, weight, self.bias - self.running_mean * weight, self.eps)
        h = a if self.groups is None else F.group_norm(a, self.groups, eps=self.eps)
        if not self.training:
            return self._normalized(h)
        sizes = [len(h)] if moving is None else [moving, len(h) - moving]
        if self.process_group.world_size == 1:
            parts = zip(h.split(sizes), (True, False), strict=False)
            out = [self._normalized(part, moves) for part, moves in parts if len(part)]
            return out[0] if len(out) == 1 else torch.cat(out)
        shared, moments = _SharedBatchNorm.apply(h, self.weight, self.bias, self.eps, sizes, self.process_group)
        mean, var, n = moments[0]
        with torch.no_grad():  # other workers may have images that update them
            share = (self.momentum * (n > 0)).to(self.running_mean)
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((var * n / (n - 1)).to(self.running_var), share)
        return shared

    def _normalized(self, h: Tensor, moves: bool = True) -> Tensor:
        mean, var = (self.running_mean, self.running_var) if moves else (None, None)
        return F.batch_norm(h, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


class _SharedBatchNorm(torch.autograd.Function):
    """Training-mode batch normalization over the images of all workers (torch's SyncBatchNorm is for GPUs only).

    `h` may be several batches of `sizes` images on this worker, one after the other, which share each communication.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, eps: float, sizes: list[int], process_group: ProcessGroup
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(h.dtype, torch.float32)
        own = torch.zeros(len(sizes), 3, h.shape[1], dtype=dtype, device=h.device)
        for part, row in zip(h.split(sizes), own, strict=True):
            if len(part) and h.is_cpu:  # three times as fast there
                row[0], row[1] = torch.batch_norm_update_stats(part.to(dtype), None, None, 0.0)
            elif len(part):
                row[1], row[0] = torch.var_mean(part.to(dtype), (0, 2, 3), correction=0)
            row[2] = part.numel() // h.shape[1]
        means, variances, counts = process_group.all_gather(own).unbind(2)  # each [workers, batches, C]
        n = counts.sum(0)
        mean = (means * counts).sum(0) / n.clamp(min=1)
        var = ((variances + (means - mean).square()) * counts).sum(0) / n.clamp(min=1)
        out, unused = torch.empty_like(h), torch.empty_like(mean[0])
        for x, y, *moments in zip(h.split(sizes), out.split(sizes), mean, var, strict=True):
            torch.ops.aten.native_batch_norm.out(
                x, weight, bias, *moments, False, 0.0, eps, out=y, save_mean=unused, save_invstd=unused
            )
        ctx.save_for_backward(h, weight, mean, var, n)
        ctx.eps, ctx.sizes, ctx.process_group = eps, sizes, process_group
        moments_of_all = torch.stack([mean, var, n], 1)
        ctx.mark_non_differentiable(moments_of_all)
        return out, moments_of_all

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        h, weight, means, variances, n = ctx.saved_tensors
        parts = list(zip(h.split(ctx.sizes), grads[0].split(ctx.sizes), means, variances, strict=True))
        # dγ and dβ with fixed moments also give the moments' part of dh
        own = torch.zeros(len(parts), 2, len(weight), dtype=means.dtype, device=h.device)
        for (part, grad, mean, var), row in zip(parts, own, strict=True):
            if len(part):  # torch's own kernel divides by it
                _, row[0], row[1] = torch.ops.aten.native_batch_norm_backward(
                    grad, part, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
                )
        shared = ctx.process_group.all_reduce(own) / n[:, None].clamp(min=1)
        d_h = torch.empty_like(h)
        for (part, grad, mean, var), out, of_all in zip(parts, d_h.split(ctx.sizes), shared, strict=True):
            inverse = torch.rsqrt(var + ctx.eps)
            a = weight * inverse
            b = -a * inverse * of_all[0]
            c = -a * of_all[1] - b * mean
            a, b, c = (v[:, None, None] for v in (a, b, c))
            out.copy_(torch.addcmul(c, part, b).addcmul_(grad, a))
        return d_h, own[:, 0].sum(0), own[:, 1].sum(0), None, None, None
