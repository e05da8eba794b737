"""How a stored image becomes a network's input, without the data set that it came with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ccsi.checks import Pixels


@dataclass(frozen=True)
class InputFormat:
    """How a stored image becomes a network's input (see `Source`).

    Attributes:
        size: side of the square input in pixels. channels: 1 (grey) or 3 (RGB).
        ranges: by the kind of pixels of more than 8 bits ("16 bit"), the values that become 0 and 255.
    """

    size: Pixels
    fit: Literal["pad", "resize"]
    channels: Literal[1, 3]
    ranges: Mapping[str, tuple[float, float]]
