"""Familiarity against the conformal p-value by counting, its guarantee, and energies against their bounds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from ccsi.evaluation.familiarity import LEVELS, energy, familiarity, reference_quantiles

# few distinct values: ties
values = st.lists(st.integers(-20, 20) | st.floats(-1e3, 1e3), min_size=1, max_size=300)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def one_class(reference):
    """Quantiles [1, 100] of one class."""
    return reference_quantiles(torch.tensor(np.array(reference, dtype=float)), zeros(len(reference)), range(1))


@given(values, values)
def test_familiarity_is_the_conformal_p_value(reference, new):
    found = familiarity(torch.tensor(new, dtype=torch.float64), zeros(len(new)), one_class(reference))
    for value, percent in zip(new, found.tolist(), strict=True):
        counted = 1 + sum(one <= value for one in reference)
        assert percent == pytest.approx(-(-100 * counted // (len(reference) + 1)))


@given(values, values)
def test_familiarity_rises_with_the_value_and_stays_in_range(reference, new):
    new = torch.tensor(new, dtype=torch.float64).sort().values
    found = familiarity(new, zeros(len(new)), one_class(reference))
    assert (found.diff() >= 0).all()
    assert 100 / (len(reference) + 1) <= found.min() + 1e-9
    assert found.max() <= 100


@pytest.mark.parametrize("m", [1, 3, 10, 100, 2000])
def test_images_like_the_reference_are_seldom_unfamiliar(m):
    """At most a % of them have a familiarity of at most a %, however few the reference has."""
    rng, shares = np.random.default_rng(m), []
    for _ in range(1000):
        quantiles = one_class(rng.gumbel(size=m))
        found = familiarity(torch.from_numpy(rng.gumbel(size=50)), zeros(50), quantiles)
        shares.append([(found <= a).double().mean() for a in (5, 20, 50)])
    assert (np.mean(shares, 0) <= np.array([0.05, 0.2, 0.5]) + 0.03).all()


def test_percentiles_of_many_images_are_uniform():
    rng = np.random.default_rng(0)
    found = familiarity(torch.from_numpy(rng.normal(size=2000)), zeros(2000), one_class(rng.normal(size=5000)))
    assert kstest(found.numpy() / 100, "uniform").statistic < 0.04


def test_classes_are_apart():
    quantiles = reference_quantiles(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0, 0, 1, 1]), range(3))
    assert quantiles.shape == (3, LEVELS)
    found = familiarity(torch.tensor([5.0, 5.0, 5.0]), torch.tensor([0, 1, 2]), quantiles)
    assert found.tolist() == pytest.approx([100, 34, math.nan], nan_ok=True)


def test_old_and_new_classes_are_joined():
    values, labels = torch.randn(60), torch.arange(3).repeat(20)
    parts = [reference_quantiles(values, labels, classes) for classes in (range(2), range(2, 3))]
    assert torch.equal(torch.cat(parts), reference_quantiles(values, labels, range(3)))
    assert reference_quantiles(values, labels, range(0)).shape == (0, LEVELS)


def test_one_image_a_class_and_none():
    quantiles = one_class([1.0])
    found = familiarity(torch.tensor([0.0, 1.0, 2.0]), zeros(3), quantiles)
    assert found.tolist() == [50, 100, 100]
    assert familiarity(torch.empty(0), zeros(0), quantiles).shape == (0,)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5), st.floats(0.01, 100))
def test_energy_is_between_the_maximum_and_that_of_equal_scores(row, temperature):
    found = float(energy(torch.tensor([row], dtype=torch.float64), temperature))
    assert max(row) - 1e-9 <= found <= max(row) + temperature * math.log(len(row)) + 1e-9
