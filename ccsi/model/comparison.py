"""How far an exported file is from the model that it was made of."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-5
"""The largest difference of a probability that a file may have from the model."""
BATCHES = (1, 3, 16)
"""Batch sizes that a file is checked with."""

Model = Callable[[Tensor], Tensor]
"""Float32 images [N, C, S, S] in [0, 1] to probabilities, float32 [N, n_classes]."""


def random_images(n: int, channels: int, size: int, draws: torch.Generator) -> Tensor:
    """Random images, float32 [n, C, S, S] in [0, 1]: noise, smooth ones, black-and-white ones, all of 1, all of 0."""
    noise = torch.rand(n, channels, size, size, generator=draws)
    coarse = torch.rand(n, channels, min(4, size), min(4, size), generator=draws)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    kinds = torch.stack([noise, smooth, noise.round(), torch.ones_like(noise), torch.zeros_like(noise)])
    rows = torch.arange(n)
    return kinds[rows % 3 if n < 5 else rows % 5, rows]


@torch.no_grad()
def largest_difference(run: Model, model: Model, channels: int, size: int) -> float:
    """The largest difference of `run`'s probabilities from the model's, on random images; inf if a top-1 differs.

    A top-1 counts where the two highest probabilities are more than twice the tolerance apart.
    """
    draws, largest = torch.Generator().manual_seed(0), 0.0
    for n in BATCHES:
        images = random_images(n, channels, size, draws)
        wanted, found = model(images), run(images)
        if found.shape != wanted.shape or found.dtype != wanted.dtype or not found.isfinite().all():
            return math.inf
        top = wanted.topk(min(2, wanted.shape[1]))
        clear = top.values[:, 0] - top.values[:, -1] > 2 * TOLERANCE
        if (found.argmax(1) != top.indices[:, 0])[clear].any():
            return math.inf
        largest = max(largest, float((found - wanted).abs().max()))
    return largest
