"""The workers of one run: N processes that hold the same network and each compute a shard of every batch.

All workers draw the same random numbers, so each knows its shard without communication; the results of the shards are
summed here. They must call the collective methods in the same order. `ccsi run` has one worker.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ccsi.errors import UserError

T = TypeVar("T")
SPIN = 0.05  # seconds for which a worker polls for the others before it sleeps
give_way = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows has no sched_yield


class AgreedError(UserError):
    """A UserError that every worker of the run raises, so that none is left waiting for another."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among the `world_size` workers of its run; worker 0 is the main one, and alone writes files."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "ProcessGroup":
        """This process in its `torch.distributed` group; the only worker if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This worker's part of n items; the parts are contiguous and as equal as possible."""
        return slice(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """This worker's part of the (weighted) mean of all workers' `values` [n]; weights [n], not all 0.

        The sum of the parts is the mean. No gradient flows through `weights`. A worker may have no values.
        """
        if weights is None and self.world_size == 1:
            return values.mean()
        weights = torch.ones_like(values) if weights is None else weights
        total = self.all_reduce(weights.sum())
        return (values * weights).sum() / total.clamp(min=torch.finfo(total.dtype).tiny)

    def sum(self, x: Tensor) -> Tensor:
        """Sum of all workers' `x`, of one shape; gradients flow to each of them."""
        return x if self.world_size == 1 else _Sum.apply(x, self)

    def rows(self, x: Tensor) -> tuple[Tensor, slice]:
        """All workers' rows, [n_i, D] to [n, D], and the slice of this one's; gradients flow back.

        Each worker must have its `shard` of n.
        """
        if self.world_size == 1:
            return x, slice(None)
        n = self.count(len(x))
        part = self.shard(n)
        padded = x.new_zeros((n, *x.shape[1:]))
        padded[part] = x
        return self.sum(padded), part

    def all_reduce(self, x: Tensor) -> Tensor:
        """As `sum`, without gradient."""
        return x if self.world_size == 1 else self.all_gather(x.detach()).sum(0)

    def count(self, n: int) -> int:
        """Sum of all workers' n."""
        return n if self.world_size == 1 else int(self.all_reduce(torch.tensor(n)))

    def all_gather(self, x: Tensor) -> Tensor:
        """All workers' `x`, of one shape, as [world_size, ...] by rank. No gradient."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.world_size)]
        # for small tensors, half the time of any other collective (gloo)
        work: Any = dist.all_gather(parts, x, async_op=True)
        if x.is_cpu:  # a sleeping process takes a millisecond to wake up, dozens of times a step
            deadline = time.perf_counter() + SPIN
            while not work.is_completed() and time.perf_counter() < deadline:
                give_way()
        work.wait()
        return torch.stack(parts)

    def all_gather_rows(self, x: Tensor) -> Tensor:
        """The rows of all workers' `x`, [n_i, ...], concatenated by rank, on each worker. No gradient."""
        if self.world_size == 1:
            return x
        lengths = self.all_gather_object(len(x))
        padded = x.new_zeros((max(lengths), *x.shape[1:]))
        padded[: len(x)] = x
        return torch.cat([part[:n] for part, n in zip(self.all_gather(padded), lengths, strict=True)])

    def all_gather_object(self, value: T) -> list[T]:
        """Every worker's `value`, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: T) -> T:
        """The main worker's `value`."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_all(self, work: Callable[[], T]) -> T:
        """The result of `work` on this worker, after it has succeeded on all.

        Raises:
            AgreedError: on all workers, with the message of the first UserError by rank.
        """
        value: Any = None
        problem = None
        try:
            value = work()
        except UserError as error:
            problem = str(error)
        problems = [text for text in self.all_gather_object(problem) if text is not None]
        if problems:
            raise AgreedError(problems[0])
        return value

    def on_main(self, work: Callable[[], T]) -> T:
        """The result of `work`, which the main worker alone runs; its UserError is an AgreedError on all workers."""
        value: Any = self.on_all(lambda: work() if self.is_main else None)
        return self.broadcast_object(value)


class _Sum(torch.autograd.Function):
    """A sum whose gradient is a sum too: each worker's x contributes to every worker's sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        return process_group.all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.process_group.all_reduce(grads[0]), None
