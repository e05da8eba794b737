import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ccsi.sweep.tables.statistics import compare_with_best, summary


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_mean_and_deviation_agree_with_the_standard_library(values: list[float]) -> None:
    s = summary(values, resamples=200)
    assert s.n == len(values)
    assert s.mean == pytest.approx(statistics.fmean(values))
    assert s.std == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert min(values) - 1e-12 <= s.low <= s.high <= max(values) + 1e-12


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(5).normal(0.6, 0.1, size=12)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    s = summary(list(values), resamples=20_000)
    assert s.low == pytest.approx(theirs.low, abs=2e-3)
    assert s.high == pytest.approx(theirs.high, abs=2e-3)
    assert summary(list(values)) == summary(list(values))


def test_three_values_by_hand() -> None:
    # of the 27 equally likely samples of (0, 0, 3) with replacement 8 have mean 0 and one has mean 3 (3.7 %)
    s = summary([0.0, 0.0, 3.0])
    assert (s.mean, s.std, s.low, s.high) == (1.0, pytest.approx(math.sqrt(3)), 0.0, 3.0)


def test_one_value_has_no_spread_and_none_is_refused() -> None:
    s = summary([0.5])
    assert (s.n, s.mean) == (1, 0.5)
    assert math.isnan(s.std)
    assert math.isnan(s.low)
    for bad in ([], [0.5, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite"):
            summary(bad)


def test_compare_with_best_the_best_by_hand() -> None:
    groups = {"best": [0.9, 0.8, 0.7], "near": [0.8, 0.8, 0.7], "far": [0.5, 0.3, 0.3], "equal": [0.9, 0.8, 0.7]}
    found = compare_with_best(groups, "best")
    raw = []
    for name in ("near", "far", "equal"):
        apart = [a - b for a, b in zip(groups[name], groups["best"], strict=True)]
        if any(apart):
            t = statistics.fmean(apart) / (statistics.stdev(apart) / math.sqrt(3))
            raw.append(2 * float(stats.t.sf(abs(t), 2)))
        else:
            raw.append(1.0)
    # Benjamini and Yekutieli: p_(i) · m / i · (1 + 1/2 + 1/3), kept from falling, at most 1
    order, corrected, least = sorted(range(3), key=lambda i: raw[i]), [0.0] * 3, 1.0
    for rank in (3, 2, 1):
        least = min(least, raw[order[rank - 1]] * 3 / rank * (1 + 1 / 2 + 1 / 3))
        corrected[order[rank - 1]] = least
    assert found.keys() == {"near", "far", "equal"}
    assert [found[name] for name in ("near", "far", "equal")] == pytest.approx(corrected)
    assert corrected[1] < 0.1 < corrected[0] and corrected[2] == 1.0


def test_two_seeds_say_nothing_and_a_constant_difference_of_three_everything() -> None:
    assert compare_with_best({"a": [0.25, 0.5], "b": [0.5, 0.75]}, "b") == {}
    assert compare_with_best({"a": [0.25, 0.5, 0.25], "b": [0.5, 0.75, 0.5]}, "b") == {}  # without spread
    assert compare_with_best({"b": [0.5, 0.75, 0.5]}, "b") == {}
