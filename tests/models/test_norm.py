"""Continual normalization against torch's own GroupNorm and BatchNorm2d, one behind the other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ccsi.errors import UserError
from ccsi.models import ContinualNorm2d, Tap


def pair(channels: int, groups: int | None, seed: int = 0) -> tuple[ContinualNorm2d, nn.Sequential]:
    """Ours and torch's two layers, with the same random scale, shift and running moments, in float64."""
    torch.manual_seed(seed)
    ours = ContinualNorm2d(channels, groups).double()
    bn = nn.BatchNorm2d(channels).double()
    nn.init.normal_(bn.weight), nn.init.normal_(bn.bias)
    bn.running_mean.normal_(), bn.running_var.uniform_(0.2, 3)
    ours.load_state_dict({key: bn.state_dict()[key] for key in ours.state_dict()})
    gn = nn.Identity() if groups is None else nn.GroupNorm(groups, channels, affine=False)
    return ours, nn.Sequential(gn, bn)


@given(st.sampled_from([None, 1, 2, 4, 8]), st.integers(2, 4), st.integers(2, 5), st.integers(0, 1000))
def test_three_training_steps_and_eval_equal_groupnorm_then_batchnorm(groups, n, side, seed):
    ours, theirs = pair(8, groups, seed)
    for _ in range(3):
        a = torch.randn(n, 8, side, side, dtype=torch.float64) * 2 + 1
        torch.testing.assert_close(ours(a), theirs(a))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs[1], name))
    ours.eval(), theirs.eval()
    a = torch.randn(n, 8, side, side, dtype=torch.float64)
    torch.testing.assert_close(ours(a), theirs(a))


@pytest.mark.parametrize("groups", [None, 4])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_those_of_the_two_layers(groups, training):
    ours, theirs = pair(8, groups)
    ours.train(training), theirs.train(training)
    a, b = (torch.randn(3, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in "ab")
    a.requires_grad_(), b.requires_grad_()
    ours(a).sin().sum().backward(), theirs(b).sin().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, theirs[1].weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs[1].bias.grad)


@pytest.mark.parametrize("groups", [None, 4])
def test_images_that_move_nothing_are_normalized_by_their_own_moments(groups):
    ours, theirs = pair(8, groups)
    before = ours.running_mean.clone(), ours.running_var.clone()
    a = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(a, moving=0), theirs(a))
    assert torch.equal(ours.running_mean, before[0]) and torch.equal(ours.running_var, before[1])
    ours(a)
    assert not torch.equal(ours.running_mean, before[0])


@pytest.mark.parametrize("groups", [None, 4])
def test_two_batches_in_one_have_moments_of_their_own(groups):
    ours, theirs = pair(8, groups)
    a = torch.randn(5, 8, 4, 4, dtype=torch.float64)
    out = ours(a, moving=3)
    torch.testing.assert_close(out[:3], theirs(a[:3]))
    torch.testing.assert_close(ours.running_mean, theirs[1].running_mean)  # before the others move theirs
    torch.testing.assert_close(ours.running_var, theirs[1].running_var)
    torch.testing.assert_close(out[3:], theirs(a[3:]))


@pytest.mark.parametrize("moving", [None, 0, 2])
def test_eval_uses_the_running_moments_and_leaves_them(moving):
    ours, theirs = pair(8, 4)
    ours.eval(), theirs.eval()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    a = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(a, moving=moving), theirs(a))
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())


def test_a_tap_is_the_layer_and_its_own_input():
    ours, _ = pair(8, 4)
    taps: list[Tap] = []
    a = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    ours(a, taps)
    assert len(taps) == 1 and taps[0].norm is ours and taps[0].input is a


def test_groups_that_do_not_divide():
    with pytest.raises(UserError, match=r"model\.groups=3 does not divide a layer's 16 channels"):
        ContinualNorm2d(16, 3)
