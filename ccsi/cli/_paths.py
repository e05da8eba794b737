"""Paths come first on a command line, then key=value."""

import os
from collections.abc import Mapping, Sequence

from ccsi.errors import UserError


def split_paths(
    arguments: Sequence[str], names: Sequence[str], example: str, optional: int = 0
) -> tuple[list[str], list[str]]:
    """The paths for `names` (MODEL, FOLDER), and the other arguments; a path may have an equals sign if it exists.

    optional: how many of the last ones may be left out.

    Raises:
        UserError: too few or too many.
    """
    paths = list[str]()
    for argument in arguments:
        if len(paths) == len(names) or ("=" in argument and not os.path.exists(argument)):
            break
        paths.append(argument)
    others = list(arguments[len(paths) :])
    odd = [argument for argument in others if "=" not in argument]
    if odd or len(paths) < len(names) - optional:
        problem = f"{odd[0]} is one argument too many" if odd else f"{names[len(paths)]} is missing"
        raise UserError(f"{problem}; expected {' '.join(names)} and then key=value, such as {example}.")
    return paths, others


def call_with_paths(name: str, paths: Mapping[str, str], example: str, arguments: Sequence[str]) -> None:
    """Call what configs/<name>.yaml describes; paths: its keys for the leading paths, each with what help calls it."""
    from ccsi.config import build, load

    found, typed = split_paths(arguments, [*paths.values()], example)
    build(load(typed, name) | dict(zip(paths, found, strict=True)))()
