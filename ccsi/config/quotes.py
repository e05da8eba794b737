"""Text in the quotes of Hydra's syntax and of the shell."""

import re
import shlex


def quoted(value: str) -> str:
    """Text in the quotes of Hydra's syntax, which keep it as it is."""
    return '"{}"'.format(re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), value))


def in_quotes(value: str) -> str:
    """Text that Hydra cannot read, or a flat list of such, in its quotes; ValueError if it looks like anything else."""
    if value[:1] == "[" and value[-1:] == "]" and not set(value[1:-1]) & set("[]{}\"'"):
        return "[{}]".format(",".join(quoted(item.strip()) for item in value[1:-1].split(",")))
    if not value or value[0] in "[{\"'" or not value.isprintable():
        raise ValueError(value)
    return quoted(value)


def for_the_shell(key: str, value: str) -> str:
    """What to type so that `key` is set to this text."""
    return shlex.quote(f"{key}={quoted(value)}") if value else f"{key}='\"a, b\"'"
