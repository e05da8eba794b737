"""What there is; the same as --help.

Data-free class-incremental learning: CCSI and its rivals on one protocol.

  ccsi COMMAND [key=value …] [options]

Commands:
{commands}

ccsi COMMAND --help explains a command, ccsi run learner=ewc --help a learner.
"""

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ccsi.errors import UserError

EXPECTED = "a command"
WIDTH = 80


def main(arguments: Sequence[str]) -> None:
    """Print help of what `arguments` name: a subcommand, or choices of its groups behind it."""
    from ccsi import cli

    name, *overrides = arguments
    module = cli.command(name)
    text = (module.__doc__ or "").strip()
    text = text.partition("\n\n")[2] or text
    if name == "help":
        rows = {command: (cli.command(command).__doc__ or "").partition("\n")[0] for command in cli.commands()}
        text = text.replace("{commands}", table(rows, 8))
    if config_name := getattr(module, "CONFIG", None):
        from ccsi import config

        groups = config.groups(config_name)
        typed = [override.split("=", 1) for override in overrides if "=" in override]
        selected = {key: choice for key, choice in typed if key in groups and choice in config.choices(key)}
        rows = {group: ", ".join(config.choices(group)) for group in groups}
        text = describe_choices(selected, config_name) if selected else text.replace("{groups}", table(rows, 11))
    print_text(text)


def print_text(text: str) -> None:
    """Print text that may be long: a reader such as `head` may close the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its exit


def table(rows: Mapping[str, str], width: int) -> str:
    """Names in a column of `width` characters, and what is said of each."""
    return "\n".join(wrapped(f"{name:{width}} {words}", 2, width + 3) for name, words in rows.items())


def load_choices(selected: Mapping[str, str], name: str) -> tuple[Mapping[str, Any], list[str]]:
    """The configuration with these choices, and the data set added where an experiment leaves it open."""
    from ccsi import config

    typed = [f"{group}={choice}" for group, choice in selected.items()]
    try:
        return config.load(typed, name), []
    except UserError:
        if "dataset" in selected:
            raise
        return config.load([*typed, "dataset=folder"], name), ["dataset=folder"]


def describe_choices(selected: Mapping[str, str], name: str) -> str:
    """What each choice by group is: its file's first comment, then its object, or what it changes in configs/<name>."""
    from ccsi import config

    tree, data = load_choices(selected, name)
    parts = []
    for group, choice in selected.items():
        comment = re.split(r"(?m)^[^#]", config.choices(group)[choice].read_text(encoding="utf-8"), maxsplit=1)[0]
        parts += [f"{group}={choice}", wrapped(re.sub(r"(?m)^[# ]+(@package.*)?", "", comment))]
        node = tree.get(group)
        if isinstance(node, Mapping) and "_target_" in node:
            target = config.target_of(node)
            parts += [part if part.startswith("    ") else wrapped(part) for part in description(target)]
            buffers = [kind for kind in getattr(target, "stored_buffers", {}).values() if kind]
            facts = {"Keeps of real data": buffers, "Permissions": getattr(target, "permissions", ())}
            parts += [wrapped(f"{fact}: {', '.join(words)}.") for fact, words in facts.items() if words]
            parts.append("\n".join([f"Settings, as {group}={choice} sets them:", *describe_keys(node, group)]))
        else:
            others = [f"{key}={value}" for key, value in selected.items() if key != group]
            old = config.flat(config.load([*others, *data], name))
            changed = {key: value for key, value in config.flat(tree).items() if key not in old or old[key] != value}
            shown = [f"{key}={config.shown(changed[key])}" for key in changed if not re.search(r"\b_\w+$", key)]
            parts.append("\n".join([f"What {group}={choice} changes:", *(wrapped(line, 2, 6) for line in shown)]))
    return "\n\n".join(part for part in parts if part)


def describe_keys(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Lines about the keys of a node: value, type and range, what it does; then those of the nodes in it."""
    from ccsi import config

    target = config.target_of(node)
    hints, words = config.signature_of(target)[0], documented(target)
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    own = [key for key in node if not key.startswith("_") and key not in inner]
    for key, following in pairwise([*own, ""]):
        value = "…  required;" if node[key] == "???" else f"{config.shown(node[key])} "
        yield wrapped(f"{prefix}.{key}={value} {config.describe(hints.get(key, Any))}", 2, 6)
        if key in words and words[key] != words.get(following):  # what is said of several is said once
            yield wrapped(words[key], 6, 6)
    for key, child in inner.items():
        first = (description(config.target_of(child)) or [""])[0]
        yield "\n" + wrapped(f"{prefix}.{key}: {first}", 2, 4)
        yield from describe_keys(child, f"{prefix}.{key}")


def description(target: Any) -> list[str]:
    """The paragraphs of a docstring before its sections."""
    text = inspect.cleandoc(target.__doc__ or "")
    text = re.split(r"(?m)^(?:Args|Attributes|Returns|Raises|Source):", text, maxsplit=1)[0]
    return [paragraph.rstrip() for paragraph in text.split("\n\n") if paragraph.strip()]


def documented(target: Any) -> dict[str, str]:
    """What the `Args:` of a docstring, and of those of a class's bases, say of the parameters of `target`.

    An entry is `name: words` or `one, other: words`; several may stand in a line.
    """
    from ccsi import config

    one = "|".join(config.signature_of(target)[0])
    found: dict[str, str] = {}
    for owner in reversed(getattr(target, "__mro__", (target,))):
        for section in re.findall(r"(?m)^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(owner.__doc__ or "")):
            _, *parts = re.split(rf"(?:(?<=\n)|^|(?<=[.;]\s))\s*((?:{one})(?:, (?:{one}))*):\s", section)
            for names, words in zip(parts[::2], parts[1::2], strict=True):
                found |= dict.fromkeys(names.split(", "), " ".join(words.split()).rstrip(";"))
    return found


def wrapped(text: str, indent: int = 0, rest: int = 0) -> str:
    """Text in lines of at most `WIDTH` characters: the first indented by `indent`, the others by `rest`."""
    whole = re.sub(r"([<>]=?) (?=\d)", "\\1\N{NO-BREAK SPACE}", text if indent else " ".join(text.split()))
    wrapper = textwrap.TextWrapper(WIDTH, " " * indent, " " * rest, break_on_hyphens=False)
    return wrapper.fill(whole).replace("\N{NO-BREAK SPACE}", " ")
