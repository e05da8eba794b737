"""Familiarity against the conformal p-value by counting; distances against scipy's Gaussians; moments against loops."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from scipy.stats import kstest, multivariate_normal

from ccsi.evaluation import familiarity as module
from ccsi.evaluation.familiarity import (
    LEVELS,
    ClassGaussians,
    familiarity,
    layer_moments,
    reference_quantiles,
    whitening,
)
from ccsi.models import IncrementalNet
from ccsi.models.backbones import ccsi_small

# few distinct values: ties
values = st.lists(st.integers(-20, 20) | st.floats(-1e3, 1e3), min_size=1, max_size=300)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def one_class(reference):
    """Quantiles [1, 100] of one class."""
    return reference_quantiles(torch.tensor(np.array(reference, dtype=float)), zeros(len(reference)), range(1))


@given(values, values)
def test_familiarity_is_the_conformal_p_value(reference, new):
    found = familiarity(torch.tensor(new, dtype=torch.float64)[:, None], one_class(reference))
    for value, percent in zip(new, found.tolist(), strict=True):
        counted = 1 + sum(one <= value for one in reference)
        assert percent == pytest.approx(-(-100 * counted // (len(reference) + 1)))


@given(values, values)
def test_familiarity_rises_with_the_value_and_stays_in_range(reference, new):
    new = torch.tensor(new, dtype=torch.float64).sort().values
    found = familiarity(new[:, None], one_class(reference))
    assert (found.diff() >= 0).all()
    assert 100 / (len(reference) + 1) <= found.min() + 1e-9
    assert found.max() <= 100


@pytest.mark.parametrize("m", [1, 3, 10, 100, 2000])
def test_images_like_the_reference_are_seldom_unfamiliar(m):
    """At most a % of them have a familiarity of at most a %, however few the reference has."""
    rng, shares = np.random.default_rng(m), []
    for _ in range(1000):
        quantiles = one_class(rng.gumbel(size=m))
        found = familiarity(torch.from_numpy(rng.gumbel(size=(50, 1))), quantiles)
        shares.append([(found <= a).double().mean() for a in (5, 20, 50)])
    assert (np.mean(shares, 0) <= np.array([0.05, 0.2, 0.5]) + 0.03).all()


def test_percentiles_of_many_images_are_uniform():
    rng = np.random.default_rng(0)
    found = familiarity(torch.from_numpy(rng.normal(size=(2000, 1))), one_class(rng.normal(size=5000)))
    assert kstest(found.numpy() / 100, "uniform").statistic < 0.04


def test_classes_are_apart():
    quantiles = reference_quantiles(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0, 0, 1, 1]), range(3))
    assert quantiles.shape == (3, LEVELS)
    values = torch.tensor([[-5.0, 5.0, 9.0], [5.0, 5.0, -9.0], [-5.0, 12.0, 0.0]])
    found = familiarity(values, quantiles)  # the best of a row; a class without images says nothing
    assert found.tolist() == pytest.approx([34, 100, 100])
    assert familiarity(values[:, 2:], quantiles[2:]).isnan().all()


def test_old_and_new_classes_are_joined():
    values, labels = torch.randn(60), torch.arange(3).repeat(20)
    parts = [reference_quantiles(values, labels, classes) for classes in (range(2), range(2, 3))]
    assert torch.equal(torch.cat(parts), reference_quantiles(values, labels, range(3)))
    assert reference_quantiles(values, labels, range(0)).shape == (0, LEVELS)


def test_one_image_a_class_and_none():
    quantiles = one_class([1.0])
    found = familiarity(torch.tensor([[0.0], [1.0], [2.0]]), quantiles)
    assert found.tolist() == [50, 100, 100]
    assert familiarity(torch.empty(0, 1), quantiles).shape == (0,)


def clusters(seed, n=80, d=5, classes=4):
    """Vectors of classes with one covariance, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = rng.normal(size=(classes, d))[labels] * 3 + rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    return torch.from_numpy(x), torch.from_numpy(labels)


@given(st.integers(0, 10**6))
def test_relative_distances_are_ratios_of_scipys_gaussians(seed):
    x, labels = clusters(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.whitening, "__defaults__", (0.0,))
        found = ClassGaussians.empty(5).extended(x, labels, range(4)).relative_distances(x)
    means = np.stack([x[labels == c].numpy().mean(0) for c in range(4)])
    within = np.cov((x - torch.from_numpy(means)[labels]).numpy().T, bias=True)
    total = within + np.cov(means.T, bias=True)
    difference = np.linalg.slogdet(total)[1] - np.linalg.slogdet(within)[1]
    everything = multivariate_normal(means.mean(0), total, allow_singular=True).logpdf(x)
    for c, mean in enumerate(means):
        own = multivariate_normal(mean, within, allow_singular=True).logpdf(x)
        assert found[:, c].numpy() == pytest.approx(-2 * (own - everything) + difference, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_whitening_is_scipys_mahalanobis_distance_with_shrunk_correlations(seed, shrinkage):
    x, _ = clusters(seed, n=12)
    covariance = np.cov(x.numpy().T)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    found = (x @ whitening(torch.from_numpy(covariance), shrinkage)).norm(dim=1)
    inverse = np.linalg.inv(shrunk)
    assert found.numpy() == pytest.approx([mahalanobis(row, np.zeros(5), inverse) for row in x.numpy()])


@given(st.integers(0, 10**6))
def test_classes_added_one_task_after_the_other_are_those_added_at_once(seed):
    x, labels = clusters(seed)
    after_first = ClassGaussians.empty(5).extended(x[labels < 1], labels[labels < 1], range(1))
    later = labels >= 1
    found = after_first.extended(x[later], labels[later], range(1, 4))
    for one, other in zip(astuple(found), astuple(ClassGaussians.empty(5).extended(x, labels, range(4))), strict=True):
        torch.testing.assert_close(one, other)


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-10, 10))
def test_distances_do_not_depend_on_the_units(seed, factor, offset):
    x, labels = clusters(seed)
    factors = torch.tensor([factor, 1, 1, 1, 1])
    plain, scaled = (ClassGaussians.empty(5).extended(v, labels, range(4)) for v in (x, x * factors + offset))
    torch.testing.assert_close(scaled.relative_distances(x * factors + offset), plain.relative_distances(x))


@pytest.mark.parametrize("classes", [1, 2])
def test_one_image_a_class_and_constant_numbers_have_finite_distances(classes):
    x = torch.randn(classes, 6, generator=torch.Generator().manual_seed(0)).double()
    x[:, 0] = 3
    found = ClassGaussians.empty(6).extended(x, torch.arange(classes), range(classes)).relative_distances(x + 1)
    assert found.shape == (classes, classes)
    assert found.isfinite().all()


def test_what_is_far_from_every_class_is_unfamiliar():
    x, labels = clusters(0, n=2000)
    gaussians = ClassGaussians.empty(5).extended(x[:1000], labels[:1000], range(4))
    values = -gaussians.relative_distances(x[1000:])
    quantiles = reference_quantiles(values.gather(1, labels[1000:, None])[:, 0], labels[1000:], range(4))
    found = familiarity(values, quantiles)
    assert found.mean() > 40 and (found <= 5).double().mean() <= 0.05
    assert familiarity(-gaussians.relative_distances(x[1000:] + 200), quantiles).max() <= 1


@pytest.mark.parametrize(("norm", "side"), [("cn", 28), ("batch", 9)])
def test_layer_moments_are_those_of_each_layers_groups(norm, side):
    generator = torch.Generator().manual_seed(0)
    net = IncrementalNet(ccsi_small(in_channels=3, generator=generator, norm=norm))
    images = torch.randint(0, 256, (5, 3, side, side), generator=generator, dtype=torch.uint8)
    found, taps = layer_moments(net, images, batch_size=2), []
    with torch.no_grad():
        net.eval().features(images.float() / 255, taps)
    assert found.shape == (5, 144)
    for number, tap in enumerate(taps):
        for group, part in enumerate(tap.input.double().chunk(8, 1)):
            own = part.flatten(1)
            torch.testing.assert_close(found[:, 16 * number + group], own.mean(1), atol=1e-5, rtol=1e-4)
            log_variance = (own.var(1, correction=0) + 1e-8).log()
            torch.testing.assert_close(found[:, 16 * number + 8 + group], log_variance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("value", "labels"), [(0.0, [0, 0]), (math.nan, [0, 1]), (0.0, [0, 2])])
def test_what_gaussians_refuse(value, labels):
    with pytest.raises(ValueError, match="finite"):
        ClassGaussians.empty(3).extended(torch.full((2, 3), value), torch.tensor(labels), range(2))
