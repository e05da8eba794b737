"""PASS (Zhu et al., CVPR 2021): prototype augmentation and self-supervision."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ccsi.checks import NonNegative
from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.learners.parts.prototypes import class_covariances, class_means
from ccsi.losses import exact
from ccsi.models import IncrementalNet
from ccsi.stage import Stages

TURNS = 4
"""Rotations by 90°, each of a class a class of its own (section 3.3)."""


@dataclass(kw_only=True, eq=False)
class PASS(NetLearner):
    """Old classes are replayed as noise around their mean features; rotated images are classes of their own.

    It keeps each class's mean feature and one number for how far features spread. In the paper the first task has
    half of the classes.

    Args:
        w_prototypes, distillation: λ and γ, 10 and 10 in the paper (section 4.1).
    """

    default_name = "pass"
    kind: ClassVar = "prototypes"
    stored_buffers: ClassVar = {"means": "class mean features", "radius": "feature spread"}

    w_prototypes: NonNegative = 10.0
    distillation: NonNegative = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty(0, self.net.backbone.n_features, device=self.device, dtype=self.net.scale.dtype)
        self.radius = self.means.new_zeros(())

    def learn(self, task: Task, stages: Stages) -> None:
        n_old, teacher = len(self.means), self.frozen_net()
        self.grow(task, self.random_prototypes(TURNS * len(task.classes), task.index))
        draws = self.streams.generator("augmented prototypes", task.index)

        def parts(net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            turned = torch.cat([images.rot90(k, (2, 3)) for k in range(TURNS)])
            features = net.features(turned)
            wanted = torch.cat([labels + k for k in range(TURNS)])
            found = {"ce": self.cross_entropy(net.scale * net.cosines(features), wanted)}
            if n_old and self.w_prototypes:
                around, of = self.augmented(len(images), draws)
                replayed = self.cross_entropy(net.scale * net.cosines(around), TURNS * of)
                found["prototypes"] = self.w_prototypes * replayed
            if n_old and self.distillation:
                with torch.no_grad():
                    old = teacher.features(turned)
                now, before = exact(features, old)
                moved = net.process_group.mean(torch.linalg.vector_norm(now - before, dim=1))
                found["distillation"] = self.distillation * moved
            return found

        def apart(part: Labelled) -> Labelled:
            return Labelled(part.images, TURNS * part.labels)

        several = dataclasses.replace(task, train=apart(task.train), val=apart(task.val))
        self.fit(several, Loss(parts, draws), stages)
        features = self.features(task.train.images)
        new = class_means(features, task.train.labels, task.classes)
        if not n_old:  # r² is the mean variance of a feature within its class, from the first task (eq. 4)
            spread = class_covariances(features, task.train.labels, task.classes).diagonal(dim1=1, dim2=2)
            self.radius = spread.mean().sqrt()
        self.means = torch.cat([self.means, new])

    def augmented(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """This worker's share of a batch of features, one an image, [n, D], and their classes, int64 [n] (eq. 3)."""
        process_group = self.net.process_group
        whole = process_group.count(n)
        part = process_group.shard(whole)
        of = torch.randint(len(self.means), (whole,), generator=draws)[part].to(self.device)
        noise = torch.randn(whole, self.means.shape[1], generator=draws)[part].to(self.means)
        return self.means[of] + self.radius * noise, of

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images)[:, ::TURNS]
