"""A generator's objective written out, its blur against scipy, and that it goes on to the same bits."""

import io
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import nn
from torch.nn import functional as F

from ccsi.models import IncrementalNet
from ccsi.rng import Streams
from ccsi.stage import Stage
from ccsi.synthesis import Generation
from ccsi.synthesis.generation import Generator, blurred

FEW = {"steps": 6, "batch_size": 8, "latent": 5, "width": 4}


class Pixels(nn.Module):
    """Pixels as features; nothing to match moments of."""

    n_features = 2 * 6 * 7

    def forward(self, x, taps=None, moving=None):
        return x.flatten(1)


@pytest.fixture
def net() -> IncrementalNet:
    net = IncrementalNet(Pixels())
    g = torch.Generator().manual_seed(0)
    net.grow(torch.randn(3, Pixels.n_features, generator=g))
    net.scale.data.fill_(4.0)
    return net.requires_grad_(False).eval()


def test_a_blur_is_a_gaussian_of_nine_pixels_mirrored_at_the_edges():
    x = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    line = np.exp([-0.5, 0.0, -0.5])
    kernel = np.outer(line, line) / line.sum() ** 2
    for image, found in zip(x, blurred(x), strict=True):
        for channel, blur in zip(image, found, strict=True):
            np.testing.assert_allclose(blur, correlate(channel.numpy(), kernel, mode="mirror"))


def test_the_parts_of_the_objective(net):
    generation = Generation(**FEW, w_content=0.7, temperature=2.0, w_balance=0.5, w_smooth=3.0)
    x = torch.rand(8, 2, 6, 7, generator=torch.Generator().manual_seed(1))
    parts = generation.objective(net, x)
    z = net(x)
    content = [math.log(sum(math.exp(float(b) / 2) for b in row)) - float(row.max()) / 2 for row in z]
    assert parts["content"].item() == pytest.approx(0.7 * np.mean(content), rel=1e-5)
    mean = z.softmax(1).mean(0)
    assert parts["balance"].item() == pytest.approx(0.5 * float((mean * mean.log()).sum()) / math.log(3), rel=1e-5)
    assert parts["smooth"].item() == pytest.approx(3 * F.mse_loss(x, blurred(x)).item(), rel=1e-5)
    assert "moments" not in parts  # no norm layers


def test_balance_is_best_where_all_classes_come_equally_often(net):
    generation = Generation(**FEW)
    toward = torch.cat([net.old, net.new]).clamp(min=0).view(3, 2, 6, 7)
    even, one = generation.objective(net, toward), generation.objective(net, toward[:1].expand(3, 2, 6, 7))
    assert -1 <= even["balance"] < one["balance"] <= 0


def test_images_are_of_the_shape_asked_for_and_in_range():
    for shape in ((1, 8, 8), (3, 28, 28), (2, 6, 7)):
        generator = Generator(5, 4, shape, torch.Generator().manual_seed(0))
        images = generator.sample(6, torch.Generator().manual_seed(0))
        assert images.shape == (6, *shape) and images.min() >= 0 and images.max() <= 1
        part = generator.eval().sample(6, torch.Generator().manual_seed(1), slice(2, 4))
        torch.testing.assert_close(part, generator.sample(6, torch.Generator().manual_seed(1))[2:4])


@pytest.mark.parametrize("at", [1, 5])
def test_it_learns_and_goes_on_to_the_same_bits(net, at):
    generation, shape, saved = Generation(**FEW | {"steps": 40}), torch.Size((2, 6, 7)), list[dict]()
    told = list[dict]()

    def keep(state) -> None:
        if len(saved) < at:
            saved.append(torch.load(_file(state), weights_only=True))

    whole = generation.run(
        net, shape, 1, Streams(0), Stage(None, lambda: True, keep, lambda step, n, values: told.append(values))
    )
    before = generation.objective(net, generation.fresh(net, shape, 1, Streams(0)).sample(32, torch.Generator()))
    after = generation.objective(
        net, generation.trained(whole, net, shape, 1, Streams(0)).sample(32, torch.Generator())
    )
    assert sum(after.values()) < sum(before.values())
    again = generation.run(net, shape, 1, Streams(0), Stage(saved[-1]))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def _file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return io.BytesIO(file.getvalue())
