"""A configuration against the type hints of the callables that it names, and hints in the words of a message."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from typing import Any, Literal, Union

import annotated_types
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError
from typing_extensions import get_protocol_members, is_protocol, is_typeddict  # typing's own differ, or are newer

from ccsi.config.imports import explain_import, import_name
from ccsi.config.tree import unknown_key
from ccsi.config.trust import check_target, is_own, walk
from ccsi.errors import UserError

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}
"""Types that a value is written as, and their names in a message."""
RESERVED = re.compile(r"\._(?:target|partial|args|convert|recursive)_(?:\.|$)")
"""Keys that no plain value has."""
BOUNDS = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=", annotated_types.Lt: "<"}


PLAIN = (int, float, str, bool, bytes, complex, type(None), list, tuple, set, dict, Path)
"""Types of values; any other class is made from a node with a `_target_`."""


def check(node: Mapping[str, Any], prefix: str = "", wanted: Any = Any) -> None:
    """Raise for the first key, missing value, type or range that does not fit the type hints of a node's `_target_`.

    Args:
        prefix: the node's own key, with a dot behind it. wanted: the type hint of what the node stands for.
    """
    name = f"{prefix}_target_={node['_target_']}"
    try:
        target = target_of(node, prefix)
        hints, required, others = signature_of(target)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of a user's module raises
        reason = " ".join(explain_import(error, str(node["_target_"]).rpartition(".")[0]).split())
        raise UserError(f"{name}: expected the full name of a callable ({reason}).") from error
    _check_kind(node, target, prefix, wanted)
    present = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    for key, value in present.items():
        full = f"{prefix}{key}"
        hint = hints.get(key, others) if isinstance(key, str) and not key.startswith("_") else None
        if hint is None:
            raise UserError(unknown_key(full, {prefix + k: None for k in hints}))
        if value == "???":
            raise UserError(f"{full} is not set; expected {describe(hint)}: give {full}=… on the command line.")
        _check_value(value, hint, full)
    later: Iterable[str] = ()  # what a factory takes when it is called: its protocol, if it has one, says what
    if node.get("_partial_") and prefix:
        is_protocol = getattr(wanted, "_is_protocol", False)
        later = inspect.signature(wanted.__call__).parameters if is_protocol else required
    if missing := required - present.keys() - set(later):
        raise UserError(f"{prefix}{min(missing)} is missing in the configuration of {target.__qualname__}.")


def _check_value(value: Any, hint: Any, full: str) -> None:
    if isinstance(value, dict) and "_target_" in value:
        if not (wanted := [one for one in members(hint) if is_object(one)]):
            raise UserError(f"{full}: expected {describe(hint)}, not a group of settings with a _target_.")
        check(value, full + ".", wanted[0])
    elif isinstance(value, list) and any(isinstance(item, dict) and "_target_" in item for item in value):
        for number, item in enumerate(value):
            _check_value(item, _item_hint(hint), f"{full}.{number}")
    elif isinstance(hint, type) and hint.__module__.startswith("ccsi.") and not is_typeddict(hint):
        raise UserError(f"{full}: expected a group of settings with a _target_, as --show prints it.")
    elif found := next((key for key, _ in walk(value, full) if RESERVED.search(key.removeprefix(full))), None):
        raise UserError(f"{found}: expected {describe(hint)} for {full}, without a _target_ inside.")
    else:
        try:
            adapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            raise UserError(f"{full}={shown(value)}: expected {describe(hint)}.") from error


def _check_kind(node: Mapping[str, Any], target: Any, prefix: str, wanted: Any) -> None:
    """Raise UserError if what a node makes is known not to be what its key is for."""
    later = node.get("_partial_", False)
    if not isinstance(later, bool):
        raise UserError(f"{prefix}_partial_={shown(later)}: expected true or false.")
    if wanted is Any or not isinstance(wanted, type):
        return
    made = target if inspect.isclass(target) else typing.get_type_hints(target).get("return", None if later else object)
    if later:
        if "__call__" not in dir(wanted):
            raise UserError(f"{prefix}_partial_=true: expected false, because a {wanted.__name__} is made at once.")
        wanted = typing.get_type_hints(wanted.__call__).get("return")
    if isinstance(made, type) and isinstance(wanted, type) and not fits(made, wanted):
        raise UserError(f"{prefix}_target_={node['_target_']}: expected a {wanted.__name__}, or what returns one.")


def fits(made: type, wanted: type) -> bool:
    """Whether a class is, or inherits from, the wanted one; it may also have all methods of a wanted protocol."""
    if not is_protocol(wanted):
        return issubclass(made, wanted)
    return all(any(name in vars(base) for base in made.__mro__) for name in get_protocol_members(wanted))


def members(hint: Any) -> list[Any]:
    """The types of a union, without the ranges of annotated ones."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [one for member in typing.get_args(hint) for one in members(member)]
    return [hint]


def is_object(hint: Any) -> bool:
    """Whether a type hint is of something made by a call: a class or a callable, not a plain value."""
    is_class = isinstance(hint, type) and hint not in PLAIN and not is_typeddict(hint)
    return hint is Any or typing.get_origin(hint) is Callable or (is_class and typing.get_origin(hint) is None)


def _item_hint(hint: Any) -> Any:
    """The type hint of a list's entries; that of no value if it is no list's."""
    for one in members(hint):
        if one is Any:
            return Any
        if typing.get_origin(one) in (list, Sequence) and typing.get_args(one):
            return typing.get_args(one)[0]
    return hint


def target_of(node: Mapping[str, Any], prefix: str = "") -> Any:
    """The callable that a node of the tree is for; raises what its import raises.

    A name from a file is imported only if it is this package's own, or if the user trusts it (`ccsi.config.trust`);
    otherwise a UserError says so. Code of this package may put the callable itself in place of its name.
    """
    target = node["_target_"]
    if callable(target):
        return target
    module, _, attribute = str(target).rpartition(".")
    if not module or not isinstance(target, str):
        raise ValueError("a module, a dot and a name")
    check_target(target, f"{prefix}_target_")
    return getattr(import_module(module if is_own(target) else import_name(module)), attribute)


@cache
def adapter(hint: Any) -> TypeAdapter[Any]:
    """A checker for a type hint, to be used strictly: no strings as numbers, no NaN, no infinity."""
    config = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
    try:
        return TypeAdapter(hint, config=config)
    except PydanticUserError:  # a TypedDict by itself carries its own
        return TypeAdapter(hint)
    except SchemaError:  # a protocol, of which no plain value is an instance
        plain: Any = reduce(or_, [one for one in members(hint) if not is_protocol(one)] or [NoValue])
        return TypeAdapter(plain, config=config)


class NoValue:
    """The type of no plain value."""


@cache
def signature_of(target: Callable[..., Any]) -> tuple[dict[str, Any], frozenset[str], Any]:
    """Type hints by parameter, the parameters without default, and the hint of any other keyword (None: not taken)."""
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    others = [hints.get(p.name, Any) for p in parameters if p.kind == p.VAR_KEYWORD]
    required = frozenset(p.name for p in named if p.default is p.empty)
    return {p.name: hints.get(p.name, Any) for p in named}, required, others[0] if others else None


def is_text(hint: Any) -> bool:
    """Whether a type hint stands for text, or text and null, and for nothing else."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return all(one is type(None) or is_text(one) for one in typing.get_args(hint))
    return hint is str or (typing.get_origin(hint) is typing.Annotated and is_text(typing.get_args(hint)[0]))


def shown(value: Any) -> str:
    """A value as one would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(hint: Any) -> str:
    """A type hint in words: `Annotated[int, Ge(1)] | None` is "a whole number >= 1, or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [
            f"{BOUNDS[type(mark)]} {dataclasses.astuple(mark)[0]}" for mark in hint.__metadata__ if type(mark) in BOUNDS
        ]
        notes = [mark.documentation for mark in hint.__metadata__ if isinstance(mark, annotated_types.DocInfo)]
        return notes[0] if notes else f"{describe(arguments[0])} {' and '.join(bounds)}".strip()
    if origin in (Union, types.UnionType):
        return ", or ".join(map(describe, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(shown, arguments))
    if origin in (list, Sequence):
        return f"a list, each entry {describe(arguments[0])}" if arguments else "a list"
    if is_typeddict(hint):
        return "{" + ", ".join(f"{key}: …" for key in hint.__annotations__) + "}"
    return WORDS.get(hint, "a group of settings" if isinstance(hint, type) else str(hint))
