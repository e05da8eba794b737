"""One file a method, with what distinguishes it and nothing else.

Learners are found by name: a module here that defines a `NetLearner` with a `default_name` is all that a new one needs,
beside its configs/learner/<name>.yaml. `from ccsi.learners import CCSI` imports the module that defines the class.
"""

import difflib
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ccsi.errors import UserError
from ccsi.learners.base import Loss, NetLearner, Stored
from ccsi.learners.parts.exemplars import ExemplarBudget

__all__ = ["ExemplarBudget", "Loss", "NetLearner", "Stored", "all_learners", "find_learner"]


def classes() -> Iterator[type]:
    """The classes that the modules of this package define, module by module in alphabetical order."""
    for module in iter_modules(__path__, f"{__name__}."):
        yield from (
            value
            for value in vars(import_module(module.name)).values()
            if isinstance(value, type) and value.__module__ == module.name
        )


def all_learners() -> dict[str, type[NetLearner]]:
    """Every learner by its `default_name`, in alphabetical order."""
    found = [one for one in classes() if issubclass(one, NetLearner) and vars(one).get("default_name")]
    return {learner.default_name: learner for learner in sorted(found, key=lambda one: one.default_name)}


def find_learner(name: str) -> type[NetLearner]:
    """The learner whose `default_name` is `name`.

    Raises:
        UserError: there is none.
    """
    learners = all_learners()
    if name not in learners:
        near = difflib.get_close_matches(name, learners, n=1)
        raise UserError(
            f"learner={name} is not a learner; "
            + (f"did you mean {near[0]}?" if near else f"expected {', '.join(learners)}.")
        )
    return learners[name]


def __getattr__(name: str) -> Any:
    """The class `name` of one of the modules, for `_target_: ccsi.learners.<name>` and for imports."""
    if not name.startswith("_"):
        for found in classes():
            if found.__name__ == name:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
