"""Online elastic weight consolidation (EWC: Kirkpatrick et al., PNAS 2017; online: Schwarz et al., ICML 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from ccsi.checks import NonNegative, PositiveInt, Probability
from ccsi.data import Task
from ccsi.learners.base import NetLearner
from ccsi.learners.parts.importance import padded, penalized, penalized_weights, quadratic
from ccsi.models import IncrementalNet
from ccsi.saved import check_saved
from ccsi.stage import Stages


@dataclass(kw_only=True, eq=False)
class EWC(NetLearner):
    """A quadratic penalty keeps weights near their old values, in proportion to their Fisher information.

    It keeps the diagonal of the Fisher matrix, summed over tasks with a decay. Unlike the papers, it bounds the penalty
    (λ·F ≤ 1/lr), so that a large λ freezes weights and does not make SGD diverge.

    Args:
        penalty: λ; tuned per problem in the paper; 5,000 in FACIL (Masana et al. 2022), with another scale of F.
        decay: γ of the online form (Schwarz et al., eq. 9), below 1 there; with 1 old tasks keep their full weight.
        fisher_images: images of a task that the Fisher matrix is computed from.
    """

    default_name = "ewc"
    kind = "regularisation"
    stored_buffers: ClassVar = {"fisher": "Fisher information", "anchor": ""}

    penalty: NonNegative = 5000.0
    decay: Probability = 0.95
    fisher_images: PositiveInt = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fisher, self.anchor = list[Tensor](), list[Tensor]()

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = super().loss_terms(net, images, labels)
        if self.stiffness and self.penalty:
            terms["penalty"] = quadratic(net, self.stiffness, self.anchor)
        return terms

    def _stored_like(self) -> Mapping[str, Any]:
        return {key: [p.detach() for p in penalized_weights(self.net)] for key in self.stored_buffers}

    def learn(self, task: Task, stages: Stages) -> None:
        self.stiffness = [(self.penalty * value).clamp(max=1 / self.training.lr) for value in self.fisher]
        super().learn(task, stages)
        new = stages.run("fisher", lambda stage: fisher_diagonal(self.net, self.sample(task)))
        check_saved(new, [p.detach() for p in penalized_weights(self.net)], "the result of fisher")
        self.fisher = [self.decay * a + b for a, b in zip(padded(self.fisher, new), new, strict=True)]
        self.anchor = [p.detach().clone() for p in penalized_weights(self.net)]

    def sample(self, task: Task) -> Tensor:
        """Some of a task's images, uint8 [n, C, S, S]."""
        order = torch.randperm(len(task.train), generator=self.streams.generator("fisher", task.index))
        return task.train.images[order[: self.fisher_images].to(self.device)]


@torch.no_grad()
def fisher_diagonal(net: IncrementalNet, images: Tensor) -> list[Tensor]:
    """E_x Σ_c p(c|x) · (∂ log p(c|x) / ∂θ)² over uint8 images, for each of `penalized_weights`; workers share them.

    The expectation over labels is the model's own, as the Fisher information demands.
    """
    net.eval()
    weights, buffers = {name: p.detach() for name, p in net.named_parameters()}, dict(net.named_buffers())

    def log_probabilities(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        log_p = functional_call(net, (weights, buffers), (x[None],))[0].log_softmax(0)
        return log_p, log_p

    def of_one(x: Tensor) -> dict[str, Tensor]:
        slopes, log_p = jacrev(log_probabilities, has_aux=True)(weights, x)
        return {name: torch.einsum("c,c...->...", log_p.exp(), slope.square()) for name, slope in slopes.items()}

    x = images[net.process_group.shard(len(images))].to(net.scale.dtype) / 255
    chunk = max(1, 2**23 // (net.n_classes * sum(p.numel() for p in weights.values())))
    sums = {name: torch.zeros_like(p) for name, p in weights.items()}
    for part in x.split(chunk):
        for name, values in vmap(of_one)(part).items():
            sums[name] += values.sum(0)
    return penalized({name: net.process_group.all_reduce(value) / len(images) for name, value in sums.items()})
