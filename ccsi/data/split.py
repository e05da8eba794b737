"""A seeded stratified split, for sources without a split of their own."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from ccsi.data.dataset import Raw

OpenShare = Annotated[float, Gt(0), Lt(1)]
"""A fraction of each class: (0, 1)."""


def stratified(raw: Raw, shares: Sequence[float], seed: int) -> list[Raw]:
    """The remainder and then each share of `raw`, disjoint and complete, each in the original order.

    Args:
        shares: fractions of every class, with a sum below 1. A share gets round(share · n) of a class's n images, but
            at least one; the remainder gets the others.
        seed: of the permutation inside each class.
    """
    draw = np.random.default_rng(seed)
    number = np.zeros(len(raw.labels), dtype=np.int64)  # of each image's part
    for label in np.unique(raw.labels):
        members = draw.permutation(np.flatnonzero(raw.labels == label))
        sizes = [max(1, round(share * len(members))) for share in shares]
        for part, indices in enumerate(np.split(members, np.cumsum(sizes))[:-1], start=1):
            number[indices] = part
    return [raw[number == part] for part in range(1 + len(shares))]
