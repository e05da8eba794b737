"""A seeded stratified split, for sources without a split of their own."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Lt

OpenShare = Annotated[float, Gt(0), Lt(1)]
"""A fraction of each class: (0, 1)."""


def stratified(labels: npt.NDArray[np.int64], shares: Sequence[float], seed: int) -> list[npt.NDArray[np.int64]]:
    """Positions of the remainder and then of each share, disjoint and complete, each in ascending order.

    Args:
        labels: int64 [N].
        shares: fractions of every class, in (0, 1), with a sum below 1. A share gets round(share · n) of a class's n
            images, but at least one; the remainder gets the others.
        seed: of the permutation inside each class.

    Returns:
        1 + len(shares) int64 arrays.
    """
    draw = np.random.default_rng(seed)
    parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(1 + len(shares))]
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        for number, count in enumerate([max(1, round(share * len(members))) for share in shares], start=1):
            parts[number].append(members[:count])
            members = members[count:]
        parts[0].append(members)
    return [np.sort(np.concatenate(part)) for part in parts]
