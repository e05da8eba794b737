"""A learner's task as stages that can be interrupted anywhere and resumed."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError

T = TypeVar("T")
State = dict[str, Any]
LOG_EVERY = 50
"""Steps between a stage's logging points; only there the host waits for the device, and workers for each other."""


@dataclass
class Stage:
    """One stage of learning a task (`synthesis`, `training`), as passed to its code.

    A loop starts from `state` if it is not None, calls `maybe_checkpoint` after each step with a function that makes
    its state (called only if a checkpoint is due), and `log` at logging points. Workers whose states differ first
    agree on `due`, then gather and `save` them; the main worker's save counts.

    To time a few steps of a loop, it calls `plan` before the first one, with the number of steps and, in training, of
    a task's own images and of those replayed beside them in every epoch; and it ends early once it is `measured`.
    """

    state: State | None = None
    due: Callable[[], bool] = lambda: False
    save: Callable[[State], None] = lambda state: None
    log: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, metrics: None
    plan: Callable[[int, int, int], None] = lambda steps, own, replayed: None
    measured: Callable[[], bool] = lambda: False

    def maybe_checkpoint(self, make: Callable[[], State]) -> None:
        """Save the result of `make` if a checkpoint is due."""
        if self.due():
            self.save(make())


@dataclass
class Stages:
    """The stages of one task; each runs once, across interruptions.

    The results of finished stages and the state of the one in progress are the task's part of a checkpoint.
    Results consist of tensors, numbers, strings, lists and dicts.
    """

    saved: InitVar[State | None] = None
    due: Callable[[], bool] = lambda: False
    save: Callable[[State], None] = lambda state: None
    log: Callable[[str, int, int, Mapping[str, float]], None] = lambda name, step, steps, metrics: None
    clock: Callable[[str], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self, saved: State | None) -> None:
        self.done: State = dict(saved["done"]) if saved else {}
        self.current: tuple[str, State] | None = (saved["name"], saved["state"]) if saved else None

    def run(self, name: str, work: Callable[[Stage], T]) -> T:
        """The result of `work`, or of its earlier run if this stage is finished."""
        if name not in self.done:
            state = self.current[1] if self.current and self.current[0] == name else None
            self.current = None

            def save(state: State) -> None:
                self.save({"done": self.done, "name": name, "state": state})

            with self.clock(name):
                self.done[name] = work(Stage(state, self.due, save, partial(self.log, name)))
        return self.done[name]


NEVER = 2**62


@dataclass
class FiniteTerms:
    """Keeps the terms of a loss, on the device, and looks at logging points whether all were finite.

    Args:
        where: the stage, for messages. key: of its learning rate.
    """

    where: str
    key: str
    noted: list[Tensor] = field(default_factory=list)  # [terms, ...] of each step since the last logging point
    step: int = 0

    def note(self, terms: Mapping[str, Tensor], step: int) -> None:
        """After the 1-based `step`: its terms, all of one shape."""
        self.noted.append(torch.stack([*terms.values()]).detach())
        self.step = step

    def check(self, terms: Iterable[str], steps: int, lr: float, process_group: ProcessGroup) -> None:
        """At a logging point of a stage of `steps`: UserError, in all workers, if a term was not finite in one.

        Args:
            terms: their names. lr: the learning rate, without its schedule.
        """
        values = torch.stack(self.noted)
        sound = values.isfinite().view(*values.shape[:2], -1).all(2)  # [steps, terms]
        numbers = torch.arange(self.step - len(sound) + 1, self.step + 1, device=sound.device)
        first = numbers[:, None].masked_fill(sound, NEVER).min(0).values
        self.noted.clear()
        if process_group.world_size > 1:
            first = process_group.all_gather(first).min(0).values
        began = int(first.min())
        if began < NEVER:
            names = " and ".join(name for name, step in zip(terms, first.tolist(), strict=True) if step == began)
            raise UserError(
                f"{self.where} diverged: its loss ({names}) is not a finite number from step {began} of {steps} on, "
                f"with {self.key}={lr:g}; expected a smaller one, or smaller weights of the losses."
            )
