"""Pixels of more than 8 bits: the range of values that becomes 0 to 255."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EIGHT_BIT = "8 bit"
AS_THE_FILE_SAYS = "DICOM, as each file's window says"
"""Kinds of pixels that need no range of the whole data set."""


@dataclass(frozen=True)
class StoredPixels:
    """One image as its file has it.

    Attributes:
        values: [H, W] or [H, W, 3]; uint8 if `kind` needs no range, else any number type.
        kind: EIGHT_BIT, AS_THE_FILE_SAYS, or what images of one range have in common ("16 bit").
        inverted: large values are dark (DICOM's MONOCHROME1, TIFF's WhiteIsZero), once they are of 8 bits.
    """

    values: npt.NDArray[np.generic]
    kind: str
    inverted: bool = False


def needs_range(kind: str) -> bool:
    """Whether the pixels of a kind have more than 8 bits."""
    return kind not in (EIGHT_BIT, AS_THE_FILE_SAYS)


def full_range(low: float, high: float, whole_numbers: bool) -> tuple[float, float]:
    """The values that become 0 and 255, of images whose values are from `low` to `high`.

    This is the smallest of 0…1 (not of whole numbers), 0…255, 0…511, … 0…2^k-1 that holds them. If they use less than
    half of it, or some are negative, it is `low` to `high` itself, so that no more than one bit of contrast is lost.
    """
    top = 1.0
    while top < high or (whole_numbers and top < 255):
        top = 2 * top + 1 if top >= 255 else 255.0
    if low >= 0 and high - low >= top / 2:
        return 0.0, top
    return low, high if high > low else low + 1


def to_8_bit(pixels: StoredPixels, ranges: Mapping[str, tuple[float, float]]) -> tuple[npt.NDArray[np.uint8], bool]:
    """The values of an image, scaled to 0 to 255, and whether some were outside of their range and were clipped."""
    values, clipped = pixels.values, False
    if needs_range(pixels.kind):
        low, high = ranges[pixels.kind]
        clipped = bool(values.min() < low or values.max() > high)
        values = np.clip(np.rint((values.astype(np.float64) - low) * (255 / (high - low))), 0, 255)
    eight = values.astype(np.uint8)
    return 255 - eight if pixels.inverted else eight, clipped


def described(kinds: Mapping[str, int], ranges: Mapping[str, tuple[float, float]], is_set: bool) -> str:
    """The depth of images, whose number is known by kind, in words."""
    several, parts = len(kinds) > 1, []
    for kind, n in sorted(kinds.items()):
        scaled = ""
        if kind in ranges:
            low, high = ranges[kind]
            scaled = f", {low:.6g} to {high:.6g} {'(dataset.range) ' * is_set}scaled to 0 to 255"
        parts.append(f"{kind}{scaled}" + f" ({n:,} image{'s' * (n != 1)})" * several)
    return "; ".join(parts)
