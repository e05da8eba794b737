"""Figures of a group of seeds: how many, mean, standard deviation, interval; and their comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ccsi.confidence import half_width
from ccsi.sweep.ranking import mean

ALPHA = 0.05
"""An adjusted p below it is a difference."""
TOO_FEW = "fewer than three seeds"


class Summary(NamedTuple):
    """Figures of one group of seeds: `std` with n - 1, and the ends of the mean's interval; NaN for one seed."""

    n: int
    mean: float
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def columns(self, figure: str) -> dict[str, float]:
        """The figures under `<figure>_mean`, `_std`, `_low` and `_high`."""
        return {f"{figure}_{part}": getattr(self, part) for part in self._fields[1:]}


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and Student's 95 % t interval (METHOD section 8). Raises ValueError as `mean`."""
    center, n = mean(values), len(values)
    if n == 1:
        return Summary(1, center)
    half = float(half_width(values))
    return Summary(n, center, float(np.std(values, ddof=1)), center - half, center + half)


def mean_text(row: Mapping[str, Any], figure: str, scale: float = 100, interval: bool = True) -> str:
    """`86.3 ± 1.1 [83.6, 89.0]`: mean, standard deviation and interval, as far as the row has them; else `-`."""
    center, spread, low, high = (scale * row.get(f"{figure}_{part}", math.nan) for part in Summary._fields[1:])
    text = "-" if math.isnan(center) else f"{center:.1f}"
    text += f" ± {spread:.1f}" if math.isfinite(spread) else ""
    return f"{text} [{low:.1f}, {high:.1f}]" if interval and math.isfinite(low) else text


class Difference(NamedTuple):
    """How far a group's mean is from another's. p is adjusted; if it and the interval are None, `reason` says why."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    reason: str = ""


def compare_with(reference: str, groups: Mapping[str, Sequence[float]]) -> dict[str, Difference]:
    """The difference of each other group from the reference, with its interval and p.

    groups: values over the seeds, the same seeds in the same order in all groups.

    p is of a paired two-sided t-test over the seeds, the false discovery rate controlled under any dependence, because
    all are compared with the same group (Benjamini and Yekutieli 2001). The interval is of the paired difference, its
    level raised so that as few of those that leave out 0 are wrong: 1 − 0.05 · R / (m · Σ 1/i) for m tests of which R
    (at least 1) are significant (Benjamini and Yekutieli 2005). Both say the same: the step-up procedure
    rejects exactly the tests whose own p is at most 0.05 · R / (m · Σ 1/i), so that an interval leaves out 0 exactly
    where the adjusted p is below 0.05.

    There is neither for fewer than three seeds, nor for a difference that is the same on every seed, which has no error
    estimate.
    """
    from scipy.stats import false_discovery_control, ttest_1samp  # seconds to import

    found, differences, reference_values = dict[str, Difference](), dict[str, list[float]](), groups[reference]
    for name, values in groups.items():
        if name == reference:
            continue
        paired = [value - other for value, other in zip(values, reference_values, strict=True)]
        if len(paired) < 3:
            found[name] = Difference(mean(paired), reason=TOO_FEW)
        elif np.ptp(paired) <= 1e-9:
            found[name] = Difference(mean(paired), reason="the same difference on every seed")
        else:
            differences[name] = paired
    if differences:
        m = len(differences)
        p = false_discovery_control([ttest_1samp(paired, 0).pvalue for paired in differences.values()], method="by")
        n_rejected = max(1, int((p <= ALPHA).sum()))
        level = 1 - ALPHA * n_rejected / (m * sum(1 / i for i in range(1, m + 1)))
        for (name, paired), adjusted in zip(differences.items(), p, strict=True):
            center, half = mean(paired), float(half_width(paired, level))
            found[name] = Difference(center, center - half, center + half, float(adjusted))
    return found


def difference_text(difference: Difference) -> str:
    """`-7.3 [-9.0, -5.6], p 0.012`: in points, with interval and adjusted p where it was tested."""
    text = f"{100 * difference.mean:+.1f}"
    if difference.p is None or difference.low is None or difference.high is None:
        return text
    return f"{text} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}], p {p_text(difference.p)}"


def p_text(p: float) -> str:
    """A p value as tables show it; rounded up to 0.050 it would contradict its interval."""
    shown = min(p, 0.049) if p < ALPHA else p
    return "< 0.001" if p < 0.001 else f"{shown:.3f}"
