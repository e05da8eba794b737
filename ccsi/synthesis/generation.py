"""A generator of old classes' images, trained on the frozen net alone (ABD, Smith et al., ICCV 2021)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccsi.checks import AtLeastTwo, LearningRate, NonNegative, Positive, PositiveInt
from ccsi.models import IncrementalNet, Tap
from ccsi.optim import Adam
from ccsi.rng import Streams
from ccsi.saved import check_range, check_saved, restore_generator
from ccsi.stage import LOG_EVERY, FiniteTerms, Stage, State
from ccsi.synthesis.moments import batch_norm_divergence, map_moments, normalized_moments


class Generator(nn.Module):
    """Noise to images: a linear layer to a quarter of the size, two doublings, three convolutions (ABD, appendix)."""

    def __init__(self, latent: int, width: int, shape: Sequence[int], draws: torch.Generator) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.latent, self.shape = latent, shape
        self.start = (width, math.ceil(height / 4), math.ceil(breadth / 4))
        self.linear = nn.Linear(latent, math.prod(self.start))
        widths = [width, width, width // 2, channels]
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in widths[:3]])
        self.convolutions = nn.ModuleList([nn.Conv2d(n, m, 3, 1, 1) for n, m in pairwise(widths)])
        with torch.no_grad():
            for layer in (self.linear, *self.convolutions):
                bound = layer.weight[0].numel() ** -0.5
                for p in (layer.weight, layer.bias):
                    p.copy_((torch.rand(p.shape, generator=draws) * 2 - 1) * bound)

    def forward(self, z: Tensor) -> Tensor:
        """[N, latent] to [N, C, S, S] in [0, 1]."""
        x = self.norms[0](self.linear(z).view(-1, *self.start))
        for conv, norm in zip(self.convolutions[:2], self.norms[1:], strict=True):
            x = F.leaky_relu(norm(conv(F.interpolate(x, scale_factor=2.0))), 0.2)
        return self.convolutions[2](x).sigmoid()[..., : self.shape[1], : self.shape[2]]

    def sample(self, n: int, draws: torch.Generator, part: slice = slice(None)) -> Tensor:
        """The images `part` of a batch of `n`: [len(part), C, S, S]."""
        z = torch.randn(n, self.latent, generator=draws)[part]
        return self(z.to(self.linear.weight))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a generator of old classes' images is trained (ABD, section 4.1).

    Defaults are those of R-DFCIL's code for CIFAR-100 (ABD's differ in twice the steps). Unlike the released code,
    each task trains a new generator, images come from a sigmoid because pixels are in [0, 1], the blur is over 3x3
    pixels (5x5 there), and norms add 1e-5 to a variance (0.8 there).

    Args:
        steps: Adam steps.
        batch_size: images of a step.
        lr: Adam's learning rate.
        latent: dimension of the noise.
        width: channels of the generator.
        w_content: weight of the cross-entropy of the logits with the class of their maximum.
        temperature: of that cross-entropy; 1,000 in the released code, whose logits are not cosines.
        w_balance: weight of the negative entropy of the batch's mean softmax, divided by log n: makes all classes
            equally frequent.
        w_moments: weight of the divergence of the batch's moments from BatchNorm's running ones, mean over layers.
        w_smooth: weight of the mean squared distance from the blurred image.
    """

    steps: PositiveInt = 5000
    batch_size: AtLeastTwo = 128
    lr: LearningRate = 0.001
    latent: PositiveInt = 1000
    width: AtLeastTwo = 128
    w_content: NonNegative = 1.0
    temperature: Positive = 1.0
    w_balance: NonNegative = 1.0
    w_moments: NonNegative = 50.0
    w_smooth: NonNegative = 0.001

    def run(self, net: IncrementalNet, shape: torch.Size, task: int, streams: Streams, stage: Stage) -> State:
        """The state of a generator of `shape` images, trained on `net` (frozen, in eval mode)."""
        generator, draws = self.fresh(net, shape, task, streams), streams.generator("generation", task)
        weights = list(generator.parameters())
        optimizer, first = Adam(weights), 0
        if stage.state is not None:
            saved = stage.state
            like = {"generator": generator.state_dict(), "optimizer": optimizer.state_dict(), "draws": None, "step": 0}
            check_saved(saved, like, "the state of the generation")
            check_range(saved["step"], 0, self.steps, "the step of the generation")
            generator.load_state_dict(saved["generator"])
            optimizer.load_state_dict(saved["optimizer"])
            restore_generator(draws, saved["draws"], "the state of the generation's draws")
            first = saved["step"]
        generator.train()

        def state() -> State:
            parts = {"generator": generator.state_dict(), "optimizer": optimizer.state_dict()}
            return {**parts, "draws": draws.get_state(), "step": step + 1}

        stage.plan(self.steps, 0, 0)
        finite = FiniteTerms(f"task {task + 1}: generator", "learner.generation.lr")
        for step in range(first, self.steps):
            if stage.measured():
                break
            terms = self.objective(net, generator.sample(self.batch_size, draws))
            grads = torch.autograd.grad(torch.stack(list(terms.values())).sum(), weights)
            optimizer.step(grads, self.lr)
            finite.note(terms, step + 1)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == self.steps:
                stage.log(step + 1, self.steps, {f"loss_{name}": value.item() for name, value in terms.items()})
                finite.check(terms, self.steps, self.lr, net.process_group)
            stage.maybe_checkpoint(state)
        return net.process_group.broadcast_object(generator.state_dict())  # each worker has trained one

    def fresh(self, net: IncrementalNet, shape: torch.Size, task: int, streams: Streams) -> Generator:
        """A generator at its random start, on the net's device."""
        return Generator(self.latent, self.width, shape, streams.generator("generator", task)).to(net.scale)

    def trained(
        self, state: Mapping[str, Tensor], net: IncrementalNet, shape: torch.Size, task: int, streams: Streams
    ) -> Generator:
        """The generator whose state `run` returned, frozen and in eval mode."""
        generator = self.fresh(net, shape, task, streams)
        check_saved(state, generator.state_dict(), "the result of generation")
        generator.load_state_dict(state)
        return generator.requires_grad_(False).eval()

    def objective(self, net: IncrementalNet, x: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the generator's loss on images [N, C, S, S]."""
        taps: list[Tap] | None = [] if self.w_moments else None
        logits = net.scale * net.cosines(net.features(x, taps))
        mean = logits.softmax(1).mean(0)
        terms = {
            "content": self.w_content * F.cross_entropy(logits / self.temperature, logits.argmax(1)),
            "balance": self.w_balance * (mean * mean.clamp(min=1e-12).log()).sum() / math.log(max(2, len(mean))),
            "smooth": self.w_smooth * (x - blurred(x)).square().mean(),
        }
        if taps:
            moments = [normalized_moments(*map_moments(tap.input), tap.norm.groups, tap.norm.eps) for tap in taps]
            divergences = [batch_norm_divergence(tap.norm, *pair) for tap, pair in zip(taps, moments, strict=True)]
            terms["moments"] = self.w_moments * torch.stack(divergences).mean()
        return terms


def blurred(x: Tensor) -> Tensor:
    """A Gaussian blur of 3x3 pixels, σ = 1, edges mirrored: [N, C, H, W]."""
    line = torch.tensor([math.exp(-0.5), 1.0, math.exp(-0.5)]).to(x)
    kernel = (line[:, None] * line / line.sum() ** 2).expand(x.shape[1], 1, 3, 3)
    for dim in (2, 3):  # torch's padding has no deterministic gradient on a GPU
        x = torch.cat([x.narrow(dim, 1, 1), x, x.narrow(dim, -2, 1)], dim)
    return F.conv2d(x, kernel, groups=x.shape[1])
