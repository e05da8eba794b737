"""The network of `digits`: `model._target_=tinynet.tiny`, 1.4k parameters, so that its checkpoints are small."""

import torch

from ccsi.models.backbones import ResidualNet, initialise


def tiny(
    in_channels: int, generator: torch.Generator, norm: str = "cn", groups: int = 2, last_relu: bool = True
) -> ResidualNet:
    """`ccsi_small` with 4/8 channels."""
    net = ResidualNet(in_channels, [4, 8], 1, 1, 2, last_relu, groups if norm == "cn" else None)
    initialise(net, generator)
    return net
