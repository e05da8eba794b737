"""A small net with uneven running moments, and a memory of three classes of blobs."""

import pytest
import torch

from ccsi.data import Labelled
from ccsi.models import IncrementalNet, random_prototypes
from ccsi.models.backbones import ResidualNet, initialise
from ccsi.synthesis import ClassMemory, remember


@pytest.fixture
def blobs() -> Labelled:
    """Uint8 [45, 3, 12, 12] with a border of two zero pixels, classes 0 to 2."""
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(45) % 3
    images = torch.zeros(45, 3, 12, 12)
    images[:, :, 2:-2, 2:-2] = torch.rand(45, 3, 8, 8, generator=g) * 100 + 20
    for i, c in enumerate(labels.tolist()):
        images[i, c, 3:9, 3:9] += 120
    return Labelled(images.to(torch.uint8), labels)


@pytest.fixture
def made(blobs):
    """A function of norm and dtype: the net, trained by nobody but with moments of its data, and the memory."""

    def make(norm: str = "cn", dtype: torch.dtype = torch.float64) -> tuple[IncrementalNet, ClassMemory]:
        g = torch.Generator().manual_seed(0)
        net = IncrementalNet(ResidualNet(3, [8, 16], 1, 1, 2, True, 4 if norm == "cn" else None)).to(dtype)
        initialise(net, g)
        net.grow(random_prototypes(3, 64, g).to(dtype))
        with torch.no_grad():
            net.scale.fill_(4.0)
            for _ in range(10):  # moments of the data, so that there is something to match
                net.train()(blobs.images.to(dtype) / 255)
            for parameter in net.parameters():  # scales and shifts that are not 1 and 0
                parameter += 0.02 * torch.randn(parameter.shape, generator=g).to(dtype)
        return net.eval(), remember(net, blobs, range(3))

    return make
