"""The order of trials, against what is worked out in another way."""

from hypothesis import given
from hypothesis import strategies as st

from ccsi.sweep.ranking import pareto_fronts


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_fronts_are_what_is_left_unbeaten_when_the_fronts_before_are_taken_away(points: list[tuple[int, int]]) -> None:
    expected, left, front = [0] * len(points), set(range(len(points))), 0
    while left:
        unbeaten = {
            n
            for n in left
            if not any(
                points[m][0] >= points[n][0] and points[m][1] <= points[n][1] and points[m] != points[n] for m in left
            )
        }
        for n in unbeaten:
            expected[n] = front
        left, front = left - unbeaten, front + 1
    assert pareto_fronts([score for score, _ in points], [seconds for _, seconds in points]) == expected
