"""The training loop every learner shares: batches, augmentation, schedule, selection, and going on in the middle."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ccsi.checks import AtLeastTwo, NonNegative, NonNegativeInt, Positive, PositiveInt, Probability, Share
from ccsi.data import Augment, Labelled
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.models import IncrementalNet
from ccsi.optim import SGD
from ccsi.rng import Streams
from ccsi.stage import LOG_EVERY, Stage, State


class Objective(Protocol):
    """A learner's loss on a batch, and whatever running state it has."""

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Weighted loss parts by name (their sum is minimised); images float [N, C, S, S], labels int64 [N].

        Where workers share a batch, these are this worker's images, and the loss is the sum of what all return:
        `net.process_group.mean(values)` in place of `values.mean()` sees to that.
        """

    def state_dict(self) -> State:
        """Running state, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """SGD on uint8 images that live on the device.

    Args:
        epochs, batch_size, lr, momentum, weight_decay: as usual. The release: 100, 40, 0.1, 0, 0. The batch is
            that of all workers together, and the learning rate belongs to it: neither changes with their number.
        first_lr, first_epochs: for a net that starts at random (the first task; joint: every task), if not null.
        schedule: `cosine` to 0 over all steps; `plateau`: times `plateau_factor` when val accuracy on the
            task's own val images has not risen for `plateau_patience` epochs (the release's, with the right
            split and direction); `constant`.
        warmup: steps of linear warm-up.
        select: keep the `last` weights, or those of the epoch with the `best_val` accuracy on the task's own
            val images (copied). Here and for `plateau` that is by the net's logits, whatever a learner makes of them.
        augment: random changes of every training image (real, synthetic, target), or null.
        precision: of the network's forward pass; weights and optimiser are float32, and all is float64 for
            float64 (to compare machines and numbers of workers). bfloat16 pays on processors with
            AVX512-BF16/AMX and on GPUs.
        label_smoothing: of the cross-entropy.
        clip_norm: largest gradient norm, or null.
    """

    epochs: PositiveInt = 100
    batch_size: AtLeastTwo = 40
    lr: Positive = 0.1
    momentum: Share = 0.0
    weight_decay: NonNegative = 0.0
    first_lr: Positive | None = None
    first_epochs: PositiveInt | None = None
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_factor: Share = 0.3
    plateau_patience: NonNegativeInt = 5
    warmup: NonNegativeInt = 0
    select: Literal["last", "best_val"] = "last"
    augment: Augment | None = None
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    label_smoothing: Probability = 0.0
    clip_norm: Positive | None = None

    def fit(
        self,
        net: IncrementalNet,
        real: Labelled,
        val: Labelled,
        objective: Objective,
        task: int,
        streams: Streams,
        stage: Stage,
        synthetic: Labelled | None = None,
        synthetic_ratio: float | None = None,
        train_old_prototypes: bool = True,
        purpose: str = "",
    ) -> State:
        """Train `net` in place on `real` and `synthetic` images (uint8, same device as the net).

        Args:
            synthetic_ratio: share of each epoch's draws that come from `synthetic` (METHOD section 5); None:
                every image once an epoch.
            task: 0-based; chooses random streams, and so does `purpose`, where a task trains more than once.
            stage: to go on from and to maybe_checkpoint checkpoints to.

        Returns:
            the net's state (no copy), so that a finished stage can be restored from its result.

        Raises:
            UserError: a single image, which has no batch statistics.
        """
        device, dtype, process_group = net.scale.device, net.scale.dtype, net.process_group
        pool, n_real = Pool(real, synthetic), len(real)
        if len(pool) < 2:
            raise UserError(f"task {task + 1} has a single training image; expected at least two.")
        fresh = not len(net.old)  # nothing learned before: the first task, and each task of joint training
        base_lr = self.first_lr if fresh and self.first_lr else self.lr
        epochs = self.first_epochs if fresh and self.first_epochs else self.epochs
        net.old.requires_grad_(train_old_prototypes and not fresh)
        trained = [p for p in net.parameters() if p.requires_grad]
        losses = Losses(net, objective)
        parts_of: Callable[..., dict[str, Tensor]] = losses
        if process_group.world_size > 1:
            with warnings.catch_warnings():  # torch 2.15 has a new name for this argument, which 2.10 does not know
                warnings.simplefilter("ignore", FutureWarning)
                # the norms' moments are the same on all workers anyway; where unused parameters are looked for, buckets
                # are not put in another order after the first step: a resumed run would add in another order
                parts_of = nn.parallel.DistributedDataParallel(
                    losses, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
                )
        optimizer = SGD(trained, momentum=self.momentum, weight_decay=self.weight_decay)
        first_epoch, first_batch, factor, best, wait = 0, 0, 1.0, -1.0, 0
        kept: State | None = None
        augmenting = streams.generator(f"{purpose}augmentation", task, device=device)
        if stage.state is not None:
            saved = stage.state
            net.load_state_dict(saved["net"])
            optimizer.load_state_dict(saved["optimizer"])
            objective.load_state_dict(saved["objective"])
            augmenting.set_state(saved["augmenting"])
            first_epoch, first_batch = saved["epoch"], saved["batch"]
            factor, best, wait, kept = saved["factor"], saved["best"], saved["wait"], saved["kept"]
        per_epoch = draws_per_epoch(len(pool), n_real, synthetic_ratio)
        # an image left over joins the last batch: alone it has no batch statistics
        n_batches = max(1, math.ceil((per_epoch - 1) / self.batch_size))
        steps = epochs * n_batches

        def state(epoch: int, batch: int) -> State:
            return {
                "net": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "objective": objective.state_dict(),
                "augmenting": augmenting.get_state(),
                "epoch": epoch,
                "batch": batch,
                "factor": factor,
                "best": best,
                "wait": wait,
                "kept": kept,
            }

        for epoch in range(first_epoch, epochs):
            net.train()
            # drawn anew from its name on resume, so the order itself needs no place in a checkpoint
            order = epoch_order(len(pool), n_real, synthetic_ratio, streams.generator(f"{purpose}batches", task, epoch))
            order = order.to(device)
            for batch in range(first_batch, n_batches):
                step = epoch * n_batches + batch
                lr = base_lr * factor * self.multiplier(step, steps)
                end = (batch + 1) * self.batch_size if batch + 1 < n_batches else per_epoch
                chosen = order[batch * self.batch_size : end]
                whole, part = len(chosen), process_group.shard(len(chosen))
                chosen = chosen[part]
                images, labels = pool[chosen]
                x = images.to(dtype) / 255
                if self.augment is not None:
                    x = self.augment(x, augmenting, whole, part)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                    parts = parts_of(x, labels)
                    total = torch.stack(list(parts.values())).sum()
                optimizer.zero_grad()
                (
                    total * process_group.world_size
                ).backward()  # the workers' gradients are averaged, where we want their sum
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(trained, self.clip_norm)
                optimizer.step(lr)
                if (step + 1) % LOG_EVERY == 0 and batch + 1 < n_batches:
                    stage.log(step + 1, steps, metrics_of(parts, lr, process_group))
                if batch + 1 < n_batches:
                    stage.maybe_checkpoint(lambda epoch=epoch, batch=batch: state(epoch, batch + 1))  # type: ignore[misc]
            first_batch = 0
            accuracy = own_accuracy(net, val)
            stage.log((epoch + 1) * n_batches, steps, metrics_of(parts, lr, process_group) | {"val_accuracy": accuracy})
            if accuracy > best:
                best, wait = accuracy, 0
                if self.select == "best_val":
                    kept = {key: value.clone() for key, value in net.state_dict().items()}
            else:
                wait += 1
                if self.schedule == "plateau" and wait > self.plateau_patience:
                    factor, wait = factor * self.plateau_factor, 0
            stage.maybe_checkpoint(lambda epoch=epoch: state(epoch + 1, 0))  # type: ignore[misc]
        if kept is not None:
            net.load_state_dict(kept)
        net.eval()
        result: State = net.state_dict()
        return result

    def multiplier(self, step: int, steps: int) -> float:
        """Of the learning rate at 0-based `step` of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule != "cosine":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup)))


class Pool:
    """A task's real images, and behind them the synthetic ones."""

    def __init__(self, real: Labelled, synthetic: Labelled | None) -> None:
        parts = [real] if synthetic is None else [real, synthetic]
        self.labels = torch.cat([part.labels for part in parts])
        self.images = [part.images for part in parts]
        if len(parts) > 1 and self.labels.device.type != "cpu":  # apart, each batch would have to wait for the device
            self.images = [torch.cat(self.images)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at the positions `chosen`, int64 [n]."""
        if len(self.images) == 1:
            return self.images[0][chosen], self.labels[chosen]
        images = self.images[0].new_empty((len(chosen), *self.images[0].shape[1:]))
        start = 0
        for part in self.images:  # apart, since other processes may share the real ones
            here = (chosen >= start) & (chosen < start + len(part))
            images[here] = part[chosen[here] - start]
            start += len(part)
        return images, self.labels[chosen]


class Losses(nn.Module):
    """An objective on a net as one module, which DistributedDataParallel can wrap."""

    def __init__(self, net: IncrementalNet, objective: Objective) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See `Objective`."""
        return self.objective(self.net, images, labels)


def draws_per_epoch(n: int, n_real: int, ratio: float | None) -> int:
    """Images an epoch: all `n`, or N_new / (1 − ratio) of them (METHOD section 5)."""
    return n if ratio is None or n == n_real else round(n_real / (1 - ratio))


def epoch_order(n: int, n_real: int, ratio: float | None, generator: torch.Generator) -> Tensor:
    """Indices of one epoch, int64: a permutation of all n, or draws with replacement of which exactly the
    share `ratio` falls on the synthetic images, [n_real, n)."""
    if ratio is None or n == n_real:
        return torch.randperm(n, generator=generator)
    draws = draws_per_epoch(n, n_real, ratio)
    n_synthetic = round(ratio * draws)
    real = torch.randint(0, n_real, (draws - n_synthetic,), generator=generator)
    synthetic = torch.randint(n_real, n, (n_synthetic,), generator=generator)
    return torch.cat([real, synthetic])[torch.randperm(draws, generator=generator)]


def metrics_of(parts: Mapping[str, Tensor], lr: float, process_group: ProcessGroup) -> dict[str, float]:
    """Loss parts of the last batch on the host (one transfer), and the learning rate."""
    values = process_group.all_reduce(torch.stack([value.detach().float() for value in parts.values()])).tolist()
    metrics = {f"loss_{name}": value for name, value in zip(parts, values, strict=True)}
    return {"loss": sum(values), **metrics, "lr": lr}


@torch.no_grad()
def own_accuracy(net: IncrementalNet, data: Labelled, batch_size: int = 512) -> float:
    """Accuracy among all classes seen so far on images of the current task, in [0, 1]."""
    net.eval()
    part = net.process_group.shard(len(data))
    parts = zip(data.images[part].split(batch_size), data.labels[part].split(batch_size), strict=True)
    hits = [(net(x.to(net.scale.dtype) / 255).argmax(1) == y).sum() for x, y in parts]
    return int(net.process_group.all_reduce(torch.stack(hits).sum())) / len(data)
