"""Synaptic intelligence (SI, Zenke et al., ICML 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ccsi.checks import NonNegative, Positive
from ccsi.data import Task
from ccsi.errors import UserError
from ccsi.learners.base import NetLearner
from ccsi.learners.parts.importance import bounded, gradients, grown, guarded, quadratic
from ccsi.models import IncrementalNet
from ccsi.stage import Stages, State


@dataclass(kw_only=True, eq=False)
class SI(NetLearner):
    """Weights are held by how much each one's way through training lowered the loss (if it did: ω below 0 count as 0).

    It keeps that importance, of all tasks together; no image is looked at again for it. As in EWC no weight is held
    stiffer than SGD's step can follow.

    Args:
        penalty: c, 0.1 in the paper on CIFAR (section 4.3). damping: ξ, 0.001 there.
    """

    default_name = "si"
    kind: ClassVar = "regularisation"
    stored_buffers: ClassVar = {"importance": "synaptic importance", "anchor": ""}

    penalty: NonNegative = 0.1
    damping: Positive = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self.importance: list[Tensor] = []
        self.anchor: list[Tensor] = []

    def check(self, sizes: Sequence[int]) -> None:
        if self.training.select != "last":
            raise UserError("training.select=best_val: learner=si follows the weights to the end; expected last.")
        if self.training.clip_norm is not None:
            raise UserError(
                f"training.clip_norm={self.training.clip_norm}: learner=si needs whole gradients; expected null."
            )

    def learn(self, task: Task, stages: Stages) -> None:
        self.grow(task)
        start = [p.detach().clone() for p in guarded(self.net)]
        path = Path(self)
        self.fit(task, path, stages)
        end = [p.detach().clone() for p in guarded(self.net)]
        old = grown(self.importance, end) if self.importance else [torch.zeros_like(p) for p in end]
        self.importance = [
            omega + (walked / ((b - a).square() + self.damping)).clamp(min=0)
            for omega, walked, a, b in zip(old, path.walked, start, end, strict=True)
        ]
        self.anchor = end


class Path:
    """Cross-entropy and penalty, and ω_i = −Σ_steps g_i·Δθ_i along the way, g the cross-entropy's gradient (eq. 3).

    A step is seen at the next call, when its gradient is still there and the weights have moved.
    """

    def __init__(self, learner: SI) -> None:
        self.learner = learner
        self.stiffness = bounded([2 * learner.penalty * omega for omega in learner.importance], learner.training.lr)
        self.walked = [torch.zeros_like(p) for p in guarded(learner.net)]
        self.before: list[Tensor] | None = None

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.settle()
        self.before = [p.detach().clone() for p in guarded(net)]
        learner = self.learner
        parts = {"ce": learner.cross_entropy(net(images), labels)}
        if self.stiffness and learner.penalty:
            parts["penalty"] = quadratic(net, self.stiffness, learner.anchor) / net.process_group.world_size
        return parts

    @torch.no_grad()
    def settle(self) -> None:
        """Add the last step, if it is not added yet."""
        if self.before is None:
            return
        learner, now = self.learner, guarded(self.learner.net)
        slopes = gradients(learner.net)
        if self.stiffness:  # all but the penalty's own
            held = zip(grown(self.stiffness, now), grown(learner.anchor, now), strict=True)
            pulls = [w * (b - a) for (w, a), b in zip(held, self.before, strict=True)]
            slopes = [g - pull for g, pull in zip(slopes, pulls, strict=True)]
        self.walked = [
            w - g * (after - b) for w, g, after, b in zip(self.walked, slopes, now, self.before, strict=True)
        ]
        self.before = None

    def state_dict(self) -> State:
        self.settle()
        return {"walked": self.walked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.walked = [value.to(self.learner.device) for value in state["walked"]]
