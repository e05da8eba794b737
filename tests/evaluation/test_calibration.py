"""Temperatures against closed forms, scipy's minimiser and the labels' own distribution; ECE against a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ccsi.evaluation.calibration import (
    class_balanced_weights,
    expected_calibration_error,
    fit_temperature,
    moved_features,
)

seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=200, classes=4):
    """Scores at a random scale, labels that often are those of the highest score, and weights."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, classes)) * 10 ** rng.uniform(-2, 2)
    labels = np.where(rng.random(n) < 0.7, scores.argmax(1), rng.integers(classes, size=n))
    return torch.from_numpy(scores), torch.from_numpy(labels), torch.from_numpy(rng.uniform(0.1, 3, n))


def loss(scores, labels, weights, log_temperature):
    """The mean cross-entropy to (N · one-hot + uniform) / (N + 1)."""
    n, classes = scores.shape
    wanted = (n * np.eye(classes)[labels] + 1 / classes) / (n + 1)
    log_p = log_softmax(scores.numpy() / math.exp(log_temperature), 1)
    return -np.average((wanted * log_p).sum(1), weights=weights)


@given(seeds)
def test_temperature_is_where_scipy_finds_the_minimum(seed):
    scores, labels, weights = problem(seed)
    found = minimize_scalar(
        lambda at: loss(scores, labels, weights, at), bounds=(-9.2, 9.2), method="bounded", options={"xatol": 1e-9}
    )
    temperature = fit_temperature(scores, labels, weights)
    assert loss(scores, labels, weights, math.log(temperature)) <= found.fun + 1e-12


@given(st.integers(1, 200), st.integers(0, 200), st.floats(0.01, 100))
def test_two_classes_one_margin_by_hand(right, wrong, margin):
    """p = σ(margin / T) is the smoothed share of right answers, if that is above a half."""
    n = right + wrong
    scores = torch.tensor([[margin, 0.0]]).repeat(n, 1)
    labels = torch.tensor([0] * right + [1] * wrong)
    share = (right + 0.5 / 1) / (n + 1)
    temperature = fit_temperature(scores, labels)
    if share > 0.5:
        assert temperature == pytest.approx(min(max(margin / math.log(share / (1 - share)), 1e-4), 1e4), rel=1e-6)
    else:
        assert temperature == pytest.approx(1e4)


def test_scores_that_are_log_odds_need_no_temperature():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(40_000, 3)) * 2)
    labels = torch.multinomial(scores.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert fit_temperature(scores, labels) == pytest.approx(1, abs=0.03)
    assert fit_temperature(scores * 50, labels) == pytest.approx(50, rel=0.03)
    assert expected_calibration_error(scores.softmax(1), labels) < 0.01
    assert expected_calibration_error((scores * 3).softmax(1), labels) > 0.1


@given(seeds, st.floats(0.1, 10), st.floats(-100, 100))
def test_temperature_follows_the_scale_and_not_the_offset(seed, factor, offset):
    scores, labels, weights = problem(seed, n=30)
    scores = scores / scores.std()
    temperature = fit_temperature(scores, labels, weights)
    moved = fit_temperature(scores * factor + offset, labels, weights * 7)
    assert moved == pytest.approx(min(temperature * factor, 1e4), rel=1e-6)


@given(seeds)
def test_whole_weights_are_repetitions(seed):
    scores, labels, _ = problem(seed, n=60)
    times = torch.from_numpy(np.random.default_rng(seed).integers(1, 4, 60))
    repeated = [tensor.repeat_interleave(times, 0) for tensor in (scores, labels)]
    weighted = expected_calibration_error(scores.softmax(1), labels, weights=times)
    assert weighted == pytest.approx(expected_calibration_error(repeated[0].softmax(1), repeated[1]))


@pytest.mark.parametrize("scores", [[[3.0]], [[0.1, 0.1, 0.1]], np.zeros((0, 3))])
def test_nothing_to_fit(scores):
    scores = torch.as_tensor(scores)
    assert fit_temperature(scores, torch.zeros(len(scores), dtype=torch.int64)) == 1


def test_one_image():
    temperature = fit_temperature(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert 2 / temperature == pytest.approx(math.log(3))  # p = 3/4


def test_all_right_and_all_wrong_are_bounded():
    scores, labels = torch.eye(3).repeat(1000, 1) * 1e6, torch.arange(3).repeat(1000)
    assert 1 < fit_temperature(scores, labels) <= 1e4 * 1.001
    assert fit_temperature(scores, (labels + 1) % 3) == pytest.approx(1e4)
    assert fit_temperature(scores * 1e-12, labels) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "why"),
    [
        ([[1.0, math.nan]], [0], None, "finite"),
        ([[1.0, math.inf]], [0], None, "finite"),
        ([[1.0, 2.0]], [2], None, "labels"),
        ([[1.0, 2.0]], [-1], None, "labels"),
        ([[1.0, 2.0]], [0, 1], None, "shapes"),
        ([1.0, 2.0], [0, 1], None, "shapes"),
        ([[1.0, 2.0]], [0], [0.0], "weight"),
        ([[1.0, 2.0]], [0], [math.nan], "weight"),
    ],
)
def test_what_is_refused(scores, labels, weights, why):
    weights = None if weights is None else torch.tensor(weights)
    with pytest.raises(ValueError, match=why):
        fit_temperature(torch.tensor(scores), torch.tensor(labels), weights)


@given(seeds, st.integers(1, 20))
def test_ece_is_the_loop_over_bins(seed, bins):
    scores, labels, _ = problem(seed, n=100)
    p = scores.softmax(1).numpy()
    confidence, right, total = p.max(1), p.argmax(1) == labels.numpy(), 0.0
    for b in range(bins):
        own = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if own.any():
            total += own.sum() / len(p) * abs(right[own].mean() - confidence[own].mean())
    assert expected_calibration_error(torch.from_numpy(p), labels, bins) == pytest.approx(total, abs=1e-9)


def test_ece_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [1.0, 0.0]]).double()
    labels = torch.tensor([0, 1, 1, 0])
    assert expected_calibration_error(p, labels) == pytest.approx(0.5 * 0.4 + 0.25 * 0.6 + 0.25 * 0)
    assert math.isnan(expected_calibration_error(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_classes_weigh_the_same(labels):
    weights = class_balanced_weights(torch.tensor(labels)).numpy()
    sums = [weights[np.array(labels) == c].sum() for c in set(labels)]
    assert sums == pytest.approx([len(labels) / len(sums)] * len(sums))


def test_moved_features_have_the_old_means():
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(5, 6, generator=generator) * 10 - 5
    labels = torch.tensor([3, 4, 4, 3, 3])
    features = means[labels] + torch.randn(5, 6, generator=generator) - 20  # far from the range's lower end
    means = means + 20
    moved, old = moved_features(features, labels, range(3, 5), means)
    assert old.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    expected = [features[i] - means[labels[i]] + means[c] for c in range(3) for i in range(5)]
    torch.testing.assert_close(moved, torch.stack(expected).clamp(min=features.min()))


def test_moved_features_stay_above_zero_after_a_relu():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(8, 4, generator=generator).relu(), torch.tensor([1, 2] * 4)
    moved, old = moved_features(features, labels, range(1, 3), torch.zeros(3, 4) + torch.arange(3)[:, None])
    assert moved.min() >= 0
    assert len(moved) == len(old) == 8
    nothing, none = moved_features(features, labels - 1, range(2), torch.zeros(2, 4))
    assert nothing.shape == (0, 4)
    assert none.shape == (0,)
