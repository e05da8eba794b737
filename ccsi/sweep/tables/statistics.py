"""Figures of a group of seeds: how many, mean, standard deviation, interval; and their comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccsi.sweep.ranking import mean


class Summary(NamedTuple):
    """Figures of one group of seeds: `std` with n - 1, and the ends of the mean's 95 % interval; NaN for one seed."""

    n: int
    mean: float
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def columns(self, figure: str) -> dict[str, float]:
        """The figures under `<figure>_mean`, `_std`, `_low` and `_high`."""
        return {f"{figure}_{part}": getattr(self, part) for part in self._fields[1:]}


def summary(values: Sequence[float], resamples: int = 10_000) -> Summary:
    """Mean, standard deviation and percentile bootstrap interval (METHOD section 8), the same on every call.

    The interval: from the 2.5th to the 97.5th percentile of the means of `resamples` samples drawn with replacement
    (Efron & Tibshirani 1993, section 13.3). Raises ValueError as `mean`.
    """
    data, center = np.asarray(values, dtype=np.float64), mean(values)
    if data.size == 1:
        return Summary(1, center)
    draws = np.random.default_rng(0).integers(data.size, size=(resamples, data.size))
    low, high = np.percentile(data[draws].mean(axis=1), [2.5, 97.5])
    return Summary(data.size, center, float(data.std(ddof=1)), float(low), float(high))


def mean_text(row: Mapping[str, Any], figure: str, scale: float = 100, std: bool = True) -> str:
    """`86.3 ± 1.1 [85.2, 87.5]`: mean, standard deviation and interval, as far as the row has them; else `-`."""
    center, spread, low, high = (scale * row.get(f"{figure}_{part}", math.nan) for part in Summary._fields[1:])
    text = "-" if math.isnan(center) else f"{center:.1f}"
    text += f" ± {spread:.1f}" if std and math.isfinite(spread) else ""
    return text if math.isnan(low) else f"{text} [{low:.1f}, {high:.1f}]"


def compare_with_best(groups: Mapping[str, Sequence[float]], best: str) -> dict[str, float]:
    """A p value for each group, that its mean equals the best one's; none under three seeds.

    A paired two-sided t-test over the seeds (a value each, in the same order), with the false discovery rate controlled
    under any dependence, because all are compared with the same one (Benjamini and Yekutieli 2001). 1 for groups that
    are equal on every seed; none where the difference is the same on every seed: it has no error estimate.
    """
    from scipy.stats import false_discovery_control, ttest_rel  # half a second

    apart = {name: np.subtract(groups[name], groups[best]) for name in groups if name != best}
    names = [name for name, d in apart.items() if not d.any() or np.ptp(d) > 1e-9]
    if len(groups[best]) < 3 or not names:
        return {}
    p = [float(ttest_rel(groups[name], groups[best]).pvalue) if apart[name].any() else 1.0 for name in names]
    return dict(zip(names, map(float, false_discovery_control(p, method="by")), strict=True))
