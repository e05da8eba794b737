"""CCSI (Continual Class-Specific Impression, arXiv 2406.05631), and configured differently CI (arXiv 2207.00005)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from ccsi import losses
from ccsi.checks import (
    AtLeastTwo,
    NonNegative,
    PerTaskPositive,
    PerTaskReplayShare,
    PerTaskShare,
    PositiveInt,
    per_task,
)
from ccsi.data import Task
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.learners.base import Stored
from ccsi.learners.generative import InversionLearner
from ccsi.models import ContinualNorm2d, IncrementalNet
from ccsi.saved import Shaped, check_saved, restore_generator
from ccsi.stage import Stages, State
from ccsi.synthesis import ClassMemory, remember
from ccsi.training import TrainingData


@dataclass(frozen=True, kw_only=True)
class IdC:
    """The intra-domain conservative loss.

    Args:
        rho: ρ, weight of the batch in the running source centroids; one value, or one a task from the second on.
        tau: τ, temperature; one value, or one a task from the second on.
        form: `sum` (the paper's) or `per_class` (InfoNCE).
        target: images whose pseudo-labelled centroids are compared: `new_train`, the new task's own training images
            without labels; `unlabeled_pool`, the val images of all classes so far without labels (transductive);
            `as_released`, the test images (only to measure the released code's leak).
        batch_size: images of a target batch; null: as many as in a training batch.
    """

    rho: PerTaskShare = 0.9
    tau: PerTaskPositive = 1.0
    form: Literal["sum", "per_class"] = "sum"
    target: Literal["new_train", "unlabeled_pool", "as_released"] = "new_train"
    batch_size: AtLeastTwo | None = None


@dataclass(kw_only=True, eq=False)
class CCSI(InversionLearner):
    """Replay of class impressions, images of old classes that are optimised under the old net, with four losses.

    The impressions start at the class's mean image and match the class's normalization moments. Cross-entropy,
    distillation, margin and intra-domain conservative (IdC) loss are computed on new real and old synthetic images. A
    weight of 0 switches a loss off. It keeps each class's mean image and mean normalization moments. METHOD section 7
    lists where it departs from the released code.

    Args:
        idc: the IdC loss.
        distillation: λ of the distillation, times √(n_old/n_new); 5 in the paper.
        w_margin: weight of the margin loss.
        margin: m of the margin loss, in cosine units.
        top_k: K of the margin loss, new classes that an old image is compared with.
        w_idc: weight of the IdC loss.
        balance: against the imbalance of new and old images: `sampler` (`synthetic_ratio`), `class_weights` (inverse
            frequency in the cross-entropy), `both` or `none`.
        synthetic_ratio: share of synthetic images in an epoch's draws; one value, or one a task from the second on.
        imprint: new prototypes start at their class's mean feature, otherwise at random.
        freeze_prototypes: old prototypes are fixed while a new task is learned.
    """

    default_name = "ccsi"

    idc: IdC
    distillation: NonNegative = 5.0
    w_margin: NonNegative = 1.0
    margin: NonNegative = 0.3
    top_k: PositiveInt = 1
    w_idc: NonNegative = 1.0
    balance: Literal["sampler", "class_weights", "both", "none"] = "sampler"
    synthetic_ratio: PerTaskReplayShare = 0.66
    imprint: bool = True
    freeze_prototypes: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"new_train": (), "unlabeled_pool": ("unlabeled_pool",), "as_released": ("test_images",)}
        self.permissions = needed[self.idc.target] if self.w_idc > 0 else ()
        self.memory = ClassMemory(torch.empty(0))

    def check(self, sizes: Sequence[int], more: bool = False) -> None:
        n_later = len(sizes) - 1
        parts: dict[str, Any] = {"learner": self, "learner.idc": self.idc, "learner.synthesis": self.synthesis}
        values = {f"{key}.{one.name}": getattr(part, one.name) for key, part in parts.items() for one in fields(part)}
        for key, value in values.items():
            if isinstance(value, list) and (len(value) < n_later or (len(value) > n_later and not more)):
                raise UserError(
                    f"{key}={value} has {len(value)} values; expected one number, or one for each of the {n_later} "
                    "tasks after the first."
                )

    def replay_ratio(self, task: int) -> float | None:
        sampled = task and self.balance in ("sampler", "both")
        return per_task(self.synthetic_ratio, task) if sampled else None

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        impressions = self.synthesize(task, self.memory, stages)
        return TrainingData(task.train, task.val, impressions, self.replay_ratio(task.index))

    def objective(self, task: Task) -> "Update":
        return Update(self, task, self.teacher)

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        self.memory = self.memory.extended(remember(self.net, task.train, task.classes))

    def stored(self) -> list[Stored]:
        return [Stored(kind, len(self.memory.means), n) for kind, n in self.memory.n_bytes().items() if n]

    def state_dict(self) -> State:
        kept = {name: getattr(self.memory, name) for name in ("means", "group_means", "group_vars")}
        return super().state_dict() | {"memory": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        n = sum(map(len, self.heads))
        groups = [norm.groups for norm in self.net.modules() if isinstance(norm, ContinualNorm2d) and norm.groups]
        dtype = self.net.scale.dtype
        layers = [Shaped((n, count), dtype) for count in groups]
        images = Shaped((n, self.in_channels, None, None), dtype)
        like = {"means": images, "group_means": layers, "group_vars": layers} if n else self.state_dict()["memory"]
        check_saved(state["memory"], like, "the class memory")
        self.memory = ClassMemory(**state["memory"]).to(self.device)


class Update:
    """L = L_cnce + λ_t·L_dist + w_m·L_margin + w_idc·L_idc on one batch (METHOD section 5)."""

    def __init__(self, learner: CCSI, task: Task, teacher: IncrementalNet) -> None:
        self.learner, self.teacher, self.n_old = learner, teacher, task.classes.start
        n_all, n_new, device = task.classes.stop, len(task.classes), learner.device
        self.w_distillation = learner.distillation * math.sqrt(self.n_old / n_new)
        self.w_margin, self.w_idc = (learner.w_margin, learner.w_idc) if self.n_old else (0.0, 0.0)
        self.class_weights: Tensor | None = None
        if learner.impressions is not None and learner.balance in ("class_weights", "both"):
            counts = torch.bincount(torch.cat([task.train.labels, learner.impressions.labels]), minlength=n_all)
            weights = counts.sum() / (n_all * counts.clamp(min=1))  # `batches` may leave a class out
            self.class_weights = weights.to(learner.net.scale.dtype)
        if self.w_idc:
            self.rho, self.tau = (per_task(value, task.index) for value in (learner.idc.rho, learner.idc.tau))
            self.target = task.train.images if task.unlabeled is None else task.unlabeled
            self.draws = learner.streams.generator("target", task.index, device=device)
            self.source = learner.net.scale.new_zeros(n_all, n_all)
            self.seen = torch.zeros(n_all, dtype=torch.bool, device=device)

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        learner, process_group = self.learner, net.process_group
        if self.w_idc:
            features, target = net.features_apart(images, self.target_batch(net, len(images)))
        else:
            features = net.features(images)
        cosines = net.cosines(features)
        terms = {"ce": learner.cross_entropy(net.scale * cosines, labels, self.class_weights)}
        if self.w_distillation:
            distance = losses.distillation(features, self.teacher.features(images), process_group)
            terms["distillation"] = self.w_distillation * distance
        if self.w_margin:
            distance = losses.margin(cosines, labels, self.n_old, learner.margin, learner.top_k, process_group)
            terms["margin"] = self.w_margin * distance
        if self.w_idc:
            terms["idc"] = self.w_idc * self.idc(cosines, labels, net.cosines(target), process_group)
        return terms

    def target_batch(self, net: IncrementalNet, n: int) -> Tensor:
        """This worker's shard of a new target batch, [M, C, S, S] in [0, 1]; `n`: number of its labelled images."""
        size = self.learner.idc.batch_size or net.process_group.count(n)
        part, augment = net.process_group.shard(size), self.learner.training.augment
        indices = torch.randint(len(self.target), (size,), generator=self.draws, device=self.target.device)[part]
        x = self.target[indices].to(net.scale.dtype) / 255
        if augment is None:
            return x
        with torch.autocast(x.device.type, enabled=False):  # as for the labelled images
            return augment(x, self.draws, size, part)

    def idc(self, cosines: Tensor, labels: Tensor, target: Tensor, process_group: ProcessGroup) -> Tensor:
        """This worker's share of L_idc, from the cosines of labelled and target images; updates source centroids."""
        n = len(self.seen)
        with torch.autocast(cosines.device.type, enabled=False):  # centroids are sums: not in bfloat16
            batch, present = losses.class_centroids(cosines, labels, n, process_group)
            source, self.seen = losses.moving_centroids(self.source, self.seen, batch, present, self.rho)
            self.source = source.detach()
            centroids, found = losses.class_centroids(target, target.detach().argmax(1), n, process_group)
            both, form = self.seen & found, self.learner.idc.form
            loss = losses.intra_domain_conservative(centroids, source, both, self.tau, form)
            return loss / process_group.world_size

    def state_dict(self) -> State:
        return {"source": self.source, "seen": self.seen, "draws": self.draws.get_state()} if self.w_idc else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.w_idc:
            self.source, self.seen = state["source"].to(self.source), state["seen"].to(self.seen)
            restore_generator(self.draws, state["draws"], "the state of the draws")
