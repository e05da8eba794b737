"""The growing cosine classifier against loops in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccsi.models import IncrementalNet, ccsi_small, imprinted_prototypes, random_prototypes


def small_net(*sizes: int) -> IncrementalNet:
    g = torch.Generator().manual_seed(0)
    net = IncrementalNet(ccsi_small(1, g, groups=4))
    for size in sizes:
        net.grow(random_prototypes(size, 256, g))
    return net


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_logits_are_sigma_times_the_cosine_of_features_and_prototypes():
    net = small_net(2, 3).double().eval()
    with torch.no_grad():
        net.scale.fill_(7.5)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    z, f = net(x), net.features(x).tolist()
    w = torch.cat([net.old, net.new]).tolist()
    wanted = [[7.5 * cosine(f[i], w[c]) for c in range(5)] for i in range(3)]
    torch.testing.assert_close(z, torch.tensor(wanted, dtype=torch.float64))


def test_sigma_starts_at_one_and_is_carried_when_the_net_grows():
    net = small_net(2)
    assert net.scale.item() == 1.0 and net.scale.requires_grad
    with torch.no_grad():
        net.scale.fill_(3.25)
    net.grow(torch.rand(2, 256))
    assert net.scale.item() == 3.25


def test_growing_keeps_the_rows_and_their_order():
    net = small_net()
    assert net.n_classes == 0
    rows = torch.rand(7, 256)
    for start, stop in ((0, 2), (2, 3), (3, 7)):
        net.grow(rows[start:stop])
        assert torch.equal(net.old.data, rows[:start]) and torch.equal(net.new.data, rows[start:stop])
        assert net.n_classes == stop
    assert net.old.requires_grad and net.new.requires_grad
    rows.zero_()
    assert net.new.abs().sum() > 0  # copies


def test_a_saved_net_is_read_after_resize():
    net, other = small_net(2, 3), small_net(4)
    other.resize(2, 3)
    other.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(net.eval()(x), other.eval()(x))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_imprinting(n_old, n_new, per_class, seed):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(n_new * per_class, 5, generator=g, dtype=torch.float64) + 2
    labels = n_old + torch.arange(len(features))[torch.randperm(len(features), generator=g)] % n_new
    old = torch.randn(n_old, 5, generator=g, dtype=torch.float64)
    made = imprinted_prototypes(features, labels, range(n_old, n_old + n_new), old)
    norm = sum(math.sqrt(sum(v * v for v in row)) for row in old.tolist()) / n_old
    for number in range(n_new):
        rows = [f for f, y in zip(features.tolist(), labels.tolist(), strict=True) if y == n_old + number]
        units = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in rows]
        mean = [sum(column) / len(units) for column in zip(*units, strict=True)]
        length = math.sqrt(sum(v * v for v in mean))
        assert made[number].tolist() == pytest.approx([v / length * norm for v in mean])


def test_random_prototypes_are_uniform_in_one_over_root_dim_and_the_generators():
    made = random_prototypes(400, 64, torch.Generator().manual_seed(3))
    assert made.shape == (400, 64) and made.abs().max() <= 1 / 8
    assert made.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
    assert torch.equal(made, random_prototypes(400, 64, torch.Generator().manual_seed(3)))
