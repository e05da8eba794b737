"""Class impressions: images optimised under a frozen model (METHOD section 4)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import (
    LearningRate,
    NonNegative,
    NonNegativeInt,
    PerTaskCount,
    PerTaskNonNegative,
    PositiveInt,
    Probability,
    Share,
    per_task,
)
from ccsi.errors import UserError
from ccsi.models import IncrementalNet, Tap
from ccsi.optim import Adam
from ccsi.rng import Streams
from ccsi.saved import Maybe, Shaped, check_count, check_range, check_saved
from ccsi.stage import LOG_EVERY, FiniteTerms, Stage, State
from ccsi.synthesis.moments import ClassMemory, moment_distances


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How class impressions are optimised (METHOD section 4); either `per_class` or `batches` is set.

    Args:
        iterations: Adam steps per image; 5,000 in the release.
        lr: Adam's learning rate.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        warmup: steps of linear warm-up, at most half of `iterations`, followed by cosine to 0.
        per_class: impressions of each old class.
        batches: groups of `group_size` in all, as in the release; one number, or one a task from the second on.
        group_size: B, images whose batch statistics are matched together; with `per_class`, the most of them.
        groups_at_once: groups optimised as one tensor; `auto` takes one on a CPU, where more would not fit the cache,
            and up to 2,048 images on a GPU, but leaves no worker without a group. The result does not depend on it.
        statistics: `group`, or `pooled`: all impressions of the task form one group (another method).
        w_ce: weight of the cross-entropy; like the next three one number, or one a task from the second on, and 0
            switches the term off.
        w_f: weight of the moment matching.
        w_tv: weight of the total variation.
        w_l2: weight of the images' norm.
        stem_weight: a_l of the first norm layer (1 for the others).
        class_moments: weight of the class-adaptive part of R_l; 0: off.
        bn_moments: weight of the BN part of R_l.
        init: `mean` (class mean image + `noise` · N(0,1)) or `noise` (N(0,1), DeepInversion's).
        noise: standard deviation of the noise for `init=mean`.
        jitter: largest random shift, in pixels.
        flip: probability of a horizontal flip.
        precision: of the network's forward pass; images and their optimiser are always float32.
    """

    iterations: PositiveInt = 1000
    lr: LearningRate = 0.05
    beta1: Share = 0.5
    beta2: Share = 0.9
    warmup: NonNegativeInt = 100
    per_class: PositiveInt | None = 100
    batches: PerTaskCount | None = None
    group_size: PositiveInt = 40
    groups_at_once: Literal["auto"] | PositiveInt = "auto"
    statistics: Literal["group", "pooled"] = "group"
    w_ce: PerTaskNonNegative = 1.0
    w_f: PerTaskNonNegative = 1.0
    w_tv: PerTaskNonNegative = 0.01
    w_l2: PerTaskNonNegative = 0.1
    stem_weight: NonNegative = 10.0
    class_moments: NonNegative = 1.0
    bn_moments: NonNegative = 1.0
    init: Literal["mean", "noise"] = "mean"
    noise: NonNegative = 0.1
    jitter: NonNegativeInt = 2
    flip: Probability = 0.5
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if (self.per_class is None) == (self.batches is None):
            raise UserError(
                f"learner.synthesis.per_class={self.per_class} and learner.synthesis.batches={self.batches}: "
                "expected one of them a number and the other null."
            )

    def labels(self, n_old: int, task: int) -> Tensor:
        """Labels of all impressions, one row a group: int64 [groups, B]; classes alternate."""
        if self.batches is not None:
            n = per_task(self.batches, task) * self.group_size
        else:
            assert self.per_class is not None
            n = self.per_class * n_old
        groups = 1 if self.statistics == "pooled" else math.ceil(n / self.group_size)
        size = math.ceil(n / groups)
        return (torch.arange(groups * size) % n_old).view(groups, size)

    def count(self, n_old: int, task: int) -> int:
        """How many impressions `run` makes of `n_old` classes."""
        return self.labels(n_old, task).numel() if self.per_class is None else self.per_class * n_old

    def learning_rate(self, step: int) -> float:
        """Learning rate at 0-based `step`: linear warm-up, then cosine to 0."""
        warmup = min(self.warmup, self.iterations // 2)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (self.iterations - warmup)))

    def run(
        self, net: IncrementalNet, memory: ClassMemory, task: int, streams: Streams, stage: Stage
    ) -> dict[str, Tensor]:
        """Impressions of all classes in `memory` under `net`, which is not changed.

        The net's workers share the groups, and each returns the images of all.

        Args:
            task: 0-based number of the task that replays them.

        Returns:
            `images` uint8 [n, C, S, S] and `labels` int64 [n], on the net's device.
        """
        labels = self.labels(len(memory.means), task)
        weights = {name: per_task(getattr(self, name), task) for name in ("w_ce", "w_f", "w_tv", "w_l2")}
        device, process_group = net.scale.device, net.process_group
        n_groups, size = labels.shape
        at_once = self.groups_at_once
        if at_once == "auto":
            share = math.ceil(n_groups / process_group.world_size)
            at_once = 1 if device.type == "cpu" else max(1, min(2048 // size, share))
        chunks = torch.arange(n_groups).split(at_once)
        rounds = math.ceil(len(chunks) / process_group.world_size)  # in each, every worker makes one chunk
        saved: Mapping[str, Any] = {"done": [], "chunks": None} if stage.state is None else stage.state
        workers = Maybe([None] * process_group.world_size)
        check_saved(saved, {"done": None, "chunks": workers}, "the state of the synthesis")
        made_before = [Shaped((None, *memory.means.shape[1:]), torch.uint8)] * min(len(saved["done"]), rounds)
        check_saved(saved["done"], made_before, "the impressions so far")
        done: list[Tensor] = [images.to(device) for images in saved["done"]]
        state = saved["chunks"] and saved["chunks"][process_group.rank]

        def save(state: State) -> None:
            stage.save({"done": done, "chunks": process_group.all_gather_object(on_cpu(state))})

        def log(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            stage.log(len(done) * steps + step, rounds * steps, metrics)

        stage.plan(rounds * self.iterations, 0, 0)
        while len(done) < rounds:
            if stage.measured():  # the images are not used: the first stand for the others
                done.append(done[0])
                continue
            number = len(done) * process_group.world_size + process_group.rank
            # a worker without a chunk repeats the last one, to stay at the same step as the others
            groups = chunks[min(number, len(chunks) - 1)]
            draws = [self.draw(memory, labels[g], task, int(g), streams) for g in groups]
            part = Stage(state, lambda: process_group.broadcast_object(stage.due()), save, log, measured=stage.measured)
            images = self.invert(net, memory, labels[groups].to(device), draws, weights, part)
            made = (images.flatten(0, 1) * 255).round().to(torch.uint8)
            done.append(process_group.all_gather_rows(made if number < len(chunks) else made[:0]))
            state = None
        keep = self.count(len(memory.means), task)
        check_count(sum(map(len, done)), labels.numel(), "the number of impressions")
        return {"images": torch.cat(done)[:keep], "labels": labels.flatten()[:keep].to(device)}

    def draw(
        self, memory: ClassMemory, labels: Tensor, task: int, group: int, streams: Streams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The random choices of one group: start [B, C, S, S], shifts int [steps, 2], flips bool [steps]."""
        generator = streams.generator("synthesis", task, group)
        shape = (len(labels), *memory.means.shape[1:])
        noise = torch.randn(shape, generator=generator).to(memory.means)
        start = memory.means[labels.to(memory.means.device)] + self.noise * noise if self.init == "mean" else noise
        shifts = torch.randint(-self.jitter, self.jitter + 1, (self.iterations, 2), generator=generator)
        return start, shifts, torch.rand(self.iterations, generator=generator) < self.flip

    def invert(
        self,
        net: IncrementalNet,
        memory: ClassMemory,
        labels: Tensor,
        draws: list[tuple[Tensor, Tensor, Tensor]],
        weights: Mapping[str, float],
        stage: Stage | None = None,
    ) -> Tensor:
        """Optimise G groups of B images as one tensor; each has its own statistics, jitter, flips and best state.

        Args:
            labels: int64 [G, B].
            draws: the result of `draw` for each group.

        Returns:
            float [G, B, C, S, S] in [0, 1]: each group's state of lowest loss.
        """
        stage = stage or Stage()
        net.eval()
        trainable = [p for p in net.parameters() if p.requires_grad]
        for p in trainable:
            p.requires_grad_(False)
        x = torch.stack([start for start, _, _ in draws]).requires_grad_(True)
        shifts = torch.stack([shift for _, shift, _ in draws], 1).tolist()  # [steps][G][2]
        flips = torch.stack([flip for _, _, flip in draws], 1).tolist()
        optimizer = Adam([x], beta1=self.beta1, beta2=self.beta2)
        best, lowest, first = x.detach().clone(), torch.full((len(labels),), torch.inf).to(x), 0
        if stage.state is not None:
            saved = stage.state
            like = {"x": x.detach(), "best": best, "lowest": lowest, "step": 0, "optimizer": optimizer.state_dict()}
            check_saved(saved, like, "the state of the synthesis")
            check_range(saved["step"], 0, self.iterations, "the step of the synthesis")
            x.data.copy_(saved["x"])
            best, lowest, first = saved["best"].to(x), saved["lowest"].to(x), saved["step"]
            optimizer.load_state_dict(saved["optimizer"])

        def state() -> State:
            position = {"best": best, "lowest": lowest, "step": step + 1}
            return {"x": x.detach(), "optimizer": optimizer.state_dict(), **position}

        finite = FiniteTerms("synthesis of old classes", "learner.synthesis.lr")
        for step in range(first, self.iterations):
            if stage.measured():
                break
            terms = self.objective(net, memory, transformed(x, shifts[step], flips[step]), labels, weights)
            losses = torch.stack(list(terms.values())).sum(0)  # [G]
            finite.note(terms, step + 1)
            (grad,) = torch.autograd.grad(losses.sum(), x)
            with torch.no_grad():
                better = losses < lowest
                lowest = torch.where(better, losses, lowest)
                best = torch.where(better[:, None, None, None, None], x, best)
                optimizer.step([grad], self.learning_rate(step))
                x.clamp_(0, 1)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == self.iterations:
                metrics = {f"loss_{name}": value.mean().item() for name, value in terms.items()}
                stage.log(step + 1, self.iterations, metrics)
                finite.check(terms, self.iterations, self.lr, net.process_group)
            if net.process_group.world_size == 1 or (step + 1) % LOG_EVERY == 0:  # where all are at the same step
                stage.maybe_checkpoint(state)
        for p in trainable:
            p.requires_grad_(True)
        return best.clamp_(0, 1)  # the start may lie outside

    def objective(
        self, net: IncrementalNet, memory: ClassMemory, x: Tensor, labels: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The weighted terms of L, each [G], for images [G, B, C, S, S] with labels [G, B]."""
        n_groups, size = labels.shape
        y = labels.flatten()
        moments = weights["w_f"] > 0 and (self.bn_moments > 0 or self.class_moments > 0)
        terms: dict[str, Tensor] = {}
        if weights["w_ce"] > 0 or moments:
            taps: list[Tap] | None = [] if moments else None
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                features = net.features(x.flatten(0, 1), taps)
            if weights["w_ce"] > 0:
                z = net.scale * net.cosines(features)
                terms["ce"] = weights["w_ce"] * F.cross_entropy(z, y, reduction="none").view(n_groups, size).mean(1)
            if taps is not None:
                weighted = self.stem_weight, self.class_moments, self.bn_moments
                terms["moments"] = weights["w_f"] * moment_distances(taps, memory, y, n_groups, *weighted)
        if weights["w_tv"] > 0:
            terms["tv"] = weights["w_tv"] * total_variation(x)
        if weights["w_l2"] > 0:
            terms["l2"] = weights["w_l2"] * torch.linalg.vector_norm(x.flatten(2), dim=2).mean(1)
        return terms or {"none": x.flatten(1).sum(1) * 0}


def on_cpu(value: Any) -> Any:
    """A state with its tensors on the CPU, which a machine without this device can read."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(one) for key, one in value.items()}
    return [on_cpu(one) for one in value] if isinstance(value, list | tuple) else value


def transformed(x: Tensor, shifts: list[list[int]], flips: list[bool]) -> Tensor:
    """x̃: each group of [G, B, C, S, S] shifted (cyclically) and flipped."""
    groups = []
    for group, (dy, dx), flip in zip(x, shifts, flips, strict=True):
        moved = group.roll((dy, dx), (-2, -1)) if dy or dx else group
        groups.append(moved.flip(-1) if flip else moved)
    return torch.stack(groups)


def total_variation(x: Tensor) -> Tensor:
    """Sum of the Frobenius norms of the four difference images of each group: [G, B, C, H, W] to [G].

    Horizontal, vertical and both diagonal neighbours, over the whole group (DeepInversion's TV-l2).
    """
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    norms = [torch.linalg.vector_norm(d.flatten(1), dim=1) for d in differences]
    return torch.stack(norms).sum(0)
