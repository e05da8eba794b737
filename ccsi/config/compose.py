"""The tree under `configs/`, composed with what was typed. The only module that knows Hydra."""

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccsi.config.quotes import for_the_shell, in_quotes, quoted
from ccsi.config.tree import Config, apply, flat, plain, read, unknown_key
from ccsi.config.trust import (
    FOLDERS,
    check_environment,
    check_resolvers,
    check_secrets,
    check_targets,
    named_targets,
    targets_in,
    trust_names,
)
from ccsi.config.validation import check, describe, is_text, signature_of, target_of
from ccsi.errors import UserError
from ccsi.io.paths import expand, is_folder

ADDED: list[Path] = []
"""Folders of the user's, searched after `config_dir`; as `sys.path`, they belong to the process."""


def config_dir() -> Path:
    """The folder of the config tree: `ccsi/configs/` of an installed package, or `configs/` of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"  # first: what lies beside an installed package is not ours
    return installed if installed.is_dir() else package.parent / "configs"


FOLDERS.append(config_dir)


def add_config_dir(path: Path) -> None:
    """Extend the config groups by the files in `path`: `tracking/mine.yaml`, `learner/mine.yaml`, `experiment/…`.

    What they name as `_target_` is trusted, and imported from there too: the folder is appended to `sys.path`.
    """
    folder = expand(path, "--config-dir").resolve()
    if not is_folder(folder, "--config-dir"):
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
    parsed = parse(overrides)
    for override in parsed:
        if any(re.match(r"hydra\b", part or "") for part in (override.key_or_group, override.package)):
            raise UserError(f"{override.input_line}: expected a key of a run or a sweep; Hydra's own are not used.")
        if name != "sweep" and override.key_or_group.partition(".")[0] == "sweep":
            raise UserError(f"{override.input_line}: expected no setting of sweeps; they are for ccsi sweep.")
        value: Any = override.value()
        is_choice = all(isinstance(name, str) for name in (value if isinstance(value, list) else [value]))
        if is_group(override.key_or_group) and not override.is_delete() and not is_choice:
            raise UserError(f"{override.input_line}: expected one of {override.key_or_group}'s choices; see --help.")
        trust_names(*(target for _, target in named_targets({override.key_or_group: value})))
    with hydra() as search:
        try:
            cfg = compose(name, overrides=[*(str(one.input_line) for one in parsed), *search], return_hydra_config=True)
            left_out = ("hydra",) if name == "sweep" else ("hydra", "sweep")  # what an experiment says of sweeps
            tree = OmegaConf.masked_copy(cfg, list(set(cfg) - set(left_out)))
            if tree.get("name", "") is None:
                names = (str(cfg.hydra.runtime.choices.get(key)) for key in ("dataset", "learner"))
                tree.name = "-".join(names).replace("/", "-")
            composed = plain(tree, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, overrides, name)) from error
    check_secrets(composed)
    for key, value in flat(composed).items():
        if isinstance(value, str) and "${" in value:  # a file with it could not be read back
            raise UserError(f"{key}={value}: expected text without ${{, which stands for the value of another key.")
    return as_typed(composed, overrides)


@contextmanager
def hydra() -> Iterator[list[str]]:
    """Start Hydra on `config_dir`; yields the overrides that add the user's folders."""
    folders = [f'"file://{quoted(str(folder))[1:]}' for folder in ADDED]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base=None):
        yield [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def with_dataset(overrides: Sequence[str], name: str) -> list[str]:
    """`overrides`, with the data set that can read `dataset.path` if nothing chooses one; prints which it is.

    Raises:
        UserError: nothing chooses one, and the path is neither a folder nor an .npz file.
    """
    parsed = {override.key_or_group: override for override in parse(overrides)}
    if "dataset.path" not in parsed or "dataset" in parsed or parsed["dataset.path"].value() is None:
        return list(overrides)
    with hydra() as search, suppress(HydraException, OmegaConfBaseException):  # `load` says what is wrong
        lines = [str(override.input_line) for override in parsed.values()]
        loader = GlobalHydra.instance().config_loader()
        if "dataset" in loader.compute_defaults_list(name, [*lines, *search], RunMode.RUN).overrides.override_choices:
            return list(overrides)  # an experiment does
    value = parsed["dataset.path"].value()
    text = value if isinstance(value, str) else typed_text(parsed["dataset.path"])
    path = expand(text, "dataset.path")
    choice, there = "folder" if is_folder(path, "dataset.path") else "npz", path.exists()
    if not there or (choice == "npz" and path.suffix.lower() != ".npz"):
        problem = "is neither a folder nor an .npz file" if there else "does not exist"
        raise UserError(f"dataset.path={text} {problem}; expected a folder of images or an .npz file.")
    found = {"folder": "a folder", "npz": "an .npz file"}[choice]
    print(f"dataset={choice}, because dataset.path is {found}.", file=sys.stderr)
    return [f"dataset={choice}", *overrides]


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for overrides from a file that reach beyond it: to other code, other files, the environment."""
    for override in parse(overrides):
        check_targets({override.key_or_group: override.value()})
        check_resolvers(override.input_line)
        group = override.key_or_group
        if ".." in group or (is_group(group) and ".." in str(override.value())):
            raise UserError(f"{override.input_line}: expected one of the group's choices; see --help.")


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides in Hydra's syntax, one value each, without secrets.

    A value it cannot read (`~/a`, `b (1)`) is text as it stands.
    """
    return [_parse(text) for text in overrides]


def _parse(text: str) -> Override:
    check_secrets(text)
    check_environment(text)
    parser, (key, _, value) = OverridesParser.create(), text.partition("=")
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise UserError(f"{text!r} is not UTF-8, the encoding of configurations; expected another name.")
    try:
        parsed = parser.parse_override(text)
    except (HydraException, OmegaConfBaseException) as error:
        try:
            parsed = parser.parse_override(f"{key}={in_quotes(value.strip())}")
        except (HydraException, OmegaConfBaseException, ValueError):
            form = f"key=value, and quotes around text with unusual signs: {for_the_shell(key, value)}"
            if "=" not in text:
                form = "key=value; a value with spaces is typed in quotes, as in 'dataset.path=my images'"
            if not text.isprintable():
                text, form = repr(text), "key=value in one line"
            raise UserError(f"{text} cannot be read; expected {form}.") from error
    if parsed.is_sweep_override():
        forms = f"a list is {key}=[{value}], text with a comma {for_the_shell(key, value)}; sweeps have sweep.space"
        raise UserError(f"{text} has several values; expected one ({forms}).")
    return parsed


def typed_text(override: Override) -> str:
    """The value of an override as it was typed."""
    return str(override.input_line).partition("=")[2].strip()


def as_typed(config: Config, overrides: Sequence[str], nodes: Config | None = None) -> Config:
    """`config` with the very text that was typed where text is expected but Hydra read a number or true: name=1e3.

    nodes: `config` with the targets whose type hints say what is expected, if it has none itself.
    """
    changes, nodes = {}, config if nodes is None else nodes
    for override in parse(overrides):
        *path, key = str(override.key_or_group).split(".")
        node: Any = nodes
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        value: Any = override.value()
        if value is None or isinstance(value, str) or not isinstance(node, dict) or "_target_" not in node:
            continue
        hint = None
        with suppress(Exception, SystemExit):  # `check` says what is wrong with the target
            hint = signature_of(target_of(node))[0].get(key)
        if is_text(hint) and isinstance(value, list | dict):
            advice = for_the_shell(str(override.key_or_group), typed_text(override))
            raise UserError(f"{override.input_line}: expected {describe(hint)}; text in brackets is {advice}.")
        if is_text(hint):
            changes[override.key_or_group] = typed_text(override)
    return apply(config, changes) if changes else config


def build(config: Config) -> Any:
    """Check `config` and make the objects: for a run's config, `ccsi.experiment.run` ready to be called."""
    if "_target_" not in config:
        raise UserError("_target_ is missing; expected a complete configuration, as --show prints it.")
    check(config)
    make = _made(copy.deepcopy(config))
    # a run writes down the configuration it was made from
    return partial(make, config=config) if callable(make) and "config" in inspect.signature(make).parameters else make


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
        if key == "dataset.path":
            return "dataset.path is no setting of the data set chosen; add dataset=folder or dataset=npz."
        return unknown_key(key, load([o for o in overrides if is_group(o.split("=")[0].lstrip("~"))], name))
    if "You must specify 'dataset'" in first:
        return "no data set was chosen; expected dataset.path=FOLDER, dataset.path=FILE.npz or dataset=…, see --help."
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        if f"Could not find '{group}/{choice}'" in first:
            return f"{override} names no file in configs/{group}; expected one of {', '.join(choices(group))}."
    key = getattr(error, "full_key", None)
    return f"{key}: {first}." if key and str(key) not in first else first


def from_arguments(arguments: Sequence[str], name: str = "config") -> Config:
    """The configuration a command line asks for: overrides, or a complete .yaml file and changes to it."""
    paths = [argument for argument in arguments if is_file(argument)]
    if not paths:
        return load(with_dataset(arguments, name), name)
    config = read(expand(paths[0], "FILE"), resolve=True)
    if len(paths) > 1:
        raise UserError(f"{paths[-1]}: expected one file with a run's complete configuration, as --show prints it.")
    check_root(config, paths[0])
    if config.get("report") is True:  # of earlier versions; so that report.real_images can be set
        config["report"] = {"real_images": False}
    overrides = [argument for argument in arguments if argument not in paths]
    changes = {o.key_or_group: o.value() for o in parse(overrides)}
    trust_names(*(target for _, target in named_targets(changes)))
    changed = apply(config, changes, resolve=True)
    check_secrets(changed)
    return as_typed(changed, overrides)


def is_file(argument: str) -> bool:
    """Whether an argument is a .yaml file rather than key=value: `lr=0.1/best.yaml` is one."""
    key = argument.partition("=")[0]
    return argument.endswith((".yaml", ".yml")) and (
        key == argument or Path(argument).is_file() or ("/" in key and not is_group(key.partition("@")[0].lstrip("+~")))
    )


def check_root(config: Config, where: str) -> None:
    """Raise UserError unless a configuration is of a whole run: of this package's own, or of the user's."""
    tree = yaml.safe_load((config_dir() / "config.yaml").read_text(encoding="utf-8"))
    own, target = tree["_target_"], config.get("_target_")
    is_part = not isinstance(target, str) or (target != own and target in targets_in(config_dir()))
    if is_part or config.get("_partial_") is not True:
        raise UserError(f"{where}: expected one file with a run's complete configuration, as --show prints it.")
    known = dict.fromkeys([*tree, *groups()])
    if target == own and (others := config.keys() - known.keys()):  # what only the drivers of a run set
        raise UserError(f"{where}: {unknown_key(str(min(others, key=str)), known)}")


def groups(name: str = "config") -> list[str]:
    """What can be chosen as group=name on the command line of `configs/<name>.yaml`."""
    entries = yaml.safe_load((config_dir() / f"{name}.yaml").read_text(encoding="utf-8")).get("defaults", [])
    found = {key for entry in entries if isinstance(entry, dict) for key in entry if is_group(key)}
    return sorted(found.union(*(groups(entry) for entry in entries if isinstance(entry, str) and entry != "_self_")))
