"""Moments and what is remembered of a class, against torch's group_norm and loops over single images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccsi.models import ContinualNorm2d, Tap
from ccsi.synthesis import remember
from ccsi.synthesis.moments import (
    batch_norm_distance,
    group_moments,
    map_moments,
    moment_distance,
    normalized_moments,
)

cases = given(
    st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.floats(0.5, 5)
)


def maps(n: int, side: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 8, side, side, dtype=torch.float64, generator=g) * spread + spread


@cases
def test_map_and_group_moments(groups, n, side, seed, spread):
    a = maps(n, side, seed, spread)
    first, second = map_moments(a)
    torch.testing.assert_close(first, a.mean((2, 3)))
    torch.testing.assert_close(second, (a * a).mean((2, 3)))
    mean, var = group_moments(first, second, groups)
    for i in range(n):
        for number, part in enumerate(a[i].chunk(groups)):
            assert mean[i, number].item() == pytest.approx(part.mean().item())
            assert var[i, number].item() == pytest.approx(part.var(unbiased=False).item(), abs=1e-12)


@cases
def test_normalized_moments_are_those_of_torchs_group_norm(groups, n, side, seed, spread):
    a = maps(n, side, seed, spread)
    first, second = normalized_moments(*map_moments(a), groups, 1e-5)
    h = torch.group_norm(a, groups, eps=1e-5)
    torch.testing.assert_close(first, h.mean((2, 3)), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(second, h.square().mean((2, 3)), atol=1e-9, rtol=1e-9)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_batch_norm_distance_is_each_groups_own(n_groups, size, seed):
    a = maps(n_groups * size, 3, seed)
    norm = ContinualNorm2d(8, None).double()
    norm.running_mean.normal_(generator=torch.Generator().manual_seed(seed))
    norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(seed))
    got = batch_norm_distance(norm, *map_moments(a), n_groups)
    for number, group in enumerate(a.split(size)):
        pixels = group.transpose(0, 1).flatten(1)  # [C, B*H*W]
        mean, var = pixels.mean(1), pixels.var(1, unbiased=False)
        far = ((mean - norm.running_mean) ** 2).sum().sqrt() + ((var - norm.running_var) ** 2).sum().sqrt()
        assert got[number].item() == pytest.approx(far.item())


def test_moment_distance_by_hand():
    mean, var = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    far = moment_distance(mean, var, torch.tensor([[1.0, 5.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
    assert far.tolist() == [3.0, 6.0]


def test_gradients_are_those_of_finite_differences():
    a = maps(4, 2, 1).requires_grad_()
    norm = ContinualNorm2d(8, 4).double()
    norm.running_mean.normal_()
    m, v = maps(4, 1, 2)[:, :4, 0, 0], maps(4, 1, 3)[:, :4, 0, 0]
    assert torch.autograd.gradcheck(map_moments, (a,))
    assert torch.autograd.gradcheck(lambda a: normalized_moments(*map_moments(a), 4, 1e-5), (a,))
    assert torch.autograd.gradcheck(
        lambda a: batch_norm_distance(norm, *normalized_moments(*map_moments(a), 4, 1e-5), 2), (a,)
    )
    assert torch.autograd.gradcheck(lambda a: moment_distance(*group_moments(*map_moments(a), 4), m, v), (a,))


def test_gradients_of_a_flat_map_are_finite():
    a = torch.zeros(2, 8, 3, 3, requires_grad=True)
    far = batch_norm_distance(ContinualNorm2d(8, 4), *normalized_moments(*map_moments(a), 4, 1e-5), 1)
    far.sum().backward()
    assert far.isfinite().all() and a.grad.isfinite().all()


@pytest.mark.parametrize("batch_size", [256, 4])
def test_remembered_are_means_over_the_real_images_of_each_class(made, blobs, batch_size):
    net, _ = made("cn")
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    memory = remember(net, blobs, range(1, 3), batch_size)
    assert net.training and all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    net.eval()
    for row, c in enumerate((1, 2)):
        images = [image.double() / 255 for image, y in zip(blobs.images, blobs.labels, strict=True) if y == c]
        torch.testing.assert_close(memory.means[row], sum(images) / len(images))
        inputs: list[list[Tap]] = []
        for image in images:
            inputs.append([])
            net.features(image[None], inputs[-1])
        for layer in range(len(inputs[0])):
            parts = [taps[layer].input[0].chunk(4) for taps in inputs]
            mean = [sum(p[g].mean().item() for p in parts) / len(parts) for g in range(4)]
            var = [sum(p[g].var(unbiased=False).item() for p in parts) / len(parts) for g in range(4)]
            assert memory.group_means[layer][row].tolist() == pytest.approx(mean)
            assert memory.group_vars[layer][row].tolist() == pytest.approx(var)


def test_memory_grows_class_by_class_and_counts_its_bytes(made, blobs):
    net, whole = made("cn", torch.float32)
    parts = remember(net, blobs, range(1)).extended(remember(net, blobs, range(1, 3)))
    for a, b in zip((whole.means, *whole.group_means), (parts.means, *parts.group_means), strict=True):
        torch.testing.assert_close(a, b)
    layers = 6  # the stem, two a block, one shortcut
    assert whole.n_bytes() == {"class means": 3 * 3 * 12 * 12 * 4, "normalization moments": 2 * layers * 3 * 4 * 4}
    _, plain = made("batch", torch.float32)
    assert plain.n_bytes()["normalization moments"] == 0 and plain.group_means == []


def test_memory_keeps_no_image_alive(made, blobs):
    net, _ = made("cn")
    memory = remember(net, blobs, range(3))
    before = memory.means.clone()
    blobs.images.fill_(7)
    assert torch.equal(memory.means, before)
