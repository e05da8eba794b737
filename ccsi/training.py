"""The training loop that all learners share: batches, augmentation, schedule, model selection and exact resume."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ccsi.checks import AtLeastTwo, LearningRate, NonNegative, NonNegativeInt, Positive, PositiveInt, Share
from ccsi.data import Augment, Labelled
from ccsi.data.pool import Pool, draws_per_epoch, epoch_order
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.models import IncrementalNet
from ccsi.optim import SGD
from ccsi.rng import TaskStreams
from ccsi.saved import Maybe, check_range, check_saved, restore_generator
from ccsi.stage import LOG_EVERY, FiniteTerms, Stage, State


class Objective(Protocol):
    """A learner's loss on a batch, with its running state if it has one."""

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms by name, whose sum is minimised; images float [N, C, S, S], labels int64 [N].

        With several workers, images and labels are this worker's shard, and the loss is the sum of the terms of all
        workers: use `net.process_group.mean(values)` in place of `values.mean()`.
        """

    def state_dict(self) -> State:
        """Running state, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class TrainingData:
    """The images of one training stage: the task's own, and replayed ones of old classes, real or synthetic.

    Attributes:
        replay_ratio: share of each epoch's draws that come from `replay` (METHOD section 5); None: every image once
            an epoch.
    """

    train: Labelled
    val: Labelled
    replay: Labelled | None = None
    replay_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """SGD on uint8 images that stay on the device.

    Args:
        epochs: passes over the training images; 100 in the release.
        batch_size: images of a batch, over all workers; 40 in the release.
        lr: learning rate for that batch, whatever the number of workers; 0.1 in the release.
        momentum: of SGD; 0 in the release.
        weight_decay: L2 penalty of SGD; 0 in the release.
        first_lr: learning rate of a net that starts at random (the first task; joint: every task); null: `lr`.
        first_epochs: epochs of such a net; null: `epochs`.
        steps: optimiser steps of a stage, in place of `epochs`: rounded to whole epochs, at least one. Few images then
            get as much training as many; null: `epochs` counts.
        first_steps: steps of a net that starts at random, in place of `first_epochs`; null: `steps`.
        schedule: `cosine` to 0 over all steps; `plateau`: times `plateau_factor` when the accuracy on the task's own
            val images has not risen for `plateau_patience` epochs (the release's, with the right split and
            direction); `constant`.
        plateau_factor: of the learning rate, for `schedule=plateau`.
        plateau_patience: epochs without a rise that `schedule=plateau` accepts.
        warmup: steps of linear warm-up, fewer than the first stage of any task has without replay.
        select: keep the `last` weights, or a copy of those of the epoch with the `best_val` accuracy on the task's
            own val images. Here and for `plateau` the accuracy is that of the net's logits, even if a learner
            classifies in another way.
        augment: random changes of every training image (real, synthetic, target), or null.
        precision: of the network's forward pass. Weights and optimiser are float32; with float64, all is float64 (to
            compare machines and numbers of workers). bfloat16 is faster on processors with AVX512-BF16/AMX and on
            GPUs.
        label_smoothing: of the cross-entropy.
        clip_norm: largest gradient norm, or null.
    """

    epochs: PositiveInt = 100
    batch_size: AtLeastTwo = 40
    lr: LearningRate = 0.1
    momentum: Share = 0.0
    weight_decay: NonNegative = 0.0
    first_lr: LearningRate | None = None
    first_epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    first_steps: PositiveInt | None = None
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_factor: Share = 0.3
    plateau_patience: NonNegativeInt = 5
    warmup: NonNegativeInt = 0
    select: Literal["last", "best_val"] = "last"
    augment: Augment | None = None
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    label_smoothing: Share = 0.0
    clip_norm: Positive | None = None

    def fit(
        self,
        net: IncrementalNet,
        data: TrainingData,
        objective: Objective,
        streams: TaskStreams,
        stage: Stage,
        train_old_prototypes: bool = True,
    ) -> State:
        """Train `net` in place; returns its state (no copy). UserError for a single image: no batch statistics."""
        loop = TrainingLoop(self, net, data, objective, streams, stage, train_old_prototypes)
        replayed = len(data.replay) if data.replay is not None and data.replay_ratio is None else 0
        stage.plan(loop.steps, len(data.train), replayed)
        while loop.epoch < loop.epochs and not stage.measured():
            loop.run_epoch()
        if loop.kept is not None:
            net.load_state_dict(loop.kept)
        return net.eval().state_dict()

    def check_warmup(self, counts: Sequence[int]) -> None:
        """Raise UserError if the warm-up is no shorter than a task's training; `counts`: images of each task."""
        for task, count in enumerate(counts):
            batches = batches_of(count, self.batch_size)
            steps = batches * self.epochs_of(batches, fresh=task == 0)
            if self.warmup and self.warmup >= steps:
                raise UserError(
                    f"training.warmup={self.warmup}: task {task + 1} has {steps} steps; expected fewer than these."
                )

    def second_stage(self, epochs: int, lr_factor: float) -> "Training":
        """A copy for a second stage on balanced classes, with `lr_factor` times the learning rate.

        Neither schedule nor selection uses the task's val images: of new classes only, they would undo the balance.
        """
        schedule = "cosine" if self.schedule == "plateau" else self.schedule
        return replace(self, epochs=epochs, steps=None, lr=self.lr * lr_factor, schedule=schedule, select="last")

    def epochs_of(self, n_batches: int, fresh: bool) -> int:
        """Epochs of a stage with `n_batches` in each; `fresh`: its net starts at random."""
        steps = (self.first_steps or self.steps) if fresh else self.steps
        if steps is not None:
            return max(1, round(steps / n_batches))
        return (self.first_epochs or self.epochs) if fresh else self.epochs

    def multiplier(self, step: int, steps: int) -> float:
        """Factor of the learning rate at 0-based `step` of `steps`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule != "cosine":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, steps - self.warmup)))


@dataclass(eq=False)
class TrainingLoop:
    """One call of `Training.fit`, with everything that its checkpoints hold."""

    config: Training
    net: IncrementalNet
    data: TrainingData
    objective: Objective
    streams: TaskStreams
    stage: Stage
    train_old_prototypes: bool

    PARTS, POSITION = ("net", "optimizer", "objective"), ("epoch", "batch", "factor", "best", "wait", "kept")

    def __post_init__(self) -> None:
        config, net, data = self.config, self.net, self.data
        self.pool = Pool(data.train, data.replay)
        fresh = not len(net.old)  # nothing was learned before: the first task, and each task of joint training
        self.base_lr = config.first_lr if fresh and config.first_lr else config.lr
        net.old.requires_grad_(self.train_old_prototypes and not fresh)
        self.trained = [p for p in net.parameters() if p.requires_grad]
        self.loss = averaging(Losses(net, self.objective), net.process_group)
        self.optimizer = SGD(self.trained, momentum=config.momentum, weight_decay=config.weight_decay)
        self.augmenting = self.streams.generator("augmentation", device=net.scale.device)
        self.finite = FiniteTerms(f"task {self.streams.task + 1}: {self.streams.prefix}training", "training.lr")
        self.epoch, self.batch = 0, 0
        self.factor, self.best, self.wait = 1.0, -1.0, 0  # of plateau: the rate's factor, best accuracy, epochs since
        self.kept: State | None = None  # the net of the best epoch
        self.per_epoch = draws_per_epoch(len(self.pool), len(data.train), data.replay_ratio)
        if self.per_epoch < 2:  # a run's set-up has checked it: `NetLearner.check_images`
            raise UserError(f"task {self.streams.task + 1} has a single training image; expected at least two.")
        self.n_batches = batches_of(self.per_epoch, config.batch_size)
        self.epochs = config.epochs_of(self.n_batches, fresh)
        self.steps = self.epochs * self.n_batches
        if self.stage.state is not None:
            self.load_state_dict(self.stage.state)

    def run_epoch(self) -> None:
        """Train from the current batch to the end of the epoch."""
        self.net.train()
        # drawn again from its name after a resume, so a checkpoint does not hold it
        generator = self.streams.generator("batches", self.epoch)
        order = epoch_order(len(self.pool), len(self.data.train), self.data.replay_ratio, generator)
        order = order.to(self.net.scale.device)
        metrics = self.step(order)
        while self.batch < self.n_batches:
            step = self.epoch * self.n_batches + self.batch
            if step % LOG_EVERY == 0:
                self.log(step, metrics())
            self.stage.maybe_checkpoint(self.state_dict)
            if self.stage.measured():
                return
            metrics = self.step(order)
        accuracy = own_accuracy(self.net, self.data.val)
        self.epoch, self.batch = self.epoch + 1, 0
        self.log(self.epoch * self.n_batches, metrics() | {"val_accuracy": accuracy})
        if accuracy > self.best:
            self.best, self.wait = accuracy, 0
            if self.config.select == "best_val":
                self.kept = {key: value.clone() for key, value in self.net.state_dict().items()}
        else:
            self.wait += 1
            if self.config.schedule == "plateau" and self.wait > self.config.plateau_patience:
                self.factor, self.wait = self.factor * self.config.plateau_factor, 0
        self.stage.maybe_checkpoint(self.state_dict)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """A logging point after `step` steps; UserError if the loss was not finite since the last one."""
        self.stage.log(step, self.steps, metrics)
        terms = [name.removeprefix("loss_") for name in metrics if name.startswith("loss_")]
        self.finite.check(terms, self.steps, self.base_lr * self.factor, self.net.process_group)

    def step(self, order: Tensor) -> Callable[[], dict[str, float]]:
        """Train on the next batch of an epoch's `order`, int64 [per_epoch]; a function that returns its metrics."""
        config, process_group = self.config, self.net.process_group
        step = self.epoch * self.n_batches + self.batch
        lr = self.base_lr * self.factor * config.multiplier(step, self.steps)
        start, self.batch = self.batch * config.batch_size, self.batch + 1
        indices = order[start : self.batch * config.batch_size if self.batch < self.n_batches else self.per_epoch]
        whole, part = len(indices), process_group.shard(len(indices))
        images, labels = self.pool[indices[part]]
        x = images.to(self.net.scale.dtype) / 255
        if config.augment is not None:
            x = config.augment(x, self.augmenting, whole, part)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            terms = self.loss(x, labels)
            total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        # DistributedDataParallel averages the workers' gradients; the loss is their sum
        (total * process_group.world_size).backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, config.clip_norm)
        self.optimizer.step(lr)
        self.finite.note(terms, step + 1)

        def metrics() -> dict[str, float]:
            values = torch.stack([value.detach().float() for value in terms.values()])  # to the host in one transfer
            losses = dict(zip(terms, process_group.all_reduce(values).tolist(), strict=True))
            return {"loss": sum(losses.values()), **{f"loss_{name}": value for name, value in losses.items()}, "lr": lr}

        return metrics

    def state_dict(self) -> State:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        position = {name: getattr(self, name) for name in self.POSITION}
        return {**parts, **position, "augmenting": self.augmenting.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        momentum = {"momentum": [Maybe(p.detach()) for p in self.trained]}
        like = {**self.state_dict(), "optimizer": momentum, "kept": Maybe(self.net.state_dict())}
        check_saved(state, like, "the state of the training")
        check_range(state["epoch"], 0, self.epochs, "the epoch of the training")
        check_range(state["batch"], 0, self.n_batches, "the batch of the training")
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.POSITION:
            setattr(self, name, state[name])
        restore_generator(self.augmenting, state["augmenting"], "the state of the augmentation")


class Losses(nn.Module):
    """An objective on a net as one module, which DistributedDataParallel can wrap."""

    def __init__(self, net: IncrementalNet, objective: Objective) -> None:
        super().__init__()
        self.net, self.objective = net, objective

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.objective(self.net, images, labels)


def averaging(losses: Losses, process_group: ProcessGroup) -> Callable[..., dict[str, Tensor]]:
    """`losses`, with gradients averaged over the workers if there are several."""
    if process_group.world_size == 1:
        return losses
    with warnings.catch_warnings():  # torch 2.15 has a new name for this argument, which 2.10 does not know
        warnings.simplefilter("ignore", FutureWarning)
        # The norms' moments are the same on all workers anyway. With find_unused_parameters, buckets are not
        # reordered after the first step; a resumed run would otherwise add in another order.
        return nn.parallel.DistributedDataParallel(
            losses, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )


def batches_of(count: int, batch_size: int) -> int:
    """Batches of `count` images; a remainder of one joins the last batch: alone it has no batch statistics."""
    return max(1, math.ceil((count - 1) / batch_size))


@torch.no_grad()
def own_accuracy(net: IncrementalNet, data: Labelled, batch_size: int = 512) -> float:
    """Accuracy on images of the current task among all classes seen so far, in [0, 1]."""
    net.eval()
    part = net.process_group.shard(len(data))
    parts = zip(data.images[part].split(batch_size), data.labels[part].split(batch_size), strict=True)
    hits = [(net(x.to(net.scale.dtype) / 255).argmax(1) == y).sum() for x, y in parts]
    return int(net.process_group.all_reduce(torch.stack(hits).sum())) / len(data)
