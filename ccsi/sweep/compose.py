"""From what was typed to a checked Definition, and from sweep.yaml back to one."""

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ccsi.config
from ccsi.config import Config, flat, is_group, shown
from ccsi.errors import UserError
from ccsi.sweep.definition import Budget, Cluster, Definition, Resources, Seeds, Sweep
from ccsi.sweep.search import check_optuna
from ccsi.sweep.search_space import WHOLE, Dimension, compared, parse, within

EQUAL_BUDGET: dict[str, Any] = {"search": "random", "scheduler": "none", "top_k": 1, "warm_start": []}
EQUAL_BUDGET |= dict.fromkeys(("minimize", "patience", "budget.hours", "budget.trials"))
"""Keys of `sweep` that a comparison fixes."""
SECTIONS = {"sweep": Sweep, "resources": Resources, "ray": Cluster}


def compose(overrides: Sequence[str]) -> Definition:
    """The definition from what was typed; `sweep.space=…` replaces the whole space, `sweep.space.KEY=…` an entry.

    What is typed for a swept group (`learner.synthesis.iterations=5`) holds for those of its candidates that have the
    key; a line says which.
    """
    typed, entries = list[str](), list[str]()
    for override in overrides:
        if override.lstrip("+~").startswith("sweep.space."):
            entries.append(override)
        else:
            typed += ["~sweep.space", "+" + override] if override.startswith("sweep.space=") else [override]
    if not any(
        re.match(r"[+~]*sweep\.space\b.*\bdataset *[:=]", override) for override in overrides
    ):  # it is not swept
        known, typed = len(typed), ccsi.config.with_dataset(typed, "sweep")
        overrides = [*typed[: len(typed) - known], *overrides]  # a resume does not look again
    tree = load_sections(typed)
    sections: Config = {key: tree.get(key) for key in SECTIONS}
    for entry in entries:
        make_sections(sections)  # raises unless there is a space to change
        _set(sections["sweep"]["space"], entry)
    space = parse(make_sections(sections)[0].space)
    groups = [d for d in space if d.listed and is_group(d.key) and all(isinstance(value, str) for value in d.values)]
    kept = [override for override in typed if override.split("=")[0] not in [group.key for group in groups]]
    return define(sections, load_bases(kept, groups), list(overrides))


def load_bases(typed: list[str], groups: Sequence[Dimension]) -> dict[str, Config]:
    """The runs' configurations by the candidates of swept groups, in the form of `Definition.bases`."""
    bases, lacking = dict[str, Config](), dict[str, list[str]]()
    for combination in itertools.product(*([f"{group.key}={value}" for value in group.values] for group in groups)):
        name = "&".join(combination)
        try:
            base, left_out = load_base(typed, combination)
        except UserError as error:
            raise UserError(f"{error} (With {', '.join(combination)}.)" if combination else str(error)) from error
        bases[name] = {key: value for key, value in base.items() if key not in WHOLE}
        for override in left_out:
            lacking.setdefault(override, []).append(name)
    for override, names in lacking.items():
        key, having = override.partition("=")[0], [name for name in bases if name not in names]
        if not having:
            known = dict.fromkeys(key for base in bases.values() for key, _ in ccsi.config.nodes(base))
            raise UserError(f"{ccsi.config.unknown_key(key, known)} (With any of {', '.join(names)}.)")
        print(f"{override} holds for {', '.join(having)} only: {', '.join(names)} have no such key.", file=sys.stderr)
    return bases


def load_base(typed: list[str], combination: Sequence[str]) -> tuple[Config, list[str]]:
    """The tree with candidates of the swept groups, and what was typed for a key in these groups that they lack."""
    groups = {choice.partition("=")[0] for choice in combination}
    inside = [override for override in typed if override.partition(".")[0] in groups]
    try:
        return ccsi.config.load([*typed, *combination], name="sweep"), []
    except UserError:
        others = [override for override in typed if override not in inside]
        known = dict(ccsi.config.nodes(ccsi.config.load([*others, *combination], name="sweep")))
        left_out = [override for override in inside if override.partition("=")[0] not in known]
        if not left_out:
            raise
        return ccsi.config.load([*(one for one in typed if one not in left_out), *combination], name="sweep"), left_out


def load_sections(typed: list[str]) -> Config:
    """The tree with what was typed, but for keys inside the runs' groups: a candidate of a swept group may lack them.

    `sweep.learners` becomes an entry of `sweep.space`; if no comparison is chosen, all else is as in `sweep=rivals`.
    """
    keys = [override.lstrip("+~").partition("=")[0].partition(".") for override in typed]
    inside = [bool(dot) and group not in SECTIONS and is_group(group) for group, dot, _ in keys]
    typed = [override for override, is_inside in zip(typed, inside, strict=True) if not is_inside]
    tree = ccsi.config.load(typed, name="sweep")
    if isinstance(tree.get("sweep"), dict) and tree["sweep"].get("learners") is not None:
        learners = make_sections(tree)[0].learners or []
        compares = any("each" in (entry or {}) for entry in tree["sweep"]["space"].values())
        if not compares and not any(override.startswith("sweep=") for override in typed):
            tree = ccsi.config.load([*typed, "sweep=rivals"], name="sweep")
        compare(tree["sweep"]["space"], learners)
    nodes = {key: section(tree, key, kind) for key, kind in SECTIONS.items() if isinstance(tree.get(key), Mapping)}
    return ccsi.config.as_typed(tree, typed, nodes)


def compare(space: dict[str, Any], learners: list[str]) -> None:
    """Put `sweep.learners` into a space: each of them, with a space of its own if it has one there."""
    known = ccsi.config.choices("learner")
    if not learners:
        raise UserError("sweep.learners=[]: expected the names of learners, such as [ccsi,er].")
    for learner in learners:
        if learner not in known or learners.count(learner) > 1:
            expected = f"expected names, none twice, from {', '.join(known)}"
            raise UserError(f"sweep.learners=[{','.join(learners)}]: {learner} is wrong here; {expected}.")
    own = (space.get("learner") or {}).get("each") or {}
    space["learner"] = {"each": {learner: own.get(learner) for learner in learners}}


def _set(space: dict[str, Any], override: str) -> None:
    """Put one typed entry (`sweep.space.KEY=…`, `~sweep.space.KEY`) into a space, in place of what is there.

    A key's own dots are no levels; `sweep.space.learner.each.ccsi=…` is the space of one candidate.
    """
    (parsed,) = ccsi.config.parse([override])
    key, each, candidate = parsed.key_or_group.removeprefix("sweep.space.").partition(".each.")
    if each:
        candidates = (space.get(key) or {}).get("each")
        if not isinstance(candidates, dict):
            raise UserError(f"{override}: sweep.space.{key} compares nothing; expected sweep.space.{key}={{each: …}}.")
        space, key = candidates, candidate
    if not parsed.is_delete():
        space[key] = parsed.value()
    elif key in space:
        del space[key]
    else:
        raise UserError(f"{override}: there is no {key} to be taken out; expected one of {', '.join(space)}.")


def define(sections: Config, bases: dict[str, Config], overrides: list[str], check: bool = True) -> Definition:
    """Check everything that can be checked without running anything; without `check` only the sweep's own sections."""
    definition = Definition(*make_sections(sections), bases, overrides)
    if check:
        _check_sweep(definition)
        _check_compared(definition)
        _check_resources(definition)
        _check_candidates(definition)
    return definition


def make_sections(tree: Mapping[str, Any]) -> tuple[Sweep, Resources, Cluster]:
    """The sweep's own sections as objects, their types and ranges checked against `ccsi.sweep.definition`."""
    nodes = {key: section(tree, key, kind) for key, kind in SECTIONS.items()}
    for part, kind, expected in (
        ("seeds", Seeds, "sweep.seeds.tuning=[…] and sweep.seeds.reporting=[…]"),
        ("budget", Budget, "sweep.budget.hours=… or sweep.budget.trials=…"),
    ):
        nodes["sweep"][part] = section(tree["sweep"], part, kind, f"sweep.{part}: expected {expected}.")
    if nodes["sweep"].get("metric") == "val_macro":  # its name in earlier versions
        nodes["sweep"]["metric"] = "val_macro_over_tasks"
    space, nodes["sweep"]["space"] = nodes["sweep"].get("space"), {}  # its candidates may be nodes, which a run builds
    entries = space.items() if isinstance(space, dict) else [(None, space)]
    if not all(isinstance(key, str) and isinstance(entry, dict | None) for key, entry in entries):
        raise UserError(f"sweep.space={shown(space)}: expected KEY: {{choice: [a, b]}}, or another kind; see --help.")
    sweep, resources, ray = ccsi.config.build({"_target_": sections, "_partial_": True, **nodes})()
    return replace(sweep, space=dict(entries)), resources, ray


def sections(sweep: Sweep, resources: Resources, ray: Cluster) -> tuple[Sweep, Resources, Cluster]:
    """What `make_sections` has `ccsi.config.build` call."""
    return sweep, resources, ray


def section(tree: Mapping[str, Any], key: str, kind: type, message: str = "") -> Config:
    """A section of a tree as a node of class `kind` that `ccsi.config.build` takes; `message`: if it has no keys."""
    if not isinstance(tree.get(key), Mapping):
        raise UserError(message or f"{key}={shown(tree.get(key))}: expected {key}.<key>=…; see --help.")
    if "_target_" in tree[key]:
        raise UserError(f"{key}._target_ is not a setting; see --help for the settings.")
    return {**tree[key], "_target_": kind}


def _check_sweep(definition: Definition) -> None:
    sweep = definition.sweep
    tuning, reporting = sweep.seeds.tuning, sweep.seeds.reporting
    for kind, seeds in (("tuning", tuning), ("reporting", reporting)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"sweep.seeds.{kind}={seeds}: expected at least one seed, none of them twice.")
    if both := sorted({*tuning} & {*reporting}):
        raise UserError(
            f"sweep.seeds.tuning and sweep.seeds.reporting share {', '.join(map(str, both))}: "
            "what is reported must come from seeds the search has not seen."
        )
    if sweep.search == "optuna":
        check_optuna(definition.space)
    if sweep.search == "grid":
        definition.listed_configs()  # raises for a range


def _check_resources(definition: Definition) -> None:
    sweep, ray, gpu = definition.sweep, definition.ray, definition.resources.gpu
    several = definition.resources.workers > 1
    if ray.autoscale and (ray.address is None or sweep.max_concurrent is None):
        raise UserError("ray.autoscale=true: expected ray.address of an autoscaling cluster, and sweep.max_concurrent.")
    if sweep.storage is not None and several:
        raise UserError("resources.workers: several workers need a shared sweep.dir; expected sweep.storage=null.")
    if gpu == "auto" and ray.autoscale:
        raise UserError("resources.gpu=auto: the share is measured on a GPU at hand; expected ray.autoscale=false.")
    if gpu == "auto" and several:
        raise UserError("resources.gpu=auto: the share is measured with one worker; expected a number, or workers=1.")
    if gpu != "auto" and 0 < gpu < 1 and several:
        raise UserError(f"resources.gpu={gpu}: NCCL joins no two workers on one card; expected a whole number.")
    if gpu == 0 and any(str(base.get("device", "")).startswith("cuda") for base in definition.bases.values()):
        raise UserError("device=cuda, but resources.gpu is 0: say how much of a card a trial gets, resources.gpu=1.")


def _check_candidates(definition: Definition) -> None:
    """Check the configuration of a run with each candidate of the space."""
    space, arms = definition.space, compared(definition.space)
    for key, base in definition.bases.items():
        ccsi.config.check_root(base, "sweep")
        ccsi.config.check(base)
        groups = dict(part.split("=") for part in key.split("&") if part)
        for dimension in space if arms is None else within(space, groups[arms.key]):
            for value in () if dimension.key in groups else dimension.values:
                try:
                    ccsi.config.check(ccsi.config.apply(base, {dimension.key: value}))
                except UserError as error:
                    raise UserError(f"sweep.space: {error}") from error


def _check_compared(definition: Definition) -> None:
    """UserError for what a comparison on an equal budget excludes."""
    space, sweep = definition.space, flat(asdict(definition.sweep))
    arms = compared(space)
    if arms is None:
        return
    where = f"sweep.space.{arms.key}.each"
    if arms.key not in definition.groups:
        raise UserError(f"{where}: expected a config group, such as learner; {arms.key} is none.")
    for key, wanted in EQUAL_BUDGET.items():
        if sweep[key] != wanted:
            problem = f"{where} compares on an equal budget; expected {shown(wanted)}."
            raise UserError(f"sweep.{key}={shown(sweep[key])}: {problem}")
    if definition.resources.gpu == "auto":
        raise UserError(f"resources.gpu=auto: {where} has trials of several sizes; expected a number.")
    shared = [dimension for dimension in space if dimension is not arms]
    for name, own in arms.spaces.items():
        keys = [dimension.key for dimension in (*own, *shared)]
        for dimension in (*own, *shared):
            if dimension.kind == "grid":
                raise UserError(f"{where}: {dimension.key} is a grid, as long as it is; expected choice.")
            if keys.count(dimension.key) > 1:
                raise UserError(f"{where}.{name}.{dimension.key}: {dimension.key} is swept for all; expected it once.")
            if is_group(dimension.key):
                raise UserError(f"{where}.{name}.{dimension.key}: expected a value, not a config group.")
