"""Values and type hints in the words of an error message."""

import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

import annotated_types
from typing_extensions import is_typeddict  # typing's own does not recognise those of typing_extensions

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
"""Types that a value is written as, and their names in a message."""
BOUNDS = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=", annotated_types.Lt: "<"}


def shown(value: Any) -> str:
    """A value as one would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(hint: Any) -> str:
    """A type hint in words: `Annotated[int, Ge(1)] | None` is "a whole number >= 1, or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [
            f"{sign} {getattr(mark, kind.__name__.lower())}"
            for mark in arguments[1:]
            for kind, sign in BOUNDS.items()
            if isinstance(mark, kind)
        ]
        return " ".join([describe(arguments[0]), " and ".join(bounds)]).strip()
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(shown, arguments))
    if origin in (list, Sequence) or (origin is not None and origin.__name__ in ("list", "Sequence")):
        return f"a list, each entry {describe(arguments[0])}" if arguments else "a list"
    if is_typeddict(hint):
        return "{" + ", ".join(f"{key}: …" for key in hint.__annotations__) + "}"
    return WORDS.get(hint, "a group of settings" if isinstance(hint, type) else str(hint))
