"""Bias correction (BiC, Wu et al., CVPR 2019)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ccsi.checks import Positive, Share
from ccsi.data import Labelled, Task
from ccsi.errors import UserError
from ccsi.learners.replay import ReplayLearner
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.training import TrainingData


@dataclass(kw_only=True, eq=False)
class BiC(ReplayLearner):
    """Distillation on new images and exemplars, then a linear correction of the new classes' logits against their bias.

    Two numbers for each task, z ← α·z + β (eq. 4), are fitted to held-out images, equally many of each class, and
    then fixed: later tasks are trained and distilled on corrected logits. It keeps exemplars, chosen by herding, 2,000
    in all in the paper, and these two numbers.

    Args:
        temperature: T of the distillation, 2 in the paper (eq. 1).
        held_out: share of a class's exemplars for the two numbers, at least one and never all; 0.1 in section 6.1.
    """

    default_name = "bic"
    stored_buffers: ClassVar = {**ReplayLearner.stored_buffers, "correction": ""}

    temperature: Positive = 2.0
    held_out: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.correction = self.net.scale.new_empty(0, 2)  # α, β of each task

    def check(self, sizes: Sequence[int], more: bool = False) -> None:
        super().check(sizes, more)
        if self.budget.quota(sum(sizes)) < 2:
            raise UserError(
                f"learner.budget.per_class={self.budget.per_class}, total={self.budget.total}: learner=bic holds out "
                f"exemplars; expected a budget of at least two images for each of {sum(sizes)} classes."
            )

    def check_images(self, counts: Sequence[Sequence[int]]) -> None:
        super().check_images(counts)
        for task in range(1, len(counts)):
            held, fewest = self.n_held(min(self.n_kept(task, counts))), min(counts[task])
            if held >= fewest:
                raise UserError(
                    f"task {task + 1} has a class of {fewest} training image{'s' * (fewest != 1)}, but learner=bic "
                    f"holds out {held} of each class; expected more images, or a smaller learner.held_out or budget."
                )

    def n_trained(self, task: int, counts: Sequence[Sequence[int]]) -> tuple[int, int, float | None]:
        own, replayed, ratio = super().n_trained(task, counts)
        kept = self.n_kept(task, counts)
        held = self.n_held(min(kept, default=0))
        return own - held * len(counts[task]), replayed - held * len(kept), ratio

    def n_held(self, fewest: int) -> int:
        """How many images of each class are held out, if `fewest` are kept of one."""
        return min(max(1, round(self.held_out * fewest)), fewest - 1) if fewest else 0

    def _stored_like(self) -> Mapping[str, Any]:
        return {**super()._stored_like(), "correction": self.correction.new_empty(len(self.heads), 2)}

    def learn(self, task: Task, stages: Stages) -> None:
        self.teacher = self.frozen_net()
        train, replay, held = self.split(task)
        self.grow(task)
        self.fit(task, self.objective(task), stages, TrainingData(train, task.val, replay, self.budget.ratio))
        logits = self.classify_features(self.features(held.images)).detach().cpu().double()
        found = self.fitted(logits.numpy(), held.labels.cpu().numpy(), task.classes.start)
        self.correction = torch.cat([self.correction, self.correction.new_tensor([found])])
        self.remember(task)

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        n_old, logits = self.teacher.n_classes, self.corrected(net(images))  # older tasks' logits as at test time
        share = n_old / net.n_classes  # λ, section 3
        terms = {"ce": (1 - share) * self.cross_entropy(logits, labels)}
        if n_old:
            old = self.corrected(self.teacher(images))
            distance = knowledge_distillation(logits[:, :n_old], old, self.temperature, net.process_group)
            terms["distillation"] = share * distance
        return terms

    def split(self, task: Task) -> tuple[Labelled, Labelled | None, Labelled]:
        """New images and exemplars to train on, and those held out: equally many a class, none in the first task."""
        kept = Labelled(self.kept_images, self.kept_labels)
        fewest = int(kept.labels.bincount().min()) if len(kept) else 0
        n = self.n_held(fewest)
        draws = self.streams.generator("held out", task.index)

        def divided(part: Labelled) -> tuple[Labelled, Labelled]:
            order = torch.randperm(len(part), generator=draws).to(self.device)
            out = torch.zeros(len(part), dtype=torch.bool, device=self.device)
            for c in part.labels.unique():
                out[order[part.labels[order] == c][:n]] = True
            return Labelled(part.images[~out], part.labels[~out]), Labelled(part.images[out], part.labels[out])

        (train, new), (replay, old) = divided(task.train), divided(kept)
        held = Labelled(torch.cat([new.images, old.images]), torch.cat([new.labels, old.labels]))
        return train, replay if len(replay) else None, held

    @staticmethod
    def fitted(logits: np.ndarray, labels: np.ndarray, n_old: int) -> list[float]:
        """α and β of least cross-entropy of logits [N, n], those of classes below `n_old` unchanged; 1 and 0 if N = 0.

        0.05·((α − 1)² + β²) is added, as the original does for β: with few images, all classified correctly, both
        would otherwise grow without bound.
        """
        from scipy.optimize import minimize  # half a second, in every process
        from scipy.special import log_softmax

        def loss(values: np.ndarray) -> float:
            z = np.concatenate([logits[:, :n_old], values[0] * logits[:, n_old:] + values[1]], 1)
            pull = 0.05 * ((values[0] - 1) ** 2 + values[1] ** 2)
            return pull - float(log_softmax(z, 1)[np.arange(len(z)), labels].mean())

        return minimize(loss, [1.0, 0.0]).x.tolist() if len(labels) else [1.0, 0.0]

    def corrected(self, logits: Tensor) -> Tensor:
        """α·z + β with the numbers of each class's task: [N, n] to the same; tasks without numbers are unchanged."""
        measured = self.heads[: len(self.correction)]
        parts = [a * logits[:, h.start : h.stop] + b for h, (a, b) in zip(measured, self.correction, strict=True)]
        return torch.cat([*parts, logits[:, measured[-1].stop if measured else 0 :]], 1)

    def classify_features(self, features: Tensor) -> Tensor:
        return self.corrected(super().classify_features(features))
