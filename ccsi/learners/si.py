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
from ccsi.learners.parts.importance import padded, penalized, penalized_weights, quadratic
from ccsi.models import IncrementalNet
from ccsi.stage import Stages, State
from ccsi.training import Objective


@dataclass(kw_only=True, eq=False)
class SI(NetLearner):
    """A quadratic penalty keeps weights near their old values, in proportion to how much their path lowered the loss.

    It keeps this importance, summed over tasks, which is collected during training. A negative importance counts as 0.
    As in EWC here, and unlike the paper, the penalty is bounded so that SGD does not diverge.

    Args:
        penalty: c, 0.1 in the paper on CIFAR (section 4.3).
        damping: ξ, 0.001 in the paper.
    """

    default_name = "si"
    kind = "regularisation"
    stored_buffers: ClassVar = {"importance": "synaptic importance", "anchor": ""}

    penalty: NonNegative = 0.1
    damping: Positive = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self.importance, self.anchor = list[Tensor](), list[Tensor]()

    def check(self, sizes: Sequence[int], more: bool = False) -> None:
        if self.training.select != "last":
            raise UserError("training.select=best_val: learner=si follows the weights to the end; expected last.")
        if (clip_norm := self.training.clip_norm) is not None:
            raise UserError(f"training.clip_norm={clip_norm}: learner=si needs whole gradients; expected null.")

    def _stored_like(self) -> Mapping[str, Any]:
        return {key: [p.detach() for p in penalized_weights(self.net)] for key in self.stored_buffers}

    def learn(self, task: Task, stages: Stages) -> None:
        super().learn(task, stages)
        start, omega = self.integral.start, self.integral.omega
        del self.integral  # between tasks, only the importance is kept
        end = [p.detach().clone() for p in penalized_weights(self.net)]
        self.importance = [
            total + (w / ((b - a).square() + self.damping)).clamp(min=0)
            for total, w, a, b in zip(padded(self.importance, end), omega, start, end, strict=True)
        ]
        self.anchor = end

    def objective(self, task: Task) -> Objective:
        self.integral = PathIntegral(self)
        return self.integral


class PathIntegral:
    """Cross-entropy and penalty; sums ω_i = −Σ_steps g_i·Δθ_i, g the cross-entropy's gradient (eq. 3).

    A step is added at the next call, when its gradient is still there and the weights have moved.
    """

    def __init__(self, learner: SI) -> None:
        self.learner = learner
        self.stiffness = [(2 * learner.penalty * w).clamp(max=1 / learner.training.lr) for w in learner.importance]
        self.start = [p.detach().clone() for p in penalized_weights(learner.net)]
        self.omega = [torch.zeros_like(p) for p in self.start]
        self.before: list[Tensor] | None = None

    def __call__(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.add_step()
        self.before = [p.detach().clone() for p in penalized_weights(net)]
        terms = self.learner.loss_terms(net, images, labels)
        if self.stiffness and self.learner.penalty:
            terms["penalty"] = quadratic(net, self.stiffness, self.learner.anchor)
        return terms

    @torch.no_grad()
    def add_step(self) -> None:
        """Add the last step to ω, unless it was added."""
        if self.before is None:
            return
        net = self.learner.net
        grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
        now, slopes = penalized_weights(net), penalized(grads)
        if self.stiffness:  # the gradient without the penalty's
            held = zip(slopes, padded(self.stiffness, now), self.before, padded(self.learner.anchor, now), strict=True)
            slopes = [g - w * (b - a) for g, w, b, a in held]
        self.omega = [w - g * (p - b) for w, g, p, b in zip(self.omega, slopes, now, self.before, strict=True)]
        self.before = None

    def state_dict(self) -> State:
        self.add_step()
        return {"walked": self.omega}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.omega = [value.to(self.learner.device) for value in state["walked"]]
