"""The tree under `configs/`, composed with what was typed. The only module that knows Hydra."""

import copy
import inspect
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccsi.config.tree import Config, apply, plain, read, unknown_key
from ccsi.config.trust import (
    FOLDERS,
    RESOLVER,
    check_resolvers,
    check_secrets,
    check_targets,
    named_targets,
    targets_in,
    trust_names,
)
from ccsi.config.validation import check, target_of
from ccsi.errors import UserError

ADDED: list[Path] = []
"""Folders of the user's, searched after `config_dir`; as `sys.path`, they belong to the process."""


def config_dir() -> Path:
    """The folder of the config tree: `configs/` of the checkout, or its copy in an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "config.yaml").is_file():
        return checkout / "configs"
    return Path(str(files("ccsi.configs")))


FOLDERS.append(config_dir)


def add_config_dir(path: Path) -> None:
    """Extend the config groups by the files in `path`: `tracking/mine.yaml`, `learner/mine.yaml`, `experiment/…`.

    What they name as `_target_` is trusted, and imported from there too: the folder is appended to `sys.path`.
    """
    folder = path.expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--config-dir={path} is not a folder; expected one with files such as learner/mine.yaml.")
    for file in sorted(folder.glob("*/**/*.yaml")):
        if (config_dir() / file.relative_to(folder)).exists():
            raise UserError(f"{file}: configs/ has a file of this name already; expected another name.")
    if folder not in ADDED:
        ADDED.append(folder)
        sys.path.append(str(folder))
    trust_names(*targets_in(folder))


def is_group(key: str) -> bool:
    """Whether a key is set as a whole from the files of a folder: `dataset`, `learner`, …"""
    return (config_dir() / key).is_dir()


def choices(group: str) -> dict[str, Path]:
    """What a group can be set to, and the file of each; one called `common` is only a part of its neighbours."""
    folders = [folder / group for folder in (config_dir(), *ADDED)]
    found = {path: folder for folder in folders for path in folder.rglob("*.yaml") if path.stem != "common"}
    return dict(sorted((str(path.relative_to(folder).with_suffix("")), path) for path, folder in found.items()))


def load(overrides: Sequence[str], name: str = "config") -> Config:
    """Compose `configs/<name>.yaml` with `overrides` (Hydra's syntax) into a plain, resolved dict.

    What the overrides name as `_target_` is trusted; for those from a file see `check_overrides`.
    """
    for override in parse(overrides):
        if re.match(r"hydra\b", override.key_or_group) or re.match(r"hydra\b", override.package or ""):
            raise UserError(f"{override.input_line}: expected a key of a run or a sweep; Hydra's own are not used.")
        if name != "sweep" and override.key_or_group.partition(".")[0] == "sweep":
            raise UserError(f"{override.input_line}: expected no setting of sweeps; they are for ccsi sweep.")
        value: Any = override.value()
        is_choice = all(isinstance(name, str) for name in (value if isinstance(value, list) else [value]))
        if is_group(override.key_or_group) and not override.is_delete() and not is_choice:
            raise UserError(f"{override.input_line}: expected one of {override.key_or_group}'s choices; see --help.")
        trust_names(*(target for _, target in named_targets({override.key_or_group: value})))
    quoted = ["'file://{}'".format(str(folder).replace("\\", "\\\\").replace("'", "\\'")) for folder in ADDED]
    search = [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base=None):
        try:
            cfg = compose(name, overrides=[*overrides, *search], return_hydra_config=True)
            left_out = ("hydra",) if name == "sweep" else ("hydra", "sweep")  # what an experiment says of sweeps
            tree = OmegaConf.masked_copy(cfg, list(set(cfg) - set(left_out)))
            if tree.get("name", "") is None:
                tree.name = "{dataset}-{learner}".format(**cfg.hydra.runtime.choices)
            composed = plain(tree, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, overrides, name)) from error
    check_secrets(composed)
    return composed


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for overrides from a file that reach beyond it: to other code, other files, the environment."""
    for override in parse(overrides):
        check_targets({override.key_or_group: override.value()})
        check_resolvers(override.input_line)
        group = override.key_or_group
        if ".." in group or (is_group(group) and ".." in str(override.value())):
            raise UserError(f"{override.input_line}: expected one of the group's choices; see --help.")


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's syntax, one value each, without secrets."""
    parsed = []
    for text in overrides:
        check_secrets(text)
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except (HydraException, OmegaConfBaseException) as error:
            several = "," in text.partition("=")[2]
            form = "[…] around a list" if several else "quotes around unusual signs: key='\"a value\"'"
            raise UserError(f"{text} cannot be read; expected key=value, with {form}.") from error
        if parsed[-1].is_sweep_override():
            raise UserError(f"{text} has several values; expected one (a list is [1,2]; sweeps have sweep.space).")
    return parsed


def build(config: Config) -> Any:
    """Check `config` and make the objects: for a run's config, `ccsi.experiment.run` ready to be called."""
    check(config)
    make = _made(copy.deepcopy(config))
    # a run writes down the configuration it was made from
    return partial(make, config=config) if "config" in inspect.signature(make).parameters else make


def _made(value: Any) -> Any:
    """The object that a checked node is for; lists of nodes as lists of objects, and any other value as it is."""
    if isinstance(value, list):
        return [_made(item) for item in value]
    if not isinstance(value, dict) or "_target_" not in value:
        return value
    make = partial(target_of(value), **{key: _made(part) for key, part in value.items() if key[0] != "_"})
    return make if value.get("_partial_") else make()


def explain(error: Exception, overrides: Sequence[str], name: str) -> str:
    """Hydra's complaint as one sentence with the full key."""
    first = str(error).strip().splitlines()[0]
    if first.startswith("Error merging override "):
        return f"{first.removeprefix('Error merging override ')} cannot take the place of what was set before."
    if found := re.search(r"Could not override '([^']+)'", first):
        key = found[1].partition("@")[0]
        if is_group(key):
            return f"{key} cannot be chosen here; expected one of the groups {', '.join(groups(name))}."
        # groups decide what keys there are
        return unknown_key(key, load([o for o in overrides if is_group(o.split("=")[0].lstrip("~"))], name))
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        if f"Could not find '{group}/{choice}'" in first:
            return f"{override} names no file in configs/{group}; expected one of {', '.join(choices(group))}."
    return first


def from_arguments(arguments: Sequence[str], name: str = "config") -> Config:
    """The configuration a command line asks for: overrides, or a complete .yaml file and changes to it."""
    paths = [a for a in arguments if "=" not in a and a.endswith((".yaml", ".yml"))]
    if not paths:
        return load(arguments, name)
    config = read(Path(paths[0]), resolve=True)
    if len(paths) > 1:
        raise UserError(f"{paths[-1]}: expected one file with a run's complete configuration, as --show prints it.")
    check_root(config, paths[0])
    changes = {o.key_or_group: o.value() for o in parse([a for a in arguments if a not in paths])}
    trust_names(*(target for _, target in named_targets(changes)))
    changed = apply(config, changes)
    if any(RESOLVER.search(text) for text in arguments):  # typed
        changed = plain(OmegaConf.create(changed), resolve=True)
    check_secrets(changed)
    return changed


def check_root(config: Config, where: str) -> None:
    """Raise UserError unless a configuration is of a whole run: of this package's own, or of the user's."""
    own, target = yaml.safe_load((config_dir() / "config.yaml").read_text())["_target_"], config.get("_target_")
    is_part = not isinstance(target, str) or (target != own and target in targets_in(config_dir()))
    if is_part or config.get("_partial_") is not True:
        raise UserError(f"{where}: expected one file with a run's complete configuration, as --show prints it.")


def groups(name: str = "config") -> list[str]:
    """What can be chosen as group=name on the command line of `configs/<name>.yaml`."""
    entries = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())["defaults"]
    found = {key for entry in entries if isinstance(entry, dict) for key in entry if is_group(key)}
    return sorted(found.union(*(groups(entry) for entry in entries if isinstance(entry, str) and entry != "_self_")))
