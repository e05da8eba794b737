"""A learner's task as stages that can be interrupted anywhere and resumed."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import InitVar, dataclass
from functools import partial
from typing import Any, TypeVar

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
