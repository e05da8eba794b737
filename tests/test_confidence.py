"""Student's t interval: what it covers, and that it is scipy's."""

import numpy as np
import pytest
from scipy import stats

from ccsi.confidence import half_width


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_it_holds_the_true_mean_in_95_of_100_cases(n: int) -> None:
    truth, samples = 0.7, np.random.default_rng(n).normal(0.7, 0.02, (n, 20_000))
    held = abs(samples.mean(axis=0) - truth) <= half_width(samples)
    assert 0.935 <= held.mean() <= 0.965
    narrower = abs(samples.mean(axis=0) - truth) <= half_width(samples, 0.8)
    assert 0.785 <= narrower.mean() <= 0.815


def test_it_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert values.mean(axis=0) - half_width(values, 0.9) == pytest.approx(theirs.low)
    assert values.mean(axis=0) + half_width(values, 0.9) == pytest.approx(theirs.high)


def test_one_value_has_none_and_equal_values_have_no_width() -> None:
    assert np.isnan(half_width([0.5])) and np.isnan(half_width([[0.5, 0.6]])).tolist() == [True, True]
    assert half_width([0.5, 0.5, 0.5]) == 0
