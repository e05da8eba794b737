"""What a table says about a group of seeds (how many, mean, standard deviation, interval); Pareto fronts."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Figures of one group of seeds; `std`, `low` and `high` are NaN for a single seed.

    Attributes:
        n: number of values. mean: their mean. std: sample standard deviation (n - 1).
        low, high: ends of the 95 % bootstrap interval of the mean.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


def summary(values: Sequence[float], resamples: int = 10_000, seed: int = 0) -> Summary:
    """Mean, standard deviation and percentile bootstrap interval (METHOD section 8).

    The interval runs from the 2.5th to the 97.5th percentile of the means of `resamples` samples drawn
    with replacement (Efron & Tibshirani 1993, section 13.3); `seed` makes it the same on every call.

    Raises:
        ValueError: no values, or one that is not finite: a missing seed must not be averaged away.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"expected finite values, got {list(values)}")
    mean = float(data.mean())
    if data.size == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(data.size, size=(resamples, data.size))
    low, high = np.percentile(data[draws].mean(axis=1), [2.5, 97.5])
    return Summary(data.size, mean, float(data.std(ddof=1)), float(low), float(high))


def against(groups: Mapping[str, Sequence[float]], best: str) -> dict[str, float]:
    """Whether each group's mean differs from the best one's: a p value for each other group; none under three seeds.

    A paired two-sided t-test over the seeds (each group has one value for each, in the same order), with the false
    discovery rate controlled under any dependence, as all are compared with the same one (Benjamini and Yekutieli
    2001). 1 for groups that are equal on every seed; none for those that differ by the same on every seed (few test
    images): differences without spread say nothing of their error.
    """
    from scipy.stats import false_discovery_control, ttest_rel  # half a second

    apart = {name: np.subtract(groups[name], groups[best]) for name in groups if name != best}
    names = [name for name, d in apart.items() if not d.any() or np.ptp(d) > 1e-9]
    if len(groups[best]) < 3 or not names:
        return {}
    p = [float(ttest_rel(groups[name], groups[best]).pvalue) if apart[name].any() else 1.0 for name in names]
    return dict(zip(names, map(float, false_discovery_control(p, method="by")), strict=True))


def fronts(scores: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """Of each point the number of its Pareto front, 0 for those no other beats in one and equals in the other.

    Larger scores and fewer seconds are better; front n is what no other beats once fronts 0 to n - 1 are taken
    away (non-dominated sorting; in two dimensions O(n log n), as only the fewest seconds of each front matter).
    """
    numbers, fewest = [0] * len(scores), list[float]()
    last: tuple[tuple[float, float], int] | None = None
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], seconds[n])):
        point = (scores[n], seconds[n])
        if last is not None and last[0] == point:
            numbers[n] = last[1]  # equals do not beat each other
            continue
        numbers[n] = bisect_right(fewest, seconds[n])
        fewest[numbers[n] : numbers[n] + 1] = [seconds[n]]
        last = (point, numbers[n])
    return numbers
