"""Which of several scores are the best: by score, or by the Pareto fronts of score and seconds."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np


def mean(values: Sequence[float]) -> float:
    """The mean of a group of seeds. Raises ValueError for none, or one that is not finite."""
    if not values or not np.isfinite(values).all():
        raise ValueError(f"expected finite values, got {list(values)}")
    return float(np.mean(values))


def select_best(results: Mapping[int, tuple[float, float]], top_k: int, by_front: bool) -> list[int]:
    """The best `top_k` trials by (score, seconds), best first: by score; with `by_front` first by Pareto front."""
    scores, seconds = [score for score, _ in results.values()], [seconds for _, seconds in results.values()]
    front = dict(zip(results, pareto_fronts(scores, seconds) if by_front else [0] * len(scores), strict=True))
    return sorted(results, key=lambda trial: (front[trial], -results[trial][0], trial))[:top_k]


def pareto_fronts(scores: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """The number of each point's Pareto front: 0 if no other point is better in one and at least equal in the other.

    Larger scores and fewer seconds are better; front n is front 0 of what is left without fronts 0 to n - 1
    (non-dominated sorting; in two dimensions O(n log n), because only the fewest seconds of each front matter).
    """
    points, fronts, fewest = list(zip(scores, seconds, strict=True)), dict[tuple[float, float], int](), list[float]()
    for point in sorted(set(points), key=lambda point: (-point[0], point[1])):
        front = fronts[point] = bisect_right(fewest, point[1])
        fewest[front : front + 1] = [point[1]]
    return [fronts[point] for point in points]
