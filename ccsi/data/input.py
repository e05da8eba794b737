"""Stored images as a trained network's input, with the bits that its training images had."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccsi.checks import Pixels
from ccsi.data.depth import EIGHT_BIT, StoredPixels, needs_range, to_8_bit
from ccsi.data.fit import fit_into
from ccsi.errors import UserError
from ccsi.io.text import printable

GREY_TO_RGB = "grey, made RGB"
RGB_TO_GREY = "RGB, made grey"
CLIPPED = "with values outside of the range of the model's images, which were clipped"
"""What may have to be changed in an image: the keys of `stream.Batch.converted`."""


class UnfitError(Exception):
    """Why an image cannot become an input: a sentence that lacks the image's name at its beginning."""


@dataclass(frozen=True)
class InputFormat:
    """How a stored image becomes a network's input.

    Attributes:
        size: side of the square input, in pixels.
        fit: `pad` or `resize`, see `dataset.Source`.
        channels: 1 (RGB becomes grey by ITU-R 601 luma) or 3 (grey fills all channels).
        ranges: by the kind of deep pixels ("16 bit"), the values that become 0 and 255; see `dataset.Origin`.
    """

    size: Pixels
    fit: Literal["pad", "resize"]
    channels: Literal[1, 3]
    ranges: Mapping[str, tuple[float, float]]

    def convert(self, pixels: StoredPixels, name: str) -> Tensor:
        """One image, uint8 [C, S, S]: the bits that `Source.load` makes of the same file.

        Args:
            name: of the image, for messages.

        Raises:
            UserError: deep pixels of a kind without a range; too large for `pad`.
        """
        fitted = self.empty(1)
        try:
            self.write(pixels, fitted)
        except UnfitError as error:
            raise UserError(f"{printable(name)} {error}") from error
        return fitted[0]

    def convert_arrays(self, images: npt.NDArray[np.uint8], where: str) -> Tensor:
        """Images of one size, uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB), as uint8 [N, C, S, S].

        Args:
            where: name of the images, for messages.

        Raises:
            UserError: another type or shape; too large for `pad`.
        """
        if images.dtype != np.uint8:
            raise UserError(f"{where} is {images.dtype}; expected uint8 grey levels from 0 to 255.")
        if images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)) or not all(images.shape[1:]):
            raise UserError(f"{where} has images of shape {images.shape[1:]}; expected (H, W) or (H, W, 3).")
        fitted = self.empty(len(images))
        try:
            self.write_arrays(images, fitted)
        except UnfitError as error:
            raise UserError(f"{where} {error}") from error
        return fitted

    def empty(self, n: int) -> Tensor:
        """Memory for n inputs: uint8 [n, C, S, S]."""
        return torch.empty(n, self.channels, self.size, self.size, dtype=torch.uint8)

    def write(self, pixels: StoredPixels, fitted: Tensor) -> list[str]:
        """Write one image to `fitted`, uint8 [1, C, S, S]; returns what was changed: GREY_TO_RGB, RGB_TO_GREY, CLIPPED.

        Raises:
            UnfitError: see `convert`.
        """
        if needs_range(pixels.kind) and pixels.kind not in self.ranges:
            known = " or ".join([EIGHT_BIT, *sorted(self.ranges)])
            stored = f"is {pixels.kind}" if pixels.kind.startswith("DICOM") else f"has {pixels.kind} pixels"
            raise UnfitError(f"{stored}, but the model knows no range for these; expected {known}.")
        image, clipped = to_8_bit(pixels, self.ranges)
        changed = self.write_arrays(image[None], fitted)
        return [*changed, CLIPPED] if clipped else changed

    def write_arrays(self, images: npt.NDArray[np.uint8], fitted: Tensor) -> list[str]:
        """Write images of one size, as in `convert_arrays`, to `fitted`, uint8 [N, C, S, S]; returns as `write` does.

        Raises:
            UnfitError: see `convert`.
        """
        height, width = images.shape[1:3]
        if self.fit == "pad" and max(height, width) > self.size:
            raise UnfitError(
                f"has {height}x{width} pixels, but the model pads images (dataset.fit=pad); expected at most "
                f"{self.size}x{self.size}."
            )
        fit_into(fitted, images, self.fit, "")
        if (images.ndim == 3) == (self.channels == 1):
            return []
        return [GREY_TO_RGB if images.ndim == 3 else RGB_TO_GREY]
