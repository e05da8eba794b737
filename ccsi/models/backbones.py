"""The networks of METHOD section 2, and torchvision's ResNets with their norms replaced."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.checks import PositiveInt
from ccsi.errors import UserError
from ccsi.io.files import open_regular
from ccsi.io.paths import expand
from ccsi.models.norm import ContinualNorm2d, Tap

if TYPE_CHECKING:  # its import takes seconds
    from torchvision.models import ResNet

M = TypeVar("M", bound=nn.Module)
Norm = Literal["cn", "batch"]


class Backbone(nn.Module):
    """Images to features: `forward(x, taps, moving)` maps float [N, C, H, W] in [0, 1] to [N, n_features].

    Every norm layer appends to `taps` in order (the stem's first), and only the first `moving` images update its
    running moments (see `ContinualNorm2d`).
    """

    n_features: int


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    relu = True  # after the sum

    def __init__(self, n_in: int, n_out: int, stride: int, groups: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = ContinualNorm2d(n_out, groups)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = ContinualNorm2d(n_out, groups)
        self.shortcut: nn.Conv2d | None = None
        if n_in != n_out or stride != 1:
            self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut_norm = ContinualNorm2d(n_out, groups)

    def forward(self, x: Tensor, taps: list[Tap] | None, moving: int | None) -> Tensor:
        """[N, n_in, H, W] to [N, n_out, H/stride, W/stride]."""
        h = F.relu(self.norm1(self.conv1(x), taps, moving))
        h = self.norm2(self.conv2(h), taps, moving)
        h = h + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x), taps, moving))
        return F.relu(h) if self.relu else h


class ResidualNet(Backbone):
    """A 3x3 stem of stride 2 and residual stages; the features are the average-pooled last map, flattened."""

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        blocks: int,
        stride: int,
        pool: int,
        last_relu: bool,
        groups: int | None,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 2, 1, bias=False)
        self.stem_norm = ContinualNorm2d(widths[0], groups)
        layers = []
        for n_in, width in pairwise([widths[0], *widths]):
            layers.append(ResidualBlock(n_in, width, stride, groups))
            layers += [ResidualBlock(width, width, 1, groups) for _ in range(blocks - 1)]
        layers[-1].relu = last_relu
        self.blocks = nn.ModuleList(layers)
        self.pool, self.n_features = pool, widths[-1] * pool * pool

    def forward(self, x: Tensor, taps: list[Tap] | None = None, moving: int | None = None) -> Tensor:
        h = F.relu(self.stem_norm(self.stem(x), taps, moving))
        for block in self.blocks:
            h = block(h, taps, moving)
        return F.adaptive_avg_pool2d(h, self.pool).flatten(1)


class TorchvisionResNet(Backbone):
    """A torchvision ResNet without its classifier, every BatchNorm2d replaced by ContinualNorm2d with its state.

    The modules are called one by one here, because their own `forward` cannot return the norm layers' inputs.
    """

    def __init__(self, net: "ResNet", groups: int | None) -> None:
        super().__init__()
        self.net, self.n_features = net, net.fc.in_features
        net.fc = nn.Identity()
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    norm = ContinualNorm2d(child.num_features, groups, child.momentum or 0.1, child.eps)
                    norm.load_state_dict({key: child.state_dict()[key] for key in norm.state_dict()})
                    setattr(parent, name, norm)

    def forward(self, x: Tensor, taps: list[Tap] | None = None, moving: int | None = None) -> Tensor:
        net = self.net
        h = net.maxpool(F.relu(net.bn1(net.conv1(x), taps, moving)))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in layer:
                x, h = h, block.bn1(block.conv1(h), taps, moving)
                h = block.bn2(block.conv2(F.relu(h)), taps, moving)
                if hasattr(block, "conv3"):
                    h = block.bn3(block.conv3(F.relu(h)), taps, moving)
                if block.downsample is not None:
                    conv, norm = block.downsample
                    x = norm(conv(x), taps, moving)
                h = F.relu(h + x)
        return net.avgpool(h).flatten(1)


def ccsi_small(
    in_channels: int, generator: torch.Generator, norm: Norm = "cn", groups: PositiveInt = 8, last_relu: bool = True
) -> ResidualNet:
    """METHOD's network for 28/32 px: 16/32/64 channels, stride 1 after the stem, 2x2 pooling, 256-d.

    Args:
        in_channels: of the images.
        generator: draws the random start.
        norm: `cn` (Continual Normalization) or `batch` (BatchNorm).
        groups: G of Continual Normalization; divides all widths.
        last_relu: false leaves out the last block's ReLU (LUCIR, section 4.1): cosines of different classes can then be
            negative.
    """
    net = ResidualNet(in_channels, [16, 32, 64], 1, 1, 2, last_relu, groups if norm == "cn" else None)
    return initialise(net, generator)


def ccsi_large(
    in_channels: int, generator: torch.Generator, norm: Norm = "cn", groups: PositiveInt = 8, last_relu: bool = False
) -> ResidualNet:
    """METHOD's network for 224 px: four stages of two blocks, 16/32/64/128, stride 2 each, 128-d.

    Args:
        in_channels, generator, norm, groups, last_relu: as in `ccsi_small`.
    """
    net = ResidualNet(in_channels, [16, 32, 64, 128], 2, 2, 1, last_relu, groups if norm == "cn" else None)
    return initialise(net, generator)


def resnet(
    in_channels: int,
    generator: torch.Generator,
    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet18",
    norm: Norm = "cn",
    groups: PositiveInt = 8,
    stem: Literal["imagenet", "small"] = "imagenet",
    weights: str | None = None,
) -> TorchvisionResNet:
    """A torchvision ResNet.

    Args:
        in_channels, generator, norm, groups: as in `ccsi_small`.
        arch: its name in torchvision.
        stem: `imagenet` (7x7, stride 2, max-pool) or `small` (3x3, stride 1, no pooling) for images up to 64 px.
        weights: null, the path of a state_dict file (.pt, .pth), or a name of torchvision's weights enum such as
            `IMAGENET1K_V1` (downloaded by torchvision to TORCH_HOME); not for a `small` stem's own convolution.
    """
    from torchvision import models as tv

    net: ResNet = initialise(getattr(tv, arch)(weights=None), generator)
    if weights is not None:
        load_weights(net, arch, weights)
        if stem == "imagenet" and in_channels != 3:
            raise UserError(f"model.weights={weights} is for RGB images; set dataset.channels=3.")
    if stem == "small" or in_channels != 3:  # the first convolution is new, whatever the weights
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        net.conv1 = initialise(nn.Conv2d(in_channels, 64, kernel, stride, kernel // 2, bias=False), generator)
    if stem == "small":
        net.maxpool = nn.Identity()
    return TorchvisionResNet(net, groups if norm == "cn" else None)


def load_weights(net: "ResNet", arch: str, weights: str) -> None:
    """Load `weights` (see `resnet`) without those of the classifier."""
    from torchvision import models as tv

    try:
        if Path(weights).suffix in (".pt", ".pth"):
            with open_regular(expand(weights, "model.weights")) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
        else:
            state = tv.get_model_weights(arch)[weights].get_state_dict(progress=False, check_hash=True)
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        absent, unknown = net.load_state_dict(state, strict=False)
        absent = [key for key in absent if not key.startswith("fc.") and "num_batches" not in key]
        if absent or unknown:
            raise ValueError(f"its names do not match: {min(absent or unknown)}")
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model.weights={weights}: cannot be used for {arch} ({reason}); expected a state_dict file "
            f"ending in .pt or .pth, or one of {', '.join(w.name for w in tv.get_model_weights(arch))}."
        ) from error


def initialise(net: M, generator: torch.Generator) -> M:
    """`net`, with Kaiming-normal weights (fan out, ReLU) in every convolution, drawn in module order."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return net
