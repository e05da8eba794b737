"""From what was typed to a checked Definition, and from sweep.yaml back to one."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml

import ccsi.config
from ccsi.config import Config, flat
from ccsi.errors import UserError
from ccsi.sweep.definition import Budget, Cluster, Definition, Resources, Seeds, Sweep, group_key
from ccsi.sweep.search import check_optuna
from ccsi.sweep.search_space import compared, parse, same

FREE = {"ray.address", "ray.autoscale", "ray.dashboard", "ray.num_cpus"}
FREE |= {"sweep.max_concurrent", "sweep.max_failures", "sweep.dir", "sweep.budget.hours", "sweep.budget.trials"}
"""Keys a resumed sweep may change: they say where, how fast and how far, not what comes out."""


def compose(overrides: Sequence[str]) -> Definition:
    """The definition from what was typed; `sweep.space=…` replaces the whole space, `sweep.space.KEY=…` an entry.

    Raises:
        UserError: anything wrong with a key, a value, or a candidate of the space, with its full key.
    """
    typed, entries = list[str](), list[str]()
    for override in overrides:
        if override.lstrip("+~").startswith("sweep.space."):
            entries.append(override)
        else:
            typed += ["~sweep.space", "+" + override] if override.startswith("sweep.space=") else [override]
    tree = ccsi.config.load(typed, name="sweep")
    sections = {key: tree.pop(key, None) for key in ("sweep", "resources", "ray")}
    tree.pop("resume", None)
    if entries and isinstance(sections["sweep"], dict) and isinstance(sections["sweep"].get("space"), dict):
        for entry in entries:
            _set(sections["sweep"]["space"], entry)
    space = parse(_checked(sections)[0].space)
    options = [[(d.key, str(value)) for value in d.values] for d in space if d.listed and _is_group(d.key, d.values)]
    bases = {}
    for combination in itertools.product(*options):
        fixed = {key for key, _ in combination}
        kept = [override for override in typed if override.split("=")[0] not in fixed]
        try:
            base = ccsi.config.load([*kept, *(f"{key}={value}" for key, value in combination)], name="sweep")
        except UserError as error:
            chosen = ", ".join(f"{key}={value}" for key, value in combination)
            raise UserError(f"{error} (With {chosen}.)" if chosen else str(error)) from error
        for key in ("sweep", "resources", "ray", "resume"):
            base.pop(key, None)
        bases[group_key(dict(combination), list(dict(combination)))] = base
    return define(sections, bases, list(overrides))


def _set(space: dict[str, Any], override: str) -> None:
    """Put one typed entry (`sweep.space.KEY=…`, `~sweep.space.KEY`) into a space, in place of what is there.

    A key's own dots are no levels; `sweep.space.learner.each.ccsi=…` is the space of one candidate.
    """
    (read,) = ccsi.config.parse([override])
    key, each, candidate = read.key_or_group.removeprefix("sweep.space.").partition(".each.")
    if each:
        candidates = (space.get(key) or {}).get("each")
        if not isinstance(candidates, dict):
            raise UserError(f"{override}: sweep.space.{key} compares nothing; expected sweep.space.{key}={{each: …}}.")
        space, key = candidates, candidate
    if read.is_delete():
        if key not in space:
            raise UserError(f"{override}: there is no {key} to be taken out; expected one of {', '.join(space)}.")
        del space[key]
    else:
        space[key] = read.value()


def define(
    sections: Mapping[str, Any], bases: dict[str, Config], overrides: list[str], check: bool = True
) -> Definition:
    """Check everything that can be checked without running anything; without `check` only the sweep's own sections.

    Raises:
        UserError: see `compose`.
    """
    sweep, resources, ray = _checked(sections)
    definition = Definition(sweep, resources, ray, bases, overrides, copy.deepcopy(dict(sections)))
    if check:
        _check_sweep(definition)
        _check_resources(definition)
        _check_candidates(definition)
    return definition


def _check_sweep(definition: Definition) -> None:
    sweep = definition.sweep
    for kind, seeds in (("tuning", sweep.seeds.tuning), ("reporting", sweep.seeds.reporting)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"sweep.seeds.{kind}={seeds}: expected at least one seed, none of them twice.")
    both = sorted(set(sweep.seeds.tuning) & set(sweep.seeds.reporting))
    if both:
        raise UserError(
            f"sweep.seeds.tuning and sweep.seeds.reporting share {', '.join(map(str, both))}: "
            "what is reported must come from seeds the search has not seen."
        )
    if sweep.search == "optuna":
        check_optuna(definition.space)
    if sweep.search == "grid":
        definition.listed_configs()
    check_compared(definition)
    if sweep.name is not None and (Path(sweep.name).name != sweep.name or sweep.name in (".", "..")):
        raise UserError(f"sweep.name={sweep.name}: expected a name without slashes; the place is sweep.dir.")


def _check_resources(definition: Definition) -> None:
    sweep, resources, ray = definition.sweep, definition.resources, definition.ray
    if ray.autoscale and (ray.address is None or sweep.max_concurrent is None):
        raise UserError(
            "ray.autoscale=true: expected ray.address of a cluster that starts nodes on demand, and "
            "sweep.max_concurrent, the trials that it is to make room for."
        )
    if sweep.storage is not None and resources.workers > 1:
        raise UserError(
            "resources.workers: trials of several workers need a shared sweep.dir; expected sweep.storage=null."
        )
    if resources.gpu == "auto" and ray.autoscale:
        raise UserError(
            "resources.gpu=auto: the share is measured on a GPU that is there; expected ray.autoscale=false."
        )
    if resources.gpu == "auto" and resources.workers > 1:
        raise UserError("resources.gpu=auto: the share is measured with one worker; expected a number, or workers=1.")
    if resources.gpu != "auto" and 0 < resources.gpu < 1 and resources.workers > 1:
        raise UserError(
            f"resources.gpu={resources.gpu}: NCCL joins no two workers on one card; expected a whole number."
        )
    if resources.gpu == 0 and any(str(base.get("device", "")).startswith("cuda") for base in definition.bases.values()):
        raise UserError("device=cuda, but resources.gpu is 0: say how much of a card a trial gets, resources.gpu=1.")


def _check_candidates(definition: Definition) -> None:
    """Check the configuration of a run with each candidate of the space."""
    for key, base in definition.bases.items():
        ccsi.config.check(base)
        for dimension in definition.dimensions(key):
            if dimension.key in definition.groups:
                continue
            for value in dimension.values:
                try:
                    ccsi.config.check(ccsi.config.apply(base, {dimension.key: value}))
                except UserError as error:
                    raise UserError(f"sweep.space: {error}") from error


def check_compared(definition: Definition) -> None:
    """UserError for what does not go together with a comparison on an equal budget."""
    sweep, space = definition.sweep, definition.space
    mine = compared(space)
    if mine is None:
        return
    where = f"sweep.space.{mine.key}.each"
    if mine.key not in definition.groups:
        raise UserError(f"{where}: expected a config group, such as learner; {mine.key} is none.")
    for key, value, wanted in (
        ("search", sweep.search, "random"),
        ("top_k", sweep.top_k, 1),
        ("scheduler", sweep.scheduler, "none"),
        ("minimize", sweep.minimize, None),
        ("budget.hours", sweep.budget.hours, None),
        ("budget.trials", sweep.budget.trials, None),
        ("patience", sweep.patience, None),
        ("warm_start", sweep.warm_start, []),
    ):
        if value != wanted:
            raise UserError(
                f"sweep.{key}={ccsi.config.shown(value)}: {where} compares on an equal budget; "
                f"expected {ccsi.config.shown(wanted)}."
            )
    if definition.resources.gpu == "auto":
        raise UserError(f"resources.gpu=auto: {where} has trials of several sizes; expected a number.")
    shared = [dimension for dimension in space if dimension is not mine]
    for name, own in mine.spaces.items():
        for dimension in (*own, *shared):
            if dimension.kind == "grid":
                raise UserError(f"{where}: {dimension.key} is a grid, as long as it is; expected choice.")
            if sum(other.key == dimension.key for other in (*own, *shared)) > 1:
                raise UserError(f"{where}.{name}.{dimension.key}: {dimension.key} is swept for all; expected it once.")
            if ccsi.config.is_group(dimension.key):
                raise UserError(f"{where}.{name}.{dimension.key}: expected a value, not a config group.")


def _checked(sections: Mapping[str, Any]) -> tuple[Sweep, Resources, Cluster]:
    """The three sections as objects, their types and ranges checked against `ccsi.sweep.definition`."""
    here = Sweep.__module__
    for key in ("sweep", "resources", "ray"):
        if not isinstance(sections.get(key), Mapping):
            raise UserError(f"{key}={ccsi.config.shown(sections.get(key))}: expected {key}.<key>=…; see --help.")
    if not isinstance(sections["sweep"].get("seeds"), Mapping):
        raise UserError("sweep.seeds: expected sweep.seeds.tuning=[…] and sweep.seeds.reporting=[…].")
    if not isinstance(sections["sweep"].get("budget"), Mapping):
        raise UserError("sweep.budget: expected sweep.budget.hours=… or sweep.budget.trials=….")
    sweep, seeds, budget = (
        dict(part) for part in (sections["sweep"], *map(sections["sweep"].get, ("seeds", "budget")))
    )
    parts = {"seeds": {**seeds, "_target_": f"{here}.Seeds"}, "budget": {**budget, "_target_": f"{here}.Budget"}}
    nodes = {
        "sweep": {**sweep, "_target_": f"{here}.Sweep", **parts},
        "resources": {**sections["resources"], "_target_": f"{here}.Resources"},
        "ray": {**sections["ray"], "_target_": f"{here}.Cluster"},
    }
    ccsi.config.check({"_target_": f"{__name__}.sections", **nodes})
    made = Sweep(**{**sweep, "seeds": Seeds(**seeds), "budget": Budget(**budget)})
    return made, Resources(**sections["resources"]), Cluster(**sections["ray"])


def sections(sweep: Any, resources: Any, ray: Any) -> None:
    """The sweep's own sections, as a callable whose nodes `ccsi.config.check` can walk."""


def _is_group(key: str, values: Sequence[Any]) -> bool:
    return (ccsi.config.config_dir() / key).is_dir() and all(isinstance(value, str) for value in values)


def read(folder: Path, check: bool = True, key: str = "resume") -> Definition:
    """The definition an earlier call left in `folder`; see `define`. `key`: names the folder in messages.

    Raises:
        UserError: no sweep there, or its sweep.yaml is damaged.
    """
    path = folder / "sweep.yaml"
    try:
        record = yaml.safe_load(path.read_text())
        saved = {key: cast(dict[str, Any], record[key]) for key in ("sweep", "resources", "ray")}
        bases = {key: ccsi.config.current_targets(base) for key, base in record["bases"].items()}
        definition = define(saved, bases, list(record["overrides"]), check)
        return placed(replace(definition, cwd=str(record["cwd"])), folder)  # the folder may have been moved
    except UserError as error:
        raise UserError(f"{key}={folder}: {error}") from error
    except FileNotFoundError:
        raise UserError(f"{key}={folder}: there is no sweep.yaml; expected the folder of an earlier sweep.") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{key}={folder}: sweep.yaml cannot be read ({type(error).__name__}); expected it as written."
        ) from error


def resumed(folder: Path, overrides: Sequence[str]) -> Definition:
    """The definition in `folder`, with the overrides typed beside `resume=` merged in where that is harmless.

    Raises:
        UserError: an override changes what the sweep is, naming the key.
    """
    saved = read(folder)
    if not overrides:
        return saved
    again = {override.lstrip("+~").split("=")[0] for override in overrides}
    kept = [override for override in saved.overrides if override.lstrip("+~").split("=")[0] not in again]
    asked = compose([*kept, *overrides])
    before, after = (flat({**d.sections, **d.bases}) for d in (saved, asked))
    for key in [*before, *after]:
        if key not in FREE and not same(before.get(key), after.get(key)):
            raise UserError(
                f"resume={folder}: {key.lstrip('.')} was {ccsi.config.shown(before.get(key))} when the sweep began and "
                f"is now {ccsi.config.shown(after.get(key))}; leave it, or start a new sweep."
            )
    return placed(replace(asked, overrides=[*kept, *overrides], cwd=saved.cwd), folder)


def placed(definition: Definition, folder: Path) -> Definition:
    """The same sweep with `folder` (absolute) as its output folder."""
    sections = {**definition.sections, "sweep": {**definition.sections["sweep"], "dir": str(folder)}}
    return replace(definition, sweep=replace(definition.sweep, dir=str(folder)), sections=sections)
