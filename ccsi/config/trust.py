"""Whose code a configuration may name, and what it may not hold.

A file may come from anyone, so it names only classes that this package's own configs name. Other code is the user's
choice: what the command line names (`learner._target_=my_module.MyLearner`, the files of `--config-dir`), and what the
environment variable CCSI_TRUST allows (`my_module,other.part`). Importing a module runs it, so names are checked first.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ccsi.errors import UserError

FOLDERS: list[Callable[[], Path]] = []
"""Return folders of configs whose `_target_`s are this package's own."""
TRUSTED: set[str] = set()
"""Full names of callables and modules that the user chose; as `sys.path`, they belong to the process."""
RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)
"""OmegaConf's `${resolver:…}`, or what may become one; `${key}` has no colon."""
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:")
"""OmegaConf's resolver that reads a variable of the environment."""
SECRET_NAME = re.compile(
    r"(?:^|_)(?:KEYS?|TOKENS?|PAT|PWD|CREDENTIALS?)(?:_|$)|KEYS?$|(?:^|_)(?:PASS|AUTH)$"
    r"|SECRET|PASSWORD|PASSWD|PASSPHRASE|CONNECTION_?STRING",
    re.IGNORECASE,
)
"""Environment variables that hold a secret, by their names."""
NOT_SECRET = ("PWD", "OLDPWD")
LEAST = 8  # characters of a secret: a shorter value stands in other texts by chance
IN_ADDRESS = re.compile(
    r"://[^/@\s]*:[^/@\s]*@|://.*[?&][^=&]*(?:key|token|secret|password|credential|sas|sig)[^=&]*=", re.IGNORECASE
)
"""A name with its password in an address, or a secret among its parameters."""


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """A value and all that it holds, in lists too, each with its dotted key."""
    yield key, value
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for part, one in inner:
        yield from walk(one, f"{key}.{part}" if key else str(part))


def named_targets(value: Any) -> Iterator[tuple[str, str]]:
    """The keys of all `_target_`s that are text in a value, and what they name."""
    return ((key, one) for key, one in walk(value) if key.split(".")[-1] == "_target_" and isinstance(one, str))


@cache
def targets_in(folder: Path) -> frozenset[str]:
    """What the YAML files of a folder name as `_target_`; a file that cannot be read names nothing."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*.yaml") if path.is_file())
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*[\"']?([\w.]+)", text))


def trust_names(*names: str) -> None:
    """Allow these callables, and all in these modules, in this process."""
    TRUSTED.update(names)


def trusted() -> tuple[str, ...]:
    """The callables and modules that the user allows: for `trust_names` in the workers of this process."""
    return *sorted(TRUSTED), *filter(None, map(str.strip, os.environ.get("CCSI_TRUST", "").split(",")))


def is_own(name: str) -> bool:
    """Whether a `_target_` is this package's own: its configs name it."""
    return any(name in targets_in(folder()) for folder in FOLDERS)


def is_trusted(name: str) -> bool:
    """Whether a `_target_` may be imported: it is this package's own, or the user's choice."""
    return is_own(name) or any(name == one or name.startswith(f"{one}.") for one in trusted())


def check_target(name: str, key: str) -> None:
    """Raise UserError unless a `_target_` may be imported; nothing is imported."""
    if not is_trusted(name):
        expected = f"{key}={name}: expected one of this package's own classes, as --show prints them"
        if name.startswith("ccsi."):
            raise UserError(f"{expected}.")
        module = name.rpartition(".")[0] or name
        raise UserError(f"{expected}; if it is code that you trust, put CCSI_TRUST={module} before the command.")


def check_targets(value: Any) -> None:
    """`check_target` for all `_target_`s in a value."""
    for key, name in named_targets(value):
        check_target(name, key)


def check_resolvers(value: Any) -> None:
    """Raise UserError for a `${resolver:…}` in what a file holds: it may read the environment, where secrets are."""
    for key, one in walk(value):
        for text in (key, one):
            if isinstance(text, str) and RESOLVER.search(text):
                raise UserError(
                    f"{key}={one}: expected no resolver such as ${{oc.env:…}} in a file, only ${{key}}; type the value "
                    "on the command line."
                )


def check_environment(text: str) -> None:
    """Raise UserError if typed text reads the environment by a resolver: its value would be written to files."""
    if ENVIRONMENT.search(text):
        raise UserError(
            f"{text}: expected no resolver that reads the environment, because its value is written to files; for a "
            "variable without a secret the shell has $NAME."
        )


def check_secrets(value: Any) -> None:
    """Raise UserError for text with the value of a secret environment variable, or an address with a password.

    Configurations are written to config.yaml, result.json, sweep.yaml, the journal and trackers. The message does not
    show the value.
    """
    secrets = {
        content: name
        for name, content in os.environ.items()
        if SECRET_NAME.search(name) and name not in NOT_SECRET and len(content) >= LEAST and not os.path.exists(content)
    }
    for key, one in walk(value):
        if not isinstance(one, str):
            continue
        where = key or "what was typed"
        for content, name in secrets.items():
            if content in key or content in one:
                where = where.replace(content, "…")
                raise UserError(f"{where} holds the secret of {name}, which would be written to files; leave it out.")
        if IN_ADDRESS.search(one):
            raise UserError(
                f"{where}: expected an address without name, password or key, which would be written to files; give "
                "them in the environment (AWS_ACCESS_KEY_ID, …), or a role to the machines."
            )
