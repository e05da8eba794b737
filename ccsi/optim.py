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
        self.params, self.momentum, self.weight_decay = params, momentum, weight_decay
        self.buffers: list[Tensor | None] = [None] * len(params)

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for p in self.params:
            p.grad = None

    def step(self, lr: float) -> None:
        """One update from the parameters' gradients."""
        moved = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, buffers = [self.params[i] for i in moved], [self.buffers[i] for i in moved]
        grads = [p.grad for p in params if p.grad is not None]
        with torch.no_grad():
            sgd(
                params,
                grads,
                buffers,
                lr=lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        for i, buffer in zip(moved, buffers, strict=True):
            self.buffers[i] = buffer

    def state_dict(self) -> State:
        """Momentum of each parameter."""
        return {"momentum": self.buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.buffers = [b if b is None else b.to(p) for b, p in zip(state["momentum"], self.params, strict=True)]


class Adam:
    """`torch.optim.Adam` (eps 1e-8) on tensors, in place; gradients and learning rate are arguments of `step`."""

    def __init__(self, params: Sequence[Tensor], *, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.params, self.beta1, self.beta2 = list(params), beta1, beta2
        self.means, self.squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
        self.steps = [torch.zeros(()) for _ in params]

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One update."""
        with torch.no_grad():
            adam(
                self.params,
                list(grads),
                self.means,
                self.squares,
                [],
                self.steps,
                lr=lr,
                beta1=self.beta1,
                beta2=self.beta2,
                eps=1e-8,
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> State:
        """Both moments and the number of steps of each parameter."""
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.means = [m.to(p) for m, p in zip(state["means"], self.params, strict=True)]
        self.squares = [m.to(p) for m, p in zip(state["squares"], self.params, strict=True)]
        self.steps = list(state["steps"])
