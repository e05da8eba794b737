"""A configuration against the type hints of the callables that it names."""

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from ccsi.config.messages import describe, shown
from ccsi.config.tree import Config, unknown_key
from ccsi.errors import UserError


def check(config: Config) -> None:
    """Check every value against the type hints of the callable it is for.

    Raises:
        UserError: the first wrong key, missing value, type or range, with the full key.
    """
    _check_node(config, "", Any)


def _check_node(node: Mapping[str, Any], prefix: str, wanted: Any) -> None:
    """Check the arguments of one `_target_`. wanted: the type hint of what the node stands for."""
    module, _, attribute = str(node["_target_"]).rpartition(".")
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        name = f"{prefix}_target_={node['_target_']}"
        raise UserError(f"{name}: expected the full name of a callable ({error}).") from error
    hints, required, others = signature_of(target)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in given.items():
        full, hint = prefix + key, hints.get(key, others)
        if hint is None:
            raise UserError(unknown_key(full, {prefix + k: None for k in hints}))
        if value == "???":
            raise UserError(f"{full} is not set; expected {describe(hint)}: give {full}=… on the command line.")
        _check_value(value, hint, full)
    later: set[str] = set()  # what a factory is given when it is called: its protocol, if it has one, says what
    if node.get("_partial_") and prefix:
        is_protocol = getattr(wanted, "_is_protocol", False)
        later = set(inspect.signature(wanted.__call__).parameters) if is_protocol else set(required)
    if missing := required - given.keys() - later:
        raise UserError(f"{prefix}{min(missing)} is missing in the configuration of {target.__qualname__}.")


def _check_value(value: Any, hint: Any, full: str) -> None:
    if isinstance(value, dict) and "_target_" in value:
        _check_node(value, full + ".", hint)
    elif isinstance(value, list) and any(isinstance(item, dict) and "_target_" in item for item in value):
        for number, item in enumerate(value):
            _check_value(item, Any, f"{full}.{number}")
    elif isinstance(hint, type) and hint.__module__.startswith("ccsi.") and not is_typeddict(hint):
        raise UserError(f"{full}: expected a group of settings with a _target_, as --show prints it.")
    else:
        try:
            adapter(hint).validate_python(value, strict=True)
        except ValidationError as error:
            raise UserError(f"{full}={shown(value)}: expected {describe(hint)}.") from error


def adapter(hint: Any) -> TypeAdapter[Any]:
    """A checker for a type hint, to be used strictly: no strings as numbers, no NaN, no infinity."""
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))
    except PydanticUserError:  # a TypedDict by itself carries its own
        return TypeAdapter(hint)


@cache
def signature_of(target: Callable[..., Any]) -> tuple[dict[str, Any], frozenset[str], Any]:
    """Type hints by parameter, the parameters without default, and the hint of any other keyword (None: not taken)."""
    parameters = [p for p in inspect.signature(target).parameters.values() if p.kind != p.VAR_POSITIONAL]
    owner = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(owner, include_extras=True)
    named = {p.name: hints.get(p.name, Any) for p in parameters if p.kind != p.VAR_KEYWORD}
    required = frozenset(p.name for p in parameters if p.default is p.empty and p.name in named)
    others = [hints.get(p.name, Any) for p in parameters if p.kind == p.VAR_KEYWORD]
    return named, required, others[0] if others else None
