"""Images as they are stored, in pieces of bounded memory, brought to the model's input size."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.errors import UserError

CHUNK = 1 << 20
"""Bytes of uint8 images converted at a time (the float copies of `resize` take four times as much)."""


class StoredImages(ABC):
    """The images of one split, which stay in their files until they are read.

    Attributes:
        channels: 1 or 3.
        names: of the images, printable, in their order; empty if they have none.
    """

    channels: int
    names: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Self:
        """The images at some ascending positions, or where a mask is true, without reading them."""

    @abstractmethod
    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All images in their order, some at a time: uint8 [n, H, W] or [n, H, W, 3]; one image, or CHUNK bytes."""

    def warnings(self) -> list[str]:
        """Whole sentences about what looked wrong while the images were read."""
        return []


def channels_of(images: npt.NDArray[np.uint8] | StoredImages) -> int:
    """1 (grey) or 3 (RGB)."""
    if isinstance(images, StoredImages):
        return images.channels
    return 1 if images.ndim == 3 else 3


def rows_at_a_time(bytes_of_one: int) -> int:
    """How many images are CHUNK bytes; at least one."""
    return max(1, CHUNK // max(1, bytes_of_one))


def chunks_of(images: npt.NDArray[np.uint8] | StoredImages) -> Iterator[npt.NDArray[np.uint8]]:
    """See `StoredImages.chunks`."""
    if isinstance(images, StoredImages):
        yield from images.chunks()
    else:
        step = rows_at_a_time(images[:1].nbytes)
        for at in range(0, len(images), step):
            yield np.ascontiguousarray(images[at : at + step])


def fit_into(fitted: Tensor, images: npt.NDArray[np.uint8], fit: Literal["pad", "resize"], where: str) -> None:
    """Write images, uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB), at the model's input size to `fitted`.

    Args:
        fitted: uint8 [N, C, S, S]. With C=1 RGB becomes grey, with C=3 grey fills all channels.
        fit: `pad` (zeros on all sides, the odd pixel right and below) or `resize` (bilinear, antialiased).
        where: name of the data, for messages.

    Raises:
        UserError: `pad` with an image larger than S.
    """
    (height, width), (channels, size) = images.shape[1:3], fitted.shape[1:3]
    if fit == "pad" and max(height, width) > size:
        raise UserError(
            f"{where}: images of {height}x{width} pixels do not fit into dataset.size={size} by padding; "
            f"use dataset.fit=resize or a dataset.size of at least {max(height, width)}."
        )
    step = rows_at_a_time(max(images[:1].nbytes, fitted[:1].numel()))
    for part in range(0, len(images), step):
        x = torch.from_numpy(images[part : part + step])
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        if channels == 1 and x.shape[1] == 3:
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).round()
        if fit == "pad":
            left, top = (size - width) // 2, (size - height) // 2
            x = F.pad(x, (left, size - width - left, top, size - height - top))
        elif (height, width) != (size, size):
            x = F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
            x = x.round_().clamp_(0, 255)
        fitted[part : part + step] = x  # grey fills all channels
