"""What a checkpoint holds, compared with what its reader expects, before it is used."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ccsi.errors import UserError


@dataclass(frozen=True)
class Shaped:
    """Any tensor of a shape, in which None is any length; dtype None is any."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Maybe:
    """None, or what is like `like`."""

    like: Any


def check_saved(saved: Any, like: Any, where: str) -> None:
    """Raise UserError unless a part of a checkpoint has the keys, types, dtypes and shapes of `like`.

    Args:
        like: a value that has them, nested in dicts and lists, with `Shaped` and `Maybe` where they vary; None is
            anything. where: the name of the part.
    """
    if isinstance(like, Maybe):
        return None if saved is None else check_saved(saved, like.like, where)
    if isinstance(like, Mapping) and isinstance(saved, Mapping) and saved.keys() == like.keys():
        for key, one in like.items():
            check_saved(saved[key], one, f"{where}.{key}")
    elif isinstance(like, list | tuple) and isinstance(saved, list | tuple) and len(saved) == len(like):
        for number, one in enumerate(like):
            check_saved(saved[number], one, f"{where}.{number}")
    elif isinstance(like, Tensor | Shaped):
        if not isinstance(saved, Tensor) or not fits(saved, like):
            raise unexpected(saved, like, where)
    elif like is not None and (isinstance(like, Mapping | list | tuple) or type(saved) is not type(like)):
        raise unexpected(saved, like, where)
    return None


def fits(tensor: Tensor, like: Tensor | Shaped) -> bool:
    """Whether a tensor has the shape and dtype."""
    shape = tuple(like.shape)
    lengths = zip(tensor.shape, shape, strict=False)
    return (
        tensor.ndim == len(shape)
        and all(wanted is None or length == wanted for length, wanted in lengths)
        and like.dtype in (None, tensor.dtype)
    )


def check_range(value: int, low: int, high: int, where: str) -> None:
    """Raise UserError unless low <= value <= high."""
    if not low <= value <= high:
        raise UserError(f"checkpoint.pt: {where} is {value}; expected {low} to {high}.")


def check_count(value: int, expected: int, where: str) -> None:
    """Raise UserError unless a number is as expected."""
    if value != expected:
        raise UserError(f"checkpoint.pt: {where} is {value}; expected {expected}.")


def restore_generator(generator: torch.Generator, state: Any, where: str) -> None:
    """Set a generator's state, or raise UserError if it is none."""
    check_saved(state, generator.get_state(), where)
    try:
        generator.set_state(state)
    except RuntimeError as error:
        raise UserError(f"checkpoint.pt: {where} is no state of a random generator.") from error


def unexpected(saved: Any, like: Any, where: str) -> UserError:
    """The error for a part that is not as expected."""
    if isinstance(saved, Mapping) and isinstance(like, Mapping):
        wrong = [f"no {names(like.keys() - saved.keys())}"] if like.keys() - saved.keys() else []
        wrong += [f"unknown {names(saved.keys() - like.keys())}"] if saved.keys() - like.keys() else []
        found, expected = f"has {' and '.join(wrong)}", "the keys that this version of ccsi writes"
    else:
        found, expected = f"is {described(saved)}", described(like)
    return UserError(f"checkpoint.pt: {where} {found}; expected {expected}.")


def names(keys: Iterable[Any]) -> str:
    """Keys in a message, at most five."""
    listed = sorted(map(str, keys))
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")


def described(value: Any) -> str:
    """A value's type in the words of a message."""
    if isinstance(value, Tensor | Shaped):
        dtype = "" if value.dtype is None else f"{value.dtype} ".removeprefix("torch.")
        return f"a tensor {dtype}[{', '.join('any' if n is None else str(n) for n in value.shape)}]"
    if isinstance(value, Mapping):
        return f"a dict of {names(value) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "null" if value is None else f"{type(value).__name__} {value!r:.60}"
