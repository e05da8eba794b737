"""The simulation against what can be worked out by hand, and against the scheduler it imitates."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulation import Costs, Outcome, Rules, Sweep, Trial

LAST = Rules(top_k=1, reporting=1, bounded=False)
"""Phase 2 is one trial and waits for all of phase 1: it adds that trial's length."""


def equal(count: int, *seconds: float) -> list[Trial]:
    """So many trials of the same length; the first is the best, each score falls a little from task to task."""
    return [Trial(seconds, tuple(0.9 - n / 1e6 - k / 1e3 for k in range(len(seconds)))) for n in range(count)]


NOTHING = Costs()


def run(trials: list[Trial], places: int, rules: Rules = LAST, costs: Costs = NOTHING) -> Outcome:
    return Sweep(trials, places, 1, rules, costs).run()


@pytest.mark.parametrize(("count", "places"), [(1, 1), (7, 3), (12, 4), (5, 9)])
def test_equal_trials_go_in_rounds(count: int, places: int) -> None:
    rounds = math.ceil(count / places)
    assert run(equal(count, 2.0, 3.0), places).makespan == pytest.approx((rounds + 1) * 5)


def test_a_driver_slower_than_the_trials_is_what_counts() -> None:
    """Every trial waits for its start and its end at a driver that needs a second for both; the work is hidden."""
    outcome = run(equal(200, 0.5), 50, costs=Costs(start=0.4, end=0.6))
    assert outcome.makespan == pytest.approx(201 * 1.0 + 0.5, abs=0.5)  # and phase 2's own half second
    assert outcome.driver > 0.99


def test_what_the_driver_does_grows_with_trials_and_places() -> None:
    outcome = run(equal(100, 1e-9), 10, costs=Costs(per_trial=0.01))
    starts = sum(range(1, 102)) * 0.01  # the n-th start costs n hundredths; ends cost what the last start did
    assert starts < outcome.makespan < 2.1 * starts
    assert Costs(start=1, report=2, end=3, per_trial=0.1, per_place=10).driver_seconds(3, 5, 7) == 8 + 4 * 70.5


def test_a_slow_storage_is_shared() -> None:
    """Each trial writes 4 checkpoints of 2 s at a storage that takes one at a time: 30 trials keep it busy."""
    costs = Costs(checkpoint=2e6, bandwidth=1e6, interval=1.0)
    trials = equal(30, 2.0, 2.0)
    assert costs.checkpoints(trials[0]) == 4
    outcome = run(trials, 15, costs=costs)
    assert outcome.makespan == pytest.approx(30 * 4 * 2 + 4 * 3, abs=3)
    assert outcome.storage > 0.95


def test_the_first_trial_at_a_place_waits_for_its_worker() -> None:
    assert run(equal(6, 5.0), 3, costs=Costs(worker=4.0, hop=0.5)).makespan == pytest.approx(4 + 3 * 5.5)


def test_what_a_dead_node_loses_is_less_than_an_interval_a_death() -> None:
    costs = Costs(interval=10.0, mtbf=400.0, detect=17.0, repair=60.0)
    outcomes = [Sweep(equal(40, 100.0), 8, 1, LAST, costs, seed).run() for seed in range(20)]
    whole = [outcome.work for outcome in outcomes]
    assert whole == pytest.approx([41 * 100.0] * 20)
    deaths = sum(outcome.trials - 41 for outcome in outcomes)  # each makes a trial start once more
    expected = 20 * 41 * 100 / 400
    assert deaths == pytest.approx(expected, rel=0.25)
    assert sum(outcome.lost for outcome in outcomes) == pytest.approx(deaths * 5, rel=0.25)  # half an interval each


seconds = st.lists(st.floats(0.01, 100), min_size=1, max_size=3).map(tuple)
trial_lists = st.lists(seconds, min_size=1, max_size=25)


@settings(deadline=None)
@given(trial_lists, st.integers(1, 8), st.integers(0, 99), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_without_overheads_it_is_a_list_schedule(
    lengths: list[tuple[float, ...]], places: int, seed: int, bounded: bool, top_k: int, reporting: int
) -> None:
    """Between the lower bound and Graham's: with p places, at most 2 - 1/p times the optimum."""
    rng = np.random.default_rng(seed)
    means = [
        np.cumsum(rng.random(len(one))) / np.arange(1, len(one) + 1) for one in lengths
    ]  # as a part bounds the whole
    trials = [Trial(one, tuple(mean)) for one, mean in zip(lengths, means, strict=True)]
    outcome = run(trials, places, Rules(top_k=top_k, reporting=reporting, bounded=bounded))
    longest = max(map(sum, lengths))
    path = longest + max(sum(trial.seconds) for trial in sorted(trials, key=lambda t: -t.scores[-1])[:top_k])
    assert outcome.makespan >= outcome.bound - 1e-9
    cut = longest if bounded else 0.0  # hopeless trials are cut short: their last piece is not counted as work
    assert outcome.makespan <= outcome.work / places + (1 - 1 / places) * path + cut + 1e-6
    if top_k == 1 and not bounded:  # phase 2 waits for all of phase 1, so that the path is a bound as well
        optimum = max(outcome.work / places, path)
        assert optimum - 1e-6 <= outcome.makespan <= (2 - 1 / places) * optimum + 1e-6


def test_asha_lets_a_quarter_go_on_and_enough_to_report() -> None:
    outcome = run(equal(4, 1.0, 1.0, 3.0), 1, Rules(top_k=2, reporting=1, asha=True))
    # Two tasks of each; with the fourth c00 goes on; then c01, as two are to be reported; phase 2.
    assert outcome.makespan == pytest.approx(4 * 2 + 3 + 3 + 2 * 5)
    assert outcome.pruned == 2


@settings(deadline=None)
@given(trial_lists, st.integers(1, 8), st.integers(0, 99), st.integers(1, 3), st.booleans())
def test_with_asha_it_ends_too_and_reports_as_many(
    lengths: list[tuple[float, ...]], places: int, seed: int, top_k: int, dying: bool
) -> None:
    rng = np.random.default_rng(seed)
    means = [np.cumsum(rng.random(len(one))) / np.arange(1, len(one) + 1) for one in lengths]
    trials = [Trial(one, tuple(mean)) for one, mean in zip(lengths, means, strict=True)]
    costs = Costs(interval=10.0, mtbf=2000.0, repair=60.0) if dying else NOTHING
    sweep = Sweep(trials, places, 1, Rules(top_k=top_k, reporting=2, asha=True), costs, seed)
    outcome = sweep.run()
    assert len(sweep.chosen) == min(top_k, len(trials))
    assert outcome.makespan >= outcome.bound - 1e-9
