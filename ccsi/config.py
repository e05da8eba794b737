"""From what was typed to checked, plain objects. The only module that knows Hydra.

The tree under `configs/` is composed with the overrides given; every node with a `_target_` is then
checked against that callable's own type hints, so a setting's type and range are declared once, where
the setting is used, and every mistake is told with its full key before any work starts.
"""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Union

import annotated_types
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_typeddict  # typing's own knows only typing's own

from ccsi.errors import UserError

Config = dict[str, Any]


def config_dir() -> Path:
    """The folder of the config tree: `configs/` of the checkout, or its copy in an installed package."""
    checkout = Path(__file__).resolve().parents[1] / "configs"
    return checkout if checkout.is_dir() else Path(str(files("ccsi.configs")))


def is_group(key: str) -> bool:
    """Whether a key is chosen as a whole from the files of a folder: `dataset`, `learner`, …"""
    return (config_dir() / key).is_dir()


def choices(group: str) -> list[str]:
    """What a group can be set to; a file called `common` is only a part of its neighbours."""
    files_of_group = (path.relative_to(config_dir() / group) for path in (config_dir() / group).rglob("*.yaml"))
    return sorted(str(path.with_suffix("")) for path in files_of_group if path.stem != "common")


def load(overrides: Sequence[str], name: str = "config") -> Config:
    """Compose `configs/<name>.yaml` with `overrides` (Hydra's syntax) into a plain, resolved dict.

    Raises:
        UserError: an unknown key or group, or an override that cannot be parsed.
    """
    for override in parse(overrides):
        if name != "sweep" and override.key_or_group.partition(".")[0] == "sweep":
            raise UserError(f"{override.input_line}: expected no setting of sweeps; they are for python tune/sweep.py.")
        value: Any = override.value()
        is_choice = all(isinstance(name, str) for name in (value if isinstance(value, list) else [value]))
        if is_group(override.key_or_group) and not override.is_delete() and not is_choice:
            raise UserError(f"{override.input_line}: expected one of {override.key_or_group}'s choices; see --help.")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base=None):
        try:
            cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
            chosen = cfg.hydra.runtime.choices
            OmegaConf.set_struct(cfg, False)
            del cfg["hydra"]
            if "name" in cfg and cfg.name is None:
                cfg.name = f"{chosen.dataset}-{chosen.learner}"
            if name != "sweep":  # what an experiment says of sweeps
                cfg.pop("sweep", None)
            plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, overrides, name)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's syntax, one value each.

    Raises:
        UserError: one that cannot be read, or has several values.
    """
    read = []
    for text in overrides:
        try:
            read.append(OverridesParser.create().parse_override(text))
        except (HydraException, OmegaConfBaseException) as error:
            several = "," in text.partition("=")[2]
            raise UserError(
                f"{text} cannot be read; expected key=value, with "
                + ("[…] around a list." if several else "quotes around unusual signs: key='\"a value\"'.")
            ) from error
    for text, override in zip(overrides, read, strict=True):
        if override.is_sweep_override():
            raise UserError(f"{text} has several values; expected one (a list is [1,2]; sweeps have sweep.space).")
    return read


def apply(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted keys set; every key must exist already.

    Raises:
        UserError: a key that `config` does not have.
    """
    tree = OmegaConf.create(config)
    for key, value in changes.items():
        if key not in set(flat(config)) | set(inner_keys(config)):
            raise UserError(unknown_key(key, config))
        OmegaConf.update(tree, key, value, merge=False)
    plain = OmegaConf.to_container(tree)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a plain config that holds a value, with it."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return leaves


def inner_keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a plain config that holds other keys."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield f"{prefix}{key}"
            yield from inner_keys(value, f"{prefix}{key}.")


def check(config: Config) -> None:
    """Check every value against the type hints of the callable it is for.

    Raises:
        UserError: the first wrong key, missing value, type or range, with the full key.
    """
    _check_node(config, "", Any)


def build(config: Config) -> Any:
    """Check `config` and make the objects: for a run's config, `ccsi.experiment.run` ready to be called.

    Raises:
        UserError: see `check`.
    """
    check(config)
    try:
        made = instantiate(config, _convert_="all")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise UserError(str(cause)) from error
        raise
    # a run writes down the configuration it was made from
    return partial(made, config=config) if "config" in inspect.signature(made).parameters else made


def _check_node(node: Mapping[str, Any], prefix: str, wanted: Any) -> None:
    module, _, attribute = str(node["_target_"]).rpartition(".")
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{prefix}_target_={node['_target_']}: expected the full name of a callable.") from error
    hints, required, open_ended = signature_of(target)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in given.items():
        full = prefix + key
        if key not in hints and not open_ended:
            raise UserError(unknown_key(full, {prefix + k: None for k in hints}))
        if value == "???":
            raise UserError(f"{full} is not set; expected {describe(hints[key])}: give {full}=… on the command line.")
        _check_value(value, hints.get(key, Any), full)
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


WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
"""Types a value is written as, and how they are called in a message."""


def adapter(hint: Any) -> TypeAdapter[Any]:
    """A checker for a type hint, to be used strictly: no strings as numbers, no NaN, no infinity."""
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))
    except PydanticUserError:  # a TypedDict by itself carries its own
        return TypeAdapter(hint)


@cache
def signature_of(target: Callable[..., Any]) -> tuple[dict[str, Any], frozenset[str], bool]:
    """Type hints by parameter, the parameters without default, and whether it takes any keyword."""
    parameters = inspect.signature(target).parameters
    owner = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(owner, include_extras=True)
    named = {key: hints.get(key, Any) for key, p in parameters.items() if p.kind != p.VAR_KEYWORD}
    required = frozenset(key for key, p in parameters.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD)
    return named, required, len(named) < len(parameters)


def shown(value: Any) -> str:
    """A value as one would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def describe(hint: Any) -> str:
    """A type hint in words: `Annotated[int, Ge(1)] | None` is "a whole number >= 1, or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        marks = {annotated_types.Ge: ">=", annotated_types.Gt: ">", annotated_types.Le: "<=", annotated_types.Lt: "<"}
        bounds = []
        for mark in arguments[1:]:
            for kind, sign in marks.items():
                if isinstance(mark, kind):
                    bounds.append(f"{sign} {getattr(mark, kind.__name__.lower())}")
        return " ".join([describe(arguments[0]), " and ".join(bounds)]).strip()
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(shown, arguments))
    if origin in (list, Sequence) or (origin is not None and origin.__name__ in ("list", "Sequence")):
        return f"a list, each entry {describe(arguments[0])}" if arguments else "a list"
    if is_typeddict(hint):
        return "{" + ", ".join(f"{key}: …" for key in hint.__annotations__) + "}"
    return WORDS.get(hint, "a group of settings" if isinstance(hint, type) else str(hint))


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    all_keys = [one for one in (*flat(known), *inner_keys(known)) if not one.startswith("sweep.space.")]
    if key in all_keys:  # what was typed for it is at fault
        inside = [one.removeprefix(f"{key}.") for one in all_keys if one.startswith(f"{key}.") and "._" not in one]
        return f"{key} has nothing of the name typed inside it; expected some of {', '.join(inside)}."
    near = difflib.get_close_matches(key, all_keys, n=1, cutoff=0.5)
    return f"{key} is not a setting; " + (f"did you mean {near[0]}?" if near else "see --help for the settings.")


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
    """The configuration a command line asks for: overrides, or a complete .yaml file first and changes to it.

    Raises:
        UserError: see `load`; also a file that cannot be read, or changes to it that are not key=value.
    """
    files_given = [a for a in arguments if "=" not in a and a.endswith((".yaml", ".yml"))]
    if not files_given:
        return load(arguments, name)
    changes = [a for a in arguments if a not in files_given]
    try:
        tree = OmegaConf.to_container(OmegaConf.load(files_given[0]), resolve=True)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{files_given[0]}: cannot be read as a configuration ({type(error).__name__}).") from error
    if len(files_given) > 1 or not isinstance(tree, dict) or "_target_" not in tree:
        raise UserError(
            f"{files_given[-1]}: expected one file with a run's complete configuration, as --show prints it."
        )
    return apply({str(k): v for k, v in tree.items()}, {o.key_or_group: o.value() for o in parse(changes)})


def to_yaml(config: Config) -> str:
    """A configuration as the text of a file that `from_arguments` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(config))


def groups(name: str = "config") -> list[str]:
    """What can be chosen as group=name on the command line of `configs/<name>.yaml`."""
    entries = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())["defaults"]
    found = {key for entry in entries if isinstance(entry, dict) for key in entry if is_group(key)}
    return sorted(found.union(*(groups(entry) for entry in entries if isinstance(entry, str) and entry != "_self_")))


def groups_help(name: str = "config") -> str:
    """The config groups of `configs/<name>.yaml` and their choices, a line each."""
    return "\n".join(f"  {group:11} {', '.join(choices(group))}" for group in groups(name))
