"""What there is; the same as --help.

What a learner, a data set or a network is, and its settings, is taken from the docstring and the type hints of the
object that its configuration names, so that it cannot drift from what is checked and done.
"""

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any, get_type_hints

from ccsi.cli._options import Options

WIDTH = 80

OVERVIEW = """\
Data-free class-incremental learning: CCSI and its rivals on one protocol.

  ccsi COMMAND [key=value …] [options]

Commands:
{commands}

ccsi COMMAND --help explains a command, ccsi run learner=ewc --help a learner."""


def main(arguments: Sequence[str]) -> int:
    """`ccsi help`: what there is. `ccsi help COMMAND …` is `ccsi COMMAND … --help`."""
    from ccsi import cli

    named = [argument for argument in arguments if argument not in ("-h", "--help")]
    if named and named[0] != "help":
        code: int = cli.command(named[0]).main([*named[1:], "--help"])
        return code
    lines = [(name, (cli.command(name).__doc__ or "").partition("\n")[0]) for name in cli.commands()]
    show(OVERVIEW.format(commands="\n".join(wrapped(f"{name:<8} {line}", 2, 11) for name, line in lines)))
    return 0


def show(text: str) -> None:
    """Print text that may be long: a reader such as `head` may close the pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its exit


def page(text: str, name: str, options: Options) -> str:
    """A subcommand's help: of the choices of groups among its overrides, or, without any, `text`.

    Args:
        text: the subcommand's own, with a place for `groups`. name: of its tree, `configs/<name>.yaml`.
        options: its command line.
    """
    from ccsi import config

    typed = dict(override.split("=", 1) for override in options.overrides if "=" in override)
    chosen = {group: choice for group, choice in typed.items() if choice in known_choices(group, name)}
    if not chosen:
        return text.format(groups=groups(name))
    tree = config.load([f"{group}={choice}" for group, choice in chosen.items()], name)
    parts = []
    for group, choice in chosen.items():
        parts += [f"{group}={choice}", wrapped(leading_comment(group, choice, options))]
        if isinstance(tree.get(group), Mapping) and "_target_" in tree[group]:
            parts += describe_choice(group, choice, tree[group])
        else:
            rest = [f"{other}={its}" for other, its in chosen.items() if other != group]
            parts.append(describe_changes(group, choice, config.load(rest, name), tree))
    return "\n\n".join(part for part in parts if part)


def known_choices(group: str, name: str) -> list[str]:
    """What `group` can be set to under `configs/<name>.yaml`; nothing, if it is no group there."""
    from ccsi import config

    return config.choices(group) if group in config.groups(name) else []


def groups(name: str) -> str:
    """The groups of `configs/<name>.yaml` and their choices, wrapped."""
    from ccsi import config

    return "\n".join(wrapped(f"{group:11} {', '.join(config.choices(group))}", 2, 14) for group in config.groups(name))


def describe_choice(group: str, choice: str, node: Mapping[str, Any]) -> list[str]:
    """What `group=choice` is: its class's docstring, and its keys in the composed `node`."""
    target = target_of(node)
    keys = "\n".join([f"Settings, as {group}={choice} sets them:", *settings(node, group)])
    return [*(part if part.startswith("    ") else wrapped(part) for part in description(target)), *kept(target), keys]


def describe_changes(group: str, choice: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What `group=choice`, which is no object of its own, changes in the composed tree."""
    from ccsi import config

    old, new = config.flat(before), config.flat(after)
    changed = [key for key in new if key not in old or new[key] != old[key]]
    lines = [f"{key}={config.shown(new[key])}" for key in changed if not key.rpartition(".")[2].startswith("_")]
    return "\n".join([f"What {group}={choice} changes:", *(wrapped(line, 2, 6) for line in lines)])


def leading_comment(group: str, choice: str, options: Options) -> str:
    """The comment a choice's file begins with, as one paragraph."""
    from ccsi import config

    folders = [config.config_dir(), *options.config_dirs]
    (file, *_) = [
        folder / group / f"{choice}.yaml" for folder in folders if (folder / group / f"{choice}.yaml").exists()
    ]
    lines = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines if not line.startswith("# @package"))


def target_of(node: Mapping[str, Any]) -> Any:
    """The callable that a node of the tree is for."""
    module, _, attribute = str(node["_target_"]).rpartition(".")
    return getattr(import_module(module), attribute)


def description(target: Any) -> list[str]:
    """The paragraphs of a docstring before its sections."""
    text = inspect.cleandoc(target.__doc__ or "")
    text = re.split(r"^(?:Args|Attributes|Returns|Raises|Source):", text, maxsplit=1, flags=re.MULTILINE)[0]
    return [paragraph.rstrip() for paragraph in text.split("\n\n") if paragraph.strip()]


def kept(target: Any) -> list[str]:
    """What a learner keeps of real data, and what it is allowed beyond its tasks' own images, if declared."""
    kinds = [kind for kind in getattr(target, "stored_buffers", {}).values() if kind]
    permissions = getattr(target, "permissions", ())
    lines = [wrapped(f"Keeps of real data: {', '.join(kinds)}.")] if kinds else []
    return lines + (
        [f"Permissions: {', '.join(permissions)}."] if isinstance(permissions, tuple) and permissions else []
    )


def settings(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Lines about the keys of a node: value, type and range, what it does; then those of the nodes in it."""
    from ccsi import config

    hints = hints_of(target_of(node))
    words = documented(target_of(node), hints)
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    own = [key for key in node if not key.startswith("_") and key not in inner]
    for key, following in zip(own, [*own[1:], ""], strict=bool(own)):
        kind = config.describe(hints[key]) if key in hints else "anything"
        shown = "…" if node[key] == "???" else config.shown(node[key])
        yield wrapped(f"{prefix}.{key}={shown}  {'required; ' if shown == '…' else ''}{kind}", 2, 6)
        if key in words and words[key] != words.get(following):  # what is said of several is said once
            yield wrapped(words[key], 6, 6)
    for key, value in inner.items():
        first = (description(target_of(value)) or [""])[0]
        yield ""
        yield wrapped(f"{prefix}.{key}: {first}", 2, 4)
        yield from settings(value, f"{prefix}.{key}")


def hints_of(target: Any) -> dict[str, Any]:
    """The type hints of what a callable takes, by name, with their ranges."""
    return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)


def documented(target: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """What the docstring's `Args:` sections say of each of `names`; a class's bases are asked after itself."""
    found: dict[str, str] = {}
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        text = inspect.cleandoc(owner.__doc__ or "")
        for section in re.findall(r"^Args:\n((?:[ ]+.*\n?|\n)*)", text, flags=re.MULTILINE):
            for key, words in entries(section, names).items():
                found.setdefault(key, words)
    return found


def entries(section: str, names: Mapping[str, Any]) -> dict[str, str]:
    """The entries `name: words` or `one, other: words` of an `Args:` section, several in a line too."""
    one = "|".join(map(re.escape, names))
    found: dict[str, str] = {}
    heads = list(re.finditer(rf"(?:(?<=\n)|^|(?<=[.;]\s))\s*((?:{one})(?:, (?:{one}))*):\s", section)) if one else []
    ends = [head.start() for head in heads[1:]] + [len(section)]
    for head, end in zip(heads, ends, strict=bool(heads)):
        words = " ".join(section[head.end() : end].split()).rstrip(";")
        found |= dict.fromkeys(head[1].split(", "), words)
    return found


def wrapped(text: str, indent: int = 0, rest: int = 0) -> str:
    """Text in lines of at most `WIDTH` signs: the first indented by `indent`, the others by `rest`."""
    whole = re.sub(r"([<>]=?) (?=\d)", "\\1\N{NO-BREAK SPACE}", text if indent else " ".join(text.split()))
    lines = textwrap.wrap(
        whole, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * rest, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
