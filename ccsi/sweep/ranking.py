"""Which of several scores are the best: by score, or by the Pareto fronts of score and seconds."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np


def mean(values: Sequence[float]) -> float:
    """The mean of a group of seeds. Raises ValueError for none, or one that is not finite."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"expected finite values, got {list(values)}")
    return float(data.mean())


def select_best(results: Mapping[int, tuple[float, float]], top_k: int, by_front: bool) -> list[int]:
    """The best `top_k` trials, best first: by score; with `by_front` the first Pareto front first, each by score.

    Args:
        results: score and seconds of each trial.
    """
    scores, seconds = [score for score, _ in results.values()], [seconds for _, seconds in results.values()]
    front = dict(zip(results, pareto_fronts(scores, seconds) if by_front else [0] * len(scores), strict=True))
    return sorted(results, key=lambda trial: (front[trial], -results[trial][0], trial))[:top_k]


def pareto_fronts(scores: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """The number of each point's Pareto front: 0 if no other point is better in one and at least equal in the other.

    Larger scores and fewer seconds are better; front n is front 0 of what is left without fronts 0 to n - 1
    (non-dominated sorting; in two dimensions O(n log n), because only the fewest seconds of each front matter).
    """
    numbers, fewest = [0] * len(scores), list[float]()
    last: tuple[tuple[float, float], int] | None = None
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], seconds[n])):
        point = (scores[n], seconds[n])
        if last is not None and last[0] == point:
            numbers[n] = last[1]  # equals do not dominate each other
            continue
        numbers[n] = bisect_right(fewest, seconds[n])
        fewest[numbers[n] : numbers[n] + 1] = [seconds[n]]
        last = (point, numbers[n])
    return numbers
