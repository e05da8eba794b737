"""PASS: prototype augmentation and self-supervision (Zhu et al., CVPR 2021)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ccsi.checks import NonNegative
from ccsi.data import Labelled, Task
from ccsi.learners.base import Loss, NetLearner
from ccsi.learners.parts.prototypes import class_covariances, class_means
from ccsi.losses import exact
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.training import Objective, TrainingData

TURNS = 4
"""Rotations by 90°; each rotation of a class is a separate class (section 3.3)."""


@dataclass(kw_only=True, eq=False)
class PASS(NetLearner):
    """Old classes are replayed as noise around their mean features; rotated images are separate classes.

    It keeps each class's mean feature, and one number for the spread of features. In the paper the first task has half
    of the classes.

    Args:
        w_prototypes: λ, weight of the cross-entropy on replayed features; 10 in the paper (section 4.1).
        distillation: γ, weight of the distance from the old net's features; 10 in the paper (section 4.1).
    """

    default_name = "pass"
    kind = "prototypes"
    stored_buffers: ClassVar = {"means": "class mean features", "radius": "feature spread"}

    w_prototypes: NonNegative = 10.0
    distillation: NonNegative = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty_like(self.net.new)
        self.radius = self.means.new_zeros(())

    def _stored_like(self) -> Mapping[str, Any]:
        means = self.means.new_empty(self.heads[-1].stop, self.means.shape[1])
        return {"means": means, "radius": self.radius}

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        features = self.features(task.train.images)
        if not len(self.means):  # r² is the mean variance of a feature within its class, from the first task (eq. 4)
            spread = class_covariances(features, task.train.labels, task.classes).diagonal(dim1=1, dim2=2)
            self.radius = spread.mean().sqrt()
        self.means = torch.cat([self.means, class_means(features, task.train.labels, task.classes)])

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        """The task's images; the labels are those of upright images."""
        train, val = (Labelled(part.images, TURNS * part.labels) for part in (task.train, task.val))
        return TrainingData(train, val)

    def grow(self, task: Task) -> None:
        self.net.grow(self.random_prototypes(TURNS * len(task.classes), task.index))
        self.heads.append(task.classes)

    def objective(self, task: Task) -> Objective:
        self.draws = self.streams.generator("augmented prototypes", task.index)
        return Loss(self.loss_terms, self.draws)

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        turned = torch.cat([images.rot90(k, (2, 3)) for k in range(TURNS)])
        features = net.features(turned)
        targets = torch.cat([labels + k for k in range(TURNS)])
        terms = {"ce": self.cross_entropy(net.scale * net.cosines(features), targets)}
        if len(self.means) and self.w_prototypes:
            replayed, classes = self.augmented(len(images), self.draws)
            loss = self.cross_entropy(net.scale * net.cosines(replayed), TURNS * classes)
            terms["prototypes"] = self.w_prototypes * loss
        if len(self.means) and self.distillation:
            now, before = exact(features, self.teacher.features(turned))
            moved = net.process_group.mean(torch.linalg.vector_norm(now - before, dim=1))
            terms["distillation"] = self.distillation * moved
        return terms

    def augmented(self, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """This worker's n of a batch of replayed features, [n, D], and their classes, int64 [n] (eq. 3)."""
        whole = self.net.process_group.count(n)
        part = self.net.process_group.shard(whole)
        classes = torch.randint(len(self.means), (whole,), generator=draws)[part].to(self.device)
        noise = torch.randn(whole, self.means.shape[1], generator=draws)[part].to(self.means)
        return self.means[classes] + self.radius * noise, classes

    def classify_features(self, features: Tensor) -> Tensor:
        return super().classify_features(features)[:, ::TURNS]
