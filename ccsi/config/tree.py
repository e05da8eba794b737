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

from ccsi.config.trust import check_resolvers
from ccsi.errors import UserError
from ccsi.io.files import read_bytes

Config = dict[str, Any]
LONGEST = 4 * 2**20
"""Bytes of a configuration file at most."""
MOST_NODES = 20_000
"""Keys and values that a file of one run's configuration may have; a shipped one has some 200."""

RENAMED = {
    "ccsi.exemplars.Budget": "ccsi.learners.ExemplarBudget",
    "ccsi.synthesis.Synthesis.together": "ccsi.synthesis.Synthesis.groups_at_once",
    "learner.synthesis.together": "learner.synthesis.groups_at_once",
}
"""`_target_`s, parameters of a target, and dotted keys in files of earlier versions, and what each is called now."""


ADDED: dict[str, Any] = {
    **dict.fromkeys(("training.steps", "training.first_steps"), None),
    **dict.fromkeys(("dataset.train", "dataset.val", "dataset.test", "dataset.groups", "dataset.range"), None),
    "dataset.nested": False,
    "dataset.draw": "together",
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
    if unknown := [key for key in changes if key not in known]:
        raise UserError(unknown_key(unknown[0], config))
    try:
        for key, value in changes.items():
            OmegaConf.update(tree, key, value, merge=False)
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
    """The configuration in a YAML file, with the present names of targets. It may refer to its own keys alone."""
    try:
        text = read_bytes(path, LONGEST).decode()
        parse_yaml(text, MOST_NODES)
        tree = OmegaConf.load(io.StringIO(text))
        check_resolvers(plain(tree))
        config = plain(tree, resolve)
        check_resolvers(config)  # parts of texts may have become one
        return current_targets(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; expected a configuration, as --show prints it.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read ({reason}); expected a configuration, as --show prints it.") from error
    except (TypeError, ValueError, RecursionError, AssertionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read as a configuration ({type(error).__name__}).") from error


class BoundedLoader(yaml.SafeLoader):
    """Plain YAML, up to a number of nodes."""

    most = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.most -= 1
        if self.most < 0:
            raise UserError("it has too many values; expected a configuration, as --show prints it.")
        return super().compose_node(parent, index)


def parse_yaml(text: str, most: int) -> Any:
    """What plain YAML says: no Python objects. `most`: nodes it may have, those that aliases repeat counted each time.

    Raises:
        UserError: it has more; yaml.YAMLError, ValueError or RecursionError: it is not YAML, or nested without end.
    """
    loader = BoundedLoader(text)
    loader.most = most
    root = loader.get_single_node()
    sizes: dict[int, float] = {}

    def size(node: Any) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # if it holds itself
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            pairs = (part if isinstance(part, tuple) else (part,) for part in inner)
            sizes[id(node)] = 1 + sum(size(one) for pair in pairs for one in pair)
        return sizes[id(node)]

    if root is None:
        return None
    if size(root) > most:
        raise UserError("its aliases repeat too many values; expected a configuration, as --show prints it.")
    return loader.construct_document(root)


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


def with_added(config: Mapping[str, Any]) -> Config:
    """A copy of a run's configuration in which the data set's key of `ADDED` that decides its images has its value."""
    node = config.get("dataset")
    if not isinstance(node, Mapping) or "draw" in node or "_target_" not in node:
        return dict(config)
    return {**config, "dataset": {**node, "draw": ADDED["dataset.draw"]}}


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
