"""Batched augmentation on the device: one affine resampling and one colour change for the whole batch."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

Degrees = Annotated[float, Ge(0), Le(360)]
Amount = Annotated[float, Ge(0), Le(10)]
PixelShift = Annotated[int, Ge(0), Le(4096)]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes, drawn for each image. Zeros (padding) are not changed by the last four.

    Args:
        flip_horizontal: with probability 1/2.
        flip_vertical: with probability 1/2.
        transpose: with probability 1/2; with both flips, the eight symmetries of the square.
        shift: largest shift along each axis in whole pixels, uniform (a fraction of a pixel would blur).
        rotate: largest rotation in degrees either way, uniform.
        scale: zoom, log-uniform in [1/(1+scale), 1+scale].
        brightness: factor of the image, log-uniform in [1/(1+brightness), 1+brightness].
        colour: factor of each channel, log-uniform in [1/(1+colour), 1+colour].
        gamma: x^γ with γ log-uniform in [1/(1+gamma), 1+gamma].
        noise: largest standard deviation of Gaussian noise, uniform in [0, noise]; the result is clamped to [0, 1].
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    transpose: bool = False
    shift: PixelShift = 0
    rotate: Degrees = 0.0
    scale: Amount = 0.0
    brightness: Amount = 0.0
    colour: Amount = 0.0
    gamma: Amount = 0.0
    noise: Amount = 0.0

    def __call__(
        self, x: Tensor, generator: torch.Generator, whole: int | None = None, part: slice = slice(None)
    ) -> Tensor:
        """Float [N, C, S, S] in [0, 1] to the same.

        Args:
            generator: on x's device.
            whole, part: if x is `part` of a batch of `whole` images, it gets the changes that it has in that batch.
        """
        n, channels, _, size = x.shape
        whole = n if whole is None else whole

        def uniform(*shape: int) -> Tensor:
            return torch.rand(whole, *shape, generator=generator, device=x.device, dtype=x.dtype)[part] * 2 - 1

        def sign(enabled: bool) -> Tensor:
            return torch.where(uniform() < 0, -1.0, 1.0) if enabled else torch.ones(n, device=x.device)

        def factor(amount: float, *shape: int) -> Tensor:
            return (uniform(*shape) * torch.log1p(torch.tensor(amount))).exp()

        if any((self.flip_horizontal, self.flip_vertical, self.transpose, self.shift, self.rotate, self.scale)):
            angle = uniform() * self.rotate * torch.pi / 180
            zoom = factor(self.scale)
            cos, sin = angle.cos() * zoom, angle.sin() * zoom
            rows = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # [N, 2, 2]
            rows = rows * torch.stack([sign(self.flip_horizontal), sign(self.flip_vertical)], 1).to(x.dtype)[:, :, None]
            if self.transpose:
                rows = torch.where(uniform()[:, None, None] < 0, rows.flip(1), rows)
            pixels = torch.randint(-self.shift, self.shift + 1, (whole, 2, 1), generator=generator, device=x.device)
            moves = pixels[part].to(x.dtype) * (2 / size)
            if n:  # a worker may have none
                grid = F.affine_grid(torch.cat([rows, moves], 2), [n, channels, size, size], align_corners=False)
                x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.gamma:
            x = x.clamp(min=0) ** factor(self.gamma, 1, 1, 1)
        if self.brightness or self.colour:
            x = (x * (factor(self.brightness, 1, 1, 1) * factor(self.colour, channels, 1, 1))).clamp(max=1)
        if self.noise:
            deviation = self.noise * torch.rand(whole, 1, 1, 1, generator=generator, device=x.device, dtype=x.dtype)
            draws = torch.randn(whole, *x.shape[1:], generator=generator, device=x.device, dtype=x.dtype)
            x = torch.where(x == 0, x, (x + deviation[part] * draws[part]).clamp(0, 1))
        return x
