"""Seeded choices of a data set's images: at most so many of each class, and stratified splits."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Draw = Literal["by_class", "together"]
"""See `ccsi.data.dataset.Source.draw`."""


def first_of_each_class(labels: Labels, limit: int, draw: Draw) -> npt.NDArray[np.int64]:
    """The positions, ascending, of at most `limit` images of each class: the first of a permutation seeded with 0."""
    if draw == "by_class":
        keep = [members[:limit] for members in shuffled_classes(labels, 0, draw)]
    else:
        order = np.random.default_rng(0).permutation(len(labels))
        keep = [order[labels[order] == label][:limit] for label in np.unique(labels)]
    return np.sort(np.concatenate([np.arange(0), *keep]))


def shuffled_classes(labels: Labels, seed: int, draw: Draw) -> Iterator[npt.NDArray[np.int64]]:
    """The positions of each class's images, in a seeded order."""
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        if draw == "by_class":
            generator = np.random.default_rng(seed)
        yield generator.permutation(np.flatnonzero(labels == label))


def stratified_parts(labels: Labels, shares: Sequence[float], seed: int, draw: Draw) -> Labels:
    """Each image's part in a seeded split: 0 for the remainder, then 1, 2, … for each of the `shares`.

    A share in (0, 1) gets round(share · n) of a class's n images, but at least one as long as one is left for the
    remainder, which gets the others.
    """
    number = np.zeros(len(labels), dtype=np.int64)
    for left in shuffled_classes(labels, seed, draw):
        wanted = [max(1, round(share * len(left))) for share in shares]
        for part, size in enumerate(wanted, start=1):
            size = min(size, len(left) - 1)
            number[left[:size]], left = part, left[size:]
    return number
