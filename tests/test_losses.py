"""The update's losses against loops in plain Python over drawn cases."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccsi.losses import class_centroids, distillation, intra_domain_conservative, margin, moving_centroids

seeds = st.integers(0, 10**6)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@given(st.integers(1, 6), seeds)
def test_distillation(n, seed):
    new, old = drawn(seed, n, 4), drawn(seed + 1, n, 4)
    wanted = sum(1 - cosine(a, b) for a, b in zip(new.tolist(), old.tolist(), strict=True)) / n
    assert distillation(new, old).item() == pytest.approx(wanted)
    assert distillation(new, 3 * new).item() == pytest.approx(0)  # only the direction counts


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.floats(0, 1), seeds)
def test_margin(n, n_old, n_new, k, m, seed):
    cosines = drawn(seed, n, n_old + n_new).tanh()
    labels = torch.randint(n_old + n_new, (n,), generator=torch.Generator().manual_seed(seed))
    each = []
    for s, y in zip(cosines.tolist(), labels.tolist(), strict=True):
        if y < n_old:
            hardest = sorted(s[n_old:], reverse=True)[:k]
            each.append(sum(max(0.0, m - s[y] + new) for new in hardest) / len(hardest))
    wanted = sum(each) / len(each) if each else 0.0
    assert margin(cosines, labels, n_old, m, k).item() == pytest.approx(wanted, abs=1e-12)


def test_margin_without_old_images_is_exactly_zero_and_has_a_zero_gradient():
    cosines = drawn(0, 5, 4).requires_grad_()
    loss = margin(cosines, torch.tensor([2, 3, 3, 2, 2]), 2)
    loss.backward()
    assert loss.item() == 0.0 and torch.equal(cosines.grad, torch.zeros_like(cosines))


@given(st.integers(1, 10), st.integers(1, 5), seeds)
def test_class_centroids(n, n_classes, seed):
    scores = drawn(seed, n, n_classes)
    labels = torch.randint(n_classes, (n,), generator=torch.Generator().manual_seed(seed))
    centroids, present = class_centroids(scores, labels, n_classes)
    for c in range(n_classes):
        rows = [s for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if y == c]
        assert present[c].item() == bool(rows)
        if rows:
            assert centroids[c].tolist() == pytest.approx(
                [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            )


def test_moving_centroids_over_three_batches_by_hand():
    s, seen = torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool)
    first = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    s, seen = moving_centroids(s, seen, first, torch.tensor([True, False]), 0.9)
    assert s[0].tolist() == [1, 2] and seen.tolist() == [True, False]  # a class's first batch sets it
    second = torch.tensor([[3.0, 2.0], [5.0, 5.0]])
    s, seen = moving_centroids(s, seen, second, torch.tensor([True, True]), 0.9)
    assert s[0].tolist() == pytest.approx([0.1 * 1 + 0.9 * 3, 2]) and s[1].tolist() == [5, 5]
    kept = s.clone()
    s, seen = moving_centroids(s, seen, torch.full((2, 2), 9.0), torch.tensor([False, False]), 0.9)
    assert torch.equal(s, kept) and seen.all()  # absent classes keep their value, to the bit


def test_gradients_of_moving_centroids_flow_through_the_batch_alone():
    before, batch = (torch.ones(2, 2, dtype=torch.float64).requires_grad_() for _ in "ab")
    present = torch.tensor([True, False])
    moved, _ = moving_centroids(before, torch.ones(2, dtype=torch.bool), batch, present, 0.75)
    moved.sum().backward()
    assert before.grad is None
    assert batch.grad.tolist() == [[0.75, 0.75], [0, 0]]


@given(st.integers(1, 5), st.floats(0.1, 5), seeds)
def test_idc(n, tau, seed):
    target, source = drawn(seed, n, n), drawn(seed + 1, n, n)
    both = torch.randint(2, (n,), generator=torch.Generator().manual_seed(seed)).bool()
    chosen = [c for c in range(n) if both[c]]
    e = {(a, b): math.exp(cosine(target[a].tolist(), source[b].tolist()) / tau) for a in chosen for b in chosen}
    total = intra_domain_conservative(target, source, both, tau).item()
    per_class = intra_domain_conservative(target, source, both, tau, "per_class").item()
    if not chosen:
        assert total == per_class == 0.0
        return
    assert total == pytest.approx(math.log(sum(e.values())) - math.log(sum(e[c, c] for c in chosen)), abs=1e-6)
    rows = [math.log(sum(e[c, b] for b in chosen)) - math.log(e[c, c]) for c in chosen]
    assert per_class == pytest.approx(sum(rows) / len(rows), abs=1e-6)


def test_idc_per_class_is_info_nce():
    target, source = drawn(1, 4, 4), drawn(2, 4, 4)
    unit = [v / v.norm(dim=1, keepdim=True) for v in (target, source)]
    wanted = torch.nn.functional.cross_entropy(unit[0] @ unit[1].T / 0.5, torch.arange(4))
    torch.testing.assert_close(
        intra_domain_conservative(target, source, torch.ones(4, dtype=torch.bool), 0.5, "per_class"), wanted
    )


@pytest.mark.parametrize("form", ["sum", "per_class"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_idc_of_no_class_with_both_centroids_is_zero_with_a_zero_gradient(form, dtype):
    target, source = (drawn(i, 3, 3).to(dtype).requires_grad_() for i in range(2))
    loss = intra_domain_conservative(target, source, torch.zeros(3, dtype=torch.bool), 1.0, form)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(target.grad, torch.zeros_like(target)) and torch.equal(source.grad, torch.zeros_like(source))


@pytest.mark.parametrize("form", ["sum", "per_class"])
def test_idc_of_absent_classes_whose_rows_are_zero_is_finite(form):
    target = torch.zeros(3, 3).requires_grad_()
    rows = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 1.0]])
    both = torch.tensor([True, False, True])
    loss = intra_domain_conservative(target + rows, rows, both, 1.0, form)
    loss.backward()
    assert loss.isfinite() and target.grad.isfinite().all() and (target.grad[1] == 0).all()


def test_gradients_are_those_of_finite_differences():
    both = torch.tensor([True, True, False, True])
    labels = torch.tensor([0, 3, 1, 0, 2])
    a, b = drawn(3, 4, 4).requires_grad_(), drawn(4, 4, 4).requires_grad_()
    cosines = drawn(5, 5, 4).tanh().requires_grad_()
    for form in ("sum", "per_class"):
        assert torch.autograd.gradcheck(
            lambda t, s, form=form: intra_domain_conservative(t, s, both, 0.7, form), (a, b)
        )
    assert torch.autograd.gradcheck(lambda s: margin(s, labels, 2, 0.5, 2), (cosines,))
    assert torch.autograd.gradcheck(lambda s: class_centroids(s, labels, 4)[0], (cosines,))
    assert torch.autograd.gradcheck(distillation, (a, b))
