"""SGD and Adam: torch's own update rules, called by their functions.

The classes of torch.optim import torch._dynamo at first use, which takes seconds in every process and is not needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ccsi.stage import State


class SGD:
    """`torch.optim.SGD`, with `lr` as an argument of `step`; a parameter without a gradient is unchanged."""

    def __init__(self, params: Sequence[Tensor], *, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.params, self.buffers = params, list[Tensor | None]([None] * len(params))
        self.options: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay}
        self.options |= {"dampening": 0.0, "nesterov": False, "maximize": False}

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the parameters' gradients."""
        with_grad = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, buffers = [self.params[i] for i in with_grad], [self.buffers[i] for i in with_grad]
        sgd(params, [p.grad for p in params if p.grad is not None], buffers, lr=lr, **self.options)
        for i, buffer in zip(with_grad, buffers, strict=True):
            self.buffers[i] = buffer

    def state_dict(self) -> State:
        return {"momentum": self.buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffers = [b if b is None else b.to(p) for b, p in zip(state["momentum"], self.params, strict=True)]


class Adam:
    """`torch.optim.Adam` (eps 1e-8) on tensors, in place; gradients and learning rate are arguments of `step`."""

    def __init__(self, params: Sequence[Tensor], *, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.params = list(params)
        self.means, self.squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in params]
        self.options: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": 1e-8}
        self.options |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        adam(self.params, list(grads), self.means, self.squares, [], self.steps, lr=lr, **self.options)

    def state_dict(self) -> State:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means, self.squares = (
            [m.to(p) for m, p in zip(state[name], self.params, strict=True)] for name in ("means", "squares")
        )
        self.steps = list(state["steps"])
