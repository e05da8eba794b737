import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from ccsi.sweep.tables.statistics import Difference, compare_with, difference_text, mean_text, p_text, summary


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_mean_and_deviation_agree_with_the_standard_library(values: list[float]) -> None:
    s = summary(values)
    assert s.n == len(values)
    assert s.mean == pytest.approx(statistics.fmean(values))
    assert s.std == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert s.low <= s.mean <= s.high and s.high - s.mean == pytest.approx(s.mean - s.low)


def test_three_values_by_hand() -> None:
    s = summary([0.0, 0.0, 3.0])  # 4.303 is the 97.5th percentile of t with 2 degrees of freedom
    assert (s.mean, s.std) == (1.0, pytest.approx(math.sqrt(3)))
    assert (s.low, s.high) == (pytest.approx(1 - 4.3027, abs=1e-4), pytest.approx(1 + 4.3027, abs=1e-4))
    row = s.columns("x")
    assert mean_text(row, "x", 1) == "1.0 ± 1.7 [-3.3, 5.3]" and mean_text(row, "x", 1, interval=False) == "1.0 ± 1.7"


def test_one_value_has_no_spread_and_none_is_refused() -> None:
    s = summary([0.5])
    assert (s.n, s.mean) == (1, 0.5)
    assert math.isnan(s.std)
    assert math.isnan(s.low)
    assert mean_text(s.columns("x"), "x") == "50.0" and mean_text({}, "x") == "-"
    for bad in ([], [0.5, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite"):
            summary(bad)


def test_compared_with_the_best_by_hand() -> None:
    groups = dict(best=[0.9, 0.8, 0.7], near=[0.8, 0.8, 0.7], far=[0.5, 0.3, 0.3], equal=[0.9, 0.8, 0.7])
    found = compare_with("best", groups)
    assert found.keys() == {"near", "far", "equal"}
    assert found["equal"] == Difference(0.0, reason="the same difference on every seed")
    raw = []
    for name in ("near", "far"):
        apart = [groups[name][seed] - groups["best"][seed] for seed in range(3)]
        t = statistics.fmean(apart) / (statistics.stdev(apart) / math.sqrt(3))
        raw.append(2 * float(stats.t.sf(abs(t), 2)))
    # Benjamini and Yekutieli: p_(i) · m / i · (1 + 1/2), kept from falling, at most 1
    corrected = [min(1.0, raw[0] * 1.5), min(1.0, raw[0] * 1.5, raw[1] * 2 * 1.5)]
    assert [found[name].p for name in ("near", "far")] == pytest.approx(corrected)
    # one is significant: the level is 1 - 0.05 / (2 · 1.5)
    assert corrected[1] < 0.05 < corrected[0]
    theirs = stats.ttest_rel(groups["far"], groups["best"])
    interval = theirs.confidence_interval(1 - 0.05 / 3)
    far = found["far"]
    assert (far.mean, far.low, far.high) == pytest.approx((-1.3 / 3, interval.low, interval.high))
    assert (
        difference_text(far) == f"-43.3 [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}], p {corrected[1]:.3f}"
    )


@example(0, 3, 15, [0.0, 30.0, 60.0, 90.0])
@example(0, 3, 1, [0.0, 0.1, 60.0, 90.0])
@given(
    st.integers(0, 10**9),
    st.integers(3, 6),
    st.sampled_from([1, 15]),
    st.lists(st.floats(-100, 100), min_size=1, max_size=12),
)
def test_an_interval_leaves_out_0_exactly_where_p_is_significant(
    seed: int, n: int, digits: int, effects: list[float]
) -> None:
    noise = np.random.default_rng(seed).normal(0, 1, (len(effects) + 1, n)).round(digits)
    names = [f"g{i}" for i in range(len(effects))]
    values = {name: (effects[i] + noise[i]).tolist() for i, name in enumerate(names)}
    groups = dict(best=noise[-1].tolist(), **values)
    found = compare_with("best", groups)
    assert found.keys() == set(names)
    tested = {name: one for name, one in found.items() if not one.reason}
    assert digits == 1 or tested.keys() == set(names)
    raw = [stats.ttest_rel(values[name], groups["best"]).pvalue for name in tested]
    corrected = stats.false_discovery_control(raw, method="by").tolist() if raw else []
    assert [one.p for one in tested.values()] == pytest.approx(corrected)
    for one in tested.values():
        assert one.p is not None and one.low is not None and one.high is not None
        assert one.low < one.mean < one.high
        assert (one.low > 0 or one.high < 0) == (one.p < 0.05)
        low, high, p = re.findall(r"\[(\S+), (\S+)\], p (?:< )?(\S+)", difference_text(one))[0]
        assert (low[0] == "+" or high[0] == "-") == (float(p) < 0.05)  # as it is printed, too


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(3, 1), (3, 21), (5, 5)])
def test_at_most_one_in_twenty_of_the_intervals_that_leave_out_0_is_wrong(n: int, m: int) -> None:
    """The false coverage rate: of those shown as differences, how many miss the true one; half of these are none."""
    rng, truth, rates = np.random.default_rng(m), np.arange(m) % 2 * 3.0, []
    for _ in range(200):
        best, noise = rng.normal(0, 1, n), rng.normal(0, 1, (m, n))
        groups = dict(best=best.tolist(), **{f"g{i}": (truth[i] + noise[i]).tolist() for i in range(m)})
        found = compare_with("best", groups)
        shown = [(one.low, one.high, truth[i]) for i in range(m) if (one := found[f"g{i}"]).p < 0.05]
        rates.append(statistics.fmean(not low <= true <= high for low, high, true in shown) if shown else 0.0)
    assert statistics.fmean(rates) <= 0.05 + 0.015


def test_what_cannot_be_tested_says_why() -> None:
    two = compare_with("b", dict(a=[0.25, 0.5], b=[0.5, 0.76]))["a"]
    assert (two.mean, two.p, two.reason) == (pytest.approx(-0.255), None, "fewer than three seeds")
    assert difference_text(two) == "-25.5"
    constant = compare_with("b", dict(a=[0.25, 0.5, 0.25], b=[0.5, 0.75, 0.5]))["a"]
    assert constant == Difference(-0.25, reason="the same difference on every seed")
    assert compare_with("b", dict(b=[0.5, 0.75, 0.5])) == {}
    tested = compare_with("b", dict(a=[0.25, 0.5, 0.26], b=[0.5, 0.75, 0.5], c=[0.5, 0.75, 0.5]))
    assert tested["a"].p is not None and tested["c"].p is None


def test_p_as_text() -> None:
    shown = {
        1e-9: "< 0.001",
        0.00099: "< 0.001",
        0.001: "0.001",
        0.0316: "0.032",
        0.0499: "0.049",
        0.05: "0.050",
        1: "1.000",
    }
    assert {p: p_text(p) for p in shown} == shown
