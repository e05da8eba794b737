"""A configuration as a plain nested dict: its dotted keys, changes to it, its text, targets of earlier versions."""

import difflib
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccsi.errors import UserError
from ccsi.io.files import read_bytes

Config = dict[str, Any]
LONGEST = 4 * 2**20
"""Bytes of a configuration file, and values in it, at most."""

RENAMED = {
    "ccsi.exemplars.Budget": "ccsi.learners.ExemplarBudget",
    "ccsi.synthesis.Synthesis.together": "ccsi.synthesis.Synthesis.groups_at_once",
    "learner.synthesis.together": "learner.synthesis.groups_at_once",
}
"""`_target_`s, parameters of a target, and dotted keys in files of earlier versions, and what each is called now."""


ADDED: dict[str, Any] = {
    **dict.fromkeys(("training.steps", "training.first_steps"), None),
    **dict.fromkeys(("dataset.train", "dataset.val", "dataset.test", "dataset.groups", "dataset.range"), None),
}
"""Keys that earlier versions did not have, and the value of each that changes nothing."""


def nodes(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key, whether it holds a value or other keys, and what it holds."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from nodes(value, f"{prefix}{key}.")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every dotted key that holds a value (an empty mapping is one), with the value."""
    return {key: value for key, value in nodes(config) if not (isinstance(value, Mapping) and value)}


def apply(config: Config, changes: Mapping[str, Any], resolve: bool = False) -> Config:
    """A copy of `config` with dotted keys set; every key must exist already. resolve: interpolations in it."""
    tree, known = OmegaConf.create(config), dict(nodes(config))
    for key, value in changes.items():
        if key not in known:
            raise UserError(unknown_key(key, config))
        OmegaConf.update(tree, key, value, merge=False)
    try:
        return plain(tree, resolve)
    except OmegaConfBaseException as error:
        raise UserError(f"{', '.join(changes)}: {str(error).splitlines()[0]}.") from error


def plain(tree: Any, resolve: bool = False) -> Config:
    """OmegaConf's tree as a dict, with interpolations resolved or as they are."""
    values = OmegaConf.to_container(tree, resolve=resolve)
    if not isinstance(values, dict):
        raise TypeError("expected keys with values")
    return {str(key): value for key, value in values.items()}


def read(path: Path, resolve: bool = False) -> Config:
    """The configuration in a YAML file, with the present names of targets."""
    try:
        text = read_bytes(path, LONGEST).decode()
        check_aliases(text)
        return current_targets(plain(OmegaConf.load(io.StringIO(text)), resolve))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a configuration, as --show prints it.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read ({reason}); expected a configuration, as --show prints it.") from error
    except (TypeError, ValueError, RecursionError, AssertionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read as a configuration ({type(error).__name__}).") from error


def check_aliases(text: str) -> None:
    """Raise ValueError if the aliases of a YAML text stand for more values than any configuration has."""
    if "*" in text and size_of(yaml.compose(text, yaml.SafeLoader)) > LONGEST:
        raise ValueError(f"its aliases stand for more than {LONGEST} values")


def size_of(node: yaml.Node | None, known: dict[int, float] | None = None) -> float:
    """Values in a YAML node, with those that its aliases stand for; infinite if it contains itself."""
    known = {} if known is None else known
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(size_of(one, known) for one in inner)
    return known[id(node)]


def to_yaml(config: Mapping[str, Any]) -> str:
    """The text of a file that `ccsi.config.from_arguments` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(config)))


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """The message for a key that `known` lacks, with the nearest one that it has."""
    keys = [one for one, _ in nodes(known) if not one.startswith("sweep.space.")]
    if key in keys:  # the key exists, so the mistake is in the value typed for it
        inside = [one.removeprefix(f"{key}.") for one in keys if one.startswith(f"{key}.") and "._" not in one]
        if not inside:
            return f"{key} has no place, because another setting took that of {key.rpartition('.')[0]}; expected one."
        return f"{key} has nothing of the name typed inside it; expected some of {', '.join(inside)}."
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"{key} is not a setting; " + (f"did you mean {near[0]}?" if near else "see --help for the settings.")


def current_targets(value: Any, names: Mapping[str, str] = RENAMED) -> Any:
    """A copy of a configuration from a file: targets of earlier versions, and their keys, have present `names`."""
    if isinstance(value, list):
        return [current_targets(item, names) for item in value]
    if not isinstance(value, Mapping):
        return value
    target = str(value.get("_target_"))
    keys = {key: names.get(f"{target}.{key}", str(key)).removeprefix(f"{target}.") for key in value}
    copy = {keys[key]: current_targets(item, names) for key, item in value.items()}
    return copy | ({"_target_": names[target]} if target in names else {})


def current_names(text: str) -> str:
    """The text of a file with present names for the `_target_`s and dotted keys of earlier versions."""
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return text


def original_keys(config: Mapping[str, Any]) -> Any:
    """A copy as the first version would have written it, with its names for `_target_`s and without the keys `ADDED`.

    What a hash of a configuration is made from.
    """

    def kept(node: Mapping[str, Any], prefix: str) -> Config:
        return {
            key: kept(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if (name := f"{prefix}{key}") not in ADDED or value != ADDED[name]
        }

    return current_targets(kept(config, ""), {new: old for old, new in RENAMED.items()})
