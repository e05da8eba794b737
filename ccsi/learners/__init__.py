"""One file a method, with what distinguishes it and nothing else.

Learners are found by name: a module here that defines a `NetLearner` with a `default_name` is all that a new one needs,
beside its configs/learner/<name>.yaml. `from ccsi.learners import CCSI` imports the module that defines the class.
"""

import difflib
from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ccsi.errors import UserError
from ccsi.learners.base import Loss, NetLearner, Stored
from ccsi.learners.parts.exemplars import ExemplarBudget

__all__ = ["ExemplarBudget", "Loss", "NetLearner", "Stored", "all_learners", "find_learner"]


def classes() -> list[type]:
    """The classes that the modules of this package define, module by module in alphabetical order."""
    modules = [import_module(found.name) for found in iter_modules(__path__, f"{__name__}.")]
    values = [(value, module.__name__) for module in modules for value in vars(module).values()]
    return [value for value, module in values if isinstance(value, type) and value.__module__ == module]


def all_learners() -> dict[str, type[NetLearner]]:
    """Every learner by its `default_name`, in alphabetical order."""
    found = [kind for kind in classes() if issubclass(kind, NetLearner) and vars(kind).get("default_name")]
    return by_name(sorted(found, key=lambda kind: kind.default_name), "default_name")


def by_name(kinds: Iterable[Any], attribute: str) -> dict[str, Any]:
    """`kinds` by their `attribute`; RuntimeError if two of them have the same."""
    found: dict[str, Any] = {}
    for kind in kinds:
        name = getattr(kind, attribute)
        if (first := found.setdefault(name, kind)) is not kind:
            raise RuntimeError(f"{first.__module__} and {kind.__module__} both define {name}; expected one of them.")
    return found


def find_learner(name: str) -> type[NetLearner]:
    """The learner whose `default_name` is `name`; UserError if there is none."""
    learners = all_learners()
    if name not in learners:
        near = difflib.get_close_matches(name, learners, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(learners)}."
        raise UserError(f"learner={name} is not a learner; {hint}")
    return learners[name]


def __getattr__(name: str) -> Any:
    """The class `name` of one of the modules, for `_target_: ccsi.learners.<name>` and for imports."""
    own = [] if name.startswith("_") else [kind for kind in classes() if kind.__name__ == name]
    if not own:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return by_name(own, "__name__")[name]
