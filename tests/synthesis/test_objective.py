"""One value of the objective against METHOD section 4's formulas, image by image; its view and its TV."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ccsi.models import ContinualNorm2d
from ccsi.synthesis import Synthesis
from ccsi.synthesis.inversion import total_variation, transformed

WEIGHTS = {"w_ce": 0.7, "w_f": 0.3, "w_tv": 0.05, "w_l2": 0.2}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def variation(images: torch.Tensor) -> float:
    """Of one group [B, C, H, W], in plain Python."""
    height, width = images.shape[2:]
    total = 0.0
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = 0.0
        for image in images.tolist():
            for channel in image:
                for row in range(height - dy):
                    for column in range(max(0, -dx), width - max(0, dx)):
                        squares += (channel[row + dy][column + dx] - channel[row][column]) ** 2
        total += math.sqrt(squares)
    return total


@given(st.integers(1, 3), st.integers(1, 2), st.integers(2, 5), st.integers(2, 5), st.integers(0, 1000))
def test_total_variation(groups, size, height, width, seed):
    x = rand(groups, size, 2, height, width, seed=seed)
    assert total_variation(x).tolist() == pytest.approx([variation(group) for group in x])


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=4))
def test_view_shifts_round_the_edge_and_then_flips(moves):
    x = rand(len(moves), 2, 1, 5, 5)
    seen = transformed(x, [[dy, dx] for dy, dx, _ in moves], [flip for *_, flip in moves])
    for group, (dy, dx, flip) in enumerate(moves):
        for row in range(5):
            for column in range(5):
                shown = 4 - column if flip else column
                wanted = x[group, :, :, (row - dy) % 5, (shown - dx) % 5]
                assert torch.equal(seen[group, :, :, row, column], wanted)


def naive_parts(net, memory, images, labels, stem_weight=10.0, class_moments=1.0, bn_moments=1.0):
    """The four terms, unweighted, of one group: from the inputs of all norm layers, by METHOD's formulas."""
    inputs = []
    norms = [m for m in net.modules() if isinstance(m, ContinualNorm2d)]
    handles = [m.register_forward_hook(lambda m, args, out: inputs.append((m, args[0]))) for m in norms]
    z = net(images)
    for handle in handles:
        handle.remove()
    ce = sum(math.log(sum(math.exp(v) for v in row)) - row[y] for row, y in zip(z.tolist(), labels, strict=True))
    moments = 0.0
    for layer, (norm, a) in enumerate(inputs):
        h = a if norm.groups is None else F.group_norm(a, norm.groups)
        r = 0.0
        pixels = h.transpose(0, 1).flatten(1)
        far_mean, far_var = pixels.mean(1) - norm.running_mean, pixels.var(1, unbiased=False) - norm.running_var
        r += bn_moments * ((far_mean**2).sum().sqrt() + (far_var**2).sum().sqrt()).item()
        if norm.groups is not None:
            for image, y in zip(a, labels, strict=True):
                parts = image.chunk(norm.groups)
                m, v = memory.group_means[layer][y].tolist(), memory.group_vars[layer][y].tolist()
                d_mean = math.sqrt(sum((p.mean().item() - t) ** 2 for p, t in zip(parts, m, strict=True)))
                d_var = math.sqrt(sum((p.var(unbiased=False).item() - t) ** 2 for p, t in zip(parts, v, strict=True)))
                r += class_moments * (d_mean + d_var) / len(images)
        moments += (stem_weight if layer == 0 else 1.0) * r
    l2 = sum(image.square().sum().sqrt().item() for image in images) / len(images)
    return {"ce": ce / len(labels), "moments": moments, "tv": variation(images), "l2": l2}


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("cn", {}),
        ("batch", {}),
        ("cn", {"stem_weight": 3.0, "class_moments": 0.25, "bn_moments": 0.5}),
        ("cn", {"class_moments": 0.0}),
        ("cn", {"bn_moments": 0.0}),
    ],
)
def test_the_terms_are_the_formulas_group_by_group(made, norm, options):
    net, memory = made(norm)
    labels = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]])
    x = rand(3, 4, 3, 12, 12)
    parts = Synthesis(**options).objective(net, memory, x, labels, WEIGHTS)
    scale = {"ce": 0.7, "moments": 0.3, "tv": 0.05, "l2": 0.2}
    for group in range(3):
        wanted = naive_parts(net, memory, x[group], labels[group].tolist(), **options)
        assert {name: value[group].item() for name, value in parts.items()} == pytest.approx(
            {name: scale[name] * value for name, value in wanted.items()}, rel=1e-9
        )


def test_the_objectives_gradient_is_that_of_finite_differences(made):
    net, memory = made("cn")
    net.requires_grad_(False)
    labels = torch.tensor([[0, 1]])
    x = rand(1, 2, 3, 12, 12).requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(Synthesis().objective(net, memory, x, labels, WEIGHTS).values())).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    for seed in range(3):
        direction = rand(*x.shape, seed=seed + 1) - 0.5
        with torch.no_grad():
            slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_gradients_flow_through_the_class_moments(made):
    net, memory = made("cn")
    x = rand(1, 3, 3, 12, 12).requires_grad_()
    only = {"w_ce": 0.0, "w_f": 1.0, "w_tv": 0.0, "w_l2": 0.0}
    parts = Synthesis(bn_moments=0.0).objective(net, memory, x, torch.tensor([[0, 1, 2]]), only)
    (gradient,) = torch.autograd.grad(parts["moments"].sum(), x)
    assert (gradient.flatten(2).norm(dim=2) > 0).all()


@pytest.mark.parametrize(
    ("off", "left"),
    [
        ({"w_ce": 0.0}, {"moments", "tv", "l2"}),
        ({"w_f": 0.0}, {"ce", "tv", "l2"}),
        ({"w_tv": 0.0}, {"ce", "moments", "l2"}),
        ({"w_l2": 0.0}, {"ce", "moments", "tv"}),
        ({"w_ce": 0.0, "w_f": 0.0}, {"tv", "l2"}),
    ],
)
def test_a_weight_of_zero_costs_nothing(made, off, left):
    net, memory = made("cn", torch.float32)
    forwards = []
    net.backbone.register_forward_hook(lambda module, args, out: forwards.append(args[1]))
    weights = WEIGHTS | off
    parts = Synthesis().objective(net, memory, rand(1, 3, 3, 12, 12).float(), torch.tensor([[0, 1, 2]]), weights)
    assert set(parts) == left
    assert len(forwards) == (0 if {"w_ce", "w_f"} <= off.keys() else 1)
    if "w_f" in off and forwards:
        assert forwards == [None]  # nothing is tapped


def test_moment_parts_that_are_off_leave_the_maps_alone(made):
    net, memory = made("cn", torch.float32)
    taps = []
    net.backbone.register_forward_hook(lambda module, args, out: taps.append(args[1]))
    x, y = rand(1, 3, 3, 12, 12).float(), torch.tensor([[0, 1, 2]])
    assert "moments" not in Synthesis(bn_moments=0.0, class_moments=0.0).objective(net, memory, x, y, WEIGHTS)
    assert taps == [None]


def test_bfloat16_forward_keeps_losses_in_float32_and_near(made):
    net, memory = made("cn", torch.float32)
    x, y = rand(1, 3, 3, 12, 12).float(), torch.tensor([[0, 1, 2]])
    exact = Synthesis().objective(net, memory, x, y, WEIGHTS)
    near = Synthesis(precision="bfloat16").objective(net, memory, x, y, WEIGHTS)
    for name, value in near.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.01)
