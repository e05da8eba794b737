"""Conversion of images of any size, grey or RGB, to the model's input."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.errors import UserError

CHUNK = 1024
"""Images converted at a time, which limits the memory of intermediate results."""


def fit_images(
    images: npt.NDArray[np.uint8], size: int, fit: Literal["pad", "resize"], channels: int | None, where: str
) -> Tensor:
    """The images at the model's input size: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB) to [N, C, size, size].

    Args:
        fit: `pad` (zeros on all sides, the odd pixel right and below) or `resize` (bilinear, antialiased).
        channels: 1, 3, or None to keep those of the images.
        where: name of the data, for messages.

    Raises:
        UserError: `pad` with an image larger than `size`.
    """
    n, (height, width) = len(images), images.shape[1:3]
    if fit == "pad" and max(height, width) > size:
        raise UserError(
            f"{where}: images of {height}x{width} pixels do not fit into dataset.size={size} by padding; "
            f"use dataset.fit=resize or a dataset.size of at least {max(height, width)}."
        )
    fitted = torch.empty(n, channels or (1 if images.ndim == 3 else 3), size, size, dtype=torch.uint8)
    for at in range(0, n, CHUNK):
        x = torch.from_numpy(np.ascontiguousarray(images[at : at + CHUNK]))
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        if channels == 1 and x.shape[1] == 3:
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).round()
        if fit == "pad":
            left, top = (size - width) // 2, (size - height) // 2
            x = F.pad(x, (left, size - width - left, top, size - height - top))
        elif (height, width) != (size, size):
            x = F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
            x = x.round().clamp(0, 255)
        fitted[at : at + CHUNK] = x  # grey fills all channels
    return fitted
