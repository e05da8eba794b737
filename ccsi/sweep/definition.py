"""What a sweep is: everything that decides its result, checked before it starts and kept in sweep.yaml."""

import copy
import hashlib
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

import ccsi.config
from ccsi.checks import NonNegative, NonNegativeInt, Positive, PositiveInt
from ccsi.config import Config, flat
from ccsi.errors import UserError
from ccsi.sweep.space import Dimension, Values, check_optuna, compared, grid, parse, same, sample, within

FREE = {"ray.address", "ray.autoscale", "ray.dashboard", "ray.num_cpus"}
FREE |= {"sweep.max_concurrent", "sweep.max_failures", "sweep.dir", "sweep.budget.hours", "sweep.budget.trials"}
"""Keys a resumed sweep may change: they say where, how fast and how far, not what comes out."""
SCHEDULERS = {"asha": "ASHA", "median": "median stopping"}
"""sweep.scheduler in words."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Seeds of the search (phase 1) and fresh ones for what is reported (phase 2)."""

    tuning: list[NonNegativeInt]
    reporting: list[NonNegativeInt]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When phase 1 begins no further setting; what has begun is finished, and phase 2 runs. null: no limit.

    Args:
        hours: of wall-clock time, summed over all starts of the sweep.
        trials: settings begun.
    """

    hours: Positive | None
    trials: PositiveInt | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The keys under `sweep`.

    Args:
        space: config key -> candidates; see `ccsi.sweep.space`.
        num_samples: settings drawn in phase 1 (`search=grid` takes every combination instead); where `each` of several
            is compared, for each.
        seeds: of the two phases; no seed may be in both.
        top_k: how many settings go on to phase 2; where `each` of several is compared 1 of each (and a candidate that
            has only one needs no phase 1).
        metric: what phase 1 selects on and phase 2 ranks by; always on val, larger is better.
        minimize: a second aim. With `seconds` (a run's, mean over the seeds), phase 2 takes its settings from the
            Pareto fronts of phase 1, and Optuna searches for both.
        search: how settings are chosen. `optuna` is TPE.
        scheduler: `asha` and `median` stop settings of phase 1 that lag behind others at equal tasks done.
        budget: how far phase 1 goes at most.
        patience: phase 1 begins no further setting once its best `top_k` have been the same for so many completed
            settings in a row; null is never.
        warm_start: folders of earlier sweeps over the same keys: their best `top_k` settings are tried first (and
            count among `num_samples`), and Optuna is told their scores.
        max_concurrent: trials at a time; null is as many as fit.
        max_failures: how often in a row a trial that broke off is started again without having got further.
        seed: of the search.
        name: shown in Weights & Biases as the group; null is the folder's name.
        dir: the output folder; null is `sweeps/<name>`, or `sweeps/<date-time>-<four digits>` without a name.
        storage: where runs are kept if machines share no folder, e.g. s3://bucket/folder; null: in `dir`.
        debug: run the first trial in this process, without Ray, and stop.
    """

    space: dict[str, dict[str, Any] | None]
    num_samples: PositiveInt
    seeds: Seeds
    top_k: PositiveInt
    metric: Literal["val_average_incremental", "val_macro", "val_micro"]
    minimize: Literal["seconds"] | None
    search: Literal["random", "grid", "optuna"]
    scheduler: Literal["none", "asha", "median"]
    budget: Budget
    patience: PositiveInt | None
    warm_start: list[str]
    max_concurrent: PositiveInt | None
    max_failures: NonNegativeInt
    seed: NonNegativeInt
    name: str | None
    dir: str | None
    storage: str | None
    debug: bool


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets.

    Args:
        cpu, gpu: of each of its workers. cpu: null is the run's `threads`; gpu: a fraction shares a card, `auto`
            measures how small it may be (see `ccsi.sweep.packing`).
        workers: processes that share a run (see `ccsi.sweep.train`).
    """

    cpu: Positive | None
    gpu: NonNegative | Literal["auto"]
    workers: PositiveInt = 1


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to run.

    Args:
        address: null starts Ray on this machine for the time of the sweep, `auto` or host:port joins a cluster.
        autoscale: the cluster starts nodes when trials wait for them: always `sweep.max_concurrent` trials are sent,
            however few fit the nodes that are there now.
        dashboard: serve Ray's dashboard on 127.0.0.1:8265 (local only; a cluster has its own).
        num_cpus: CPUs Ray may use locally; null is all.
    """

    address: str | None
    autoscale: bool
    dashboard: bool
    num_cpus: PositiveInt | None


@dataclass(frozen=True)
class Definition:
    """A checked sweep.

    Attributes:
        bases: the run's configuration for every combination of swept config groups, by `group_key`;
            without swept groups there is one, under "".
        overrides: as typed, without `resume`; with the current tree they give `bases` again.
        sections: the sweep's own part of the tree, as it is kept in sweep.yaml.
        cwd: where the command was typed; relative paths in the configuration start there.
    """

    sweep: Sweep
    resources: Resources
    ray: Cluster
    bases: dict[str, Config]
    overrides: list[str]
    sections: dict[str, Any] = field(repr=False)
    cwd: str = field(default_factory=os.getcwd)

    @property
    def space(self) -> list[Dimension]:
        return parse(self.sweep.space)

    @property
    def compared(self) -> str | None:
        """The key whose candidates are compared (`each` in the space), if any."""
        mine = compared(self.space)
        return None if mine is None else mine.key

    @property
    def groups(self) -> list[str]:
        """The swept keys that are config groups."""
        return [part.split("=")[0] for part in next(iter(self.bases)).split("&") if part]

    @property
    def folder(self) -> Path:
        assert self.sweep.dir is not None
        return Path(self.sweep.dir)

    @property
    def shared_data(self) -> Path:
        """Where its runs share the data, unless `share_data` names a place; removed when the sweep ends or stops."""
        return (Path(self.sweep.dir or "") if self.sweep.storage is None else self.runs) / ".data"

    @property
    def name(self) -> str:
        return self.sweep.name or Path(self.sweep.dir or "sweep").name

    @property
    def runs(self) -> Path:
        """Where runs work: a folder all machines share, or each machine's own if there is a storage."""
        if self.sweep.storage is None:
            return self.folder / "runs"
        own = hashlib.sha256(self.sweep.storage.encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"ccsi-{os.getuid()}" / own

    def listed(self) -> list[Values]:
        """The settings of phase 1 when they are known beforehand (not for Optuna)."""
        space = self.space
        mine = compared(space)
        if mine is None:
            return self._drawn(space)
        return [{mine.key: one, **values} for one in mine.values for values in self._drawn(within(space, one))]

    def _drawn(self, space: Sequence[Dimension]) -> list[Values]:
        if self.sweep.search == "grid":
            return grid(space)
        return sample(space, self.sweep.num_samples, self.sweep.seed)

    def config(self, values: Values) -> Config:
        """The run's configuration with a setting's values, before the sweep's own keys are set."""
        base = copy.deepcopy(self.bases[group_key(values, self.groups)])
        return ccsi.config.apply(base, {key: value for key, value in values.items() if key not in self.groups})

    def dimensions(self, base: str) -> list[Dimension]:
        """What is swept on the base of this key."""
        space = self.space
        mine = compared(space)
        if mine is None:
            return space
        chosen = dict(part.split("=") for part in base.split("&"))
        return within(space, chosen[mine.key])

    def run_config(self, values: Values, phase: int, seed: int, run_dir: Path) -> Config:
        """The configuration of one run: phase 1 on val alone, phase 2 with test."""
        config = self.config(values) | {"seed": seed, "run_dir": str(run_dir), "threads": self.threads(values)}
        config |= {"evaluate_test": True} if phase == 2 else {"evaluate_test": False, "report": False}
        config |= {"device": self.device(config), "workers": self.resources.workers}
        config["share_data"] = config.get("share_data") or str(self.shared_data)  # where it lies changes no result
        wandb = config.get("tracking", {}).get("wandb") if isinstance(config.get("tracking"), dict) else None
        if isinstance(wandb, dict):
            wandb |= {"group": self.name, "job_type": f"phase {phase}", "name": run_dir.name}
        return config

    def device(self, config: Config) -> str:
        """Where a run computes: what its trial was not given it must not find by itself."""
        wanted = str(config["device"])
        return "cuda" if self.resources.gpu != 0 else "cpu" if wanted == "auto" else wanted

    def threads(self, values: Values) -> int:
        """Threads of a run: its CPUs."""
        if self.resources.cpu is not None:
            return max(1, int(self.resources.cpu))
        return int(self.bases[group_key(values, self.groups)].get("threads", 1))

    def cpus(self) -> float:
        """CPUs of a trial."""
        if self.resources.cpu is not None:
            return self.resources.cpu
        return float(max(base.get("threads", 1) for base in self.bases.values()))

    def dump(self) -> str:
        """The text of sweep.yaml."""
        head = "# What this sweep is. Go on with it: python tune/sweep.py resume=<this folder>\n"
        record = {"schema": 1, "cwd": self.cwd, "overrides": self.overrides, **self.sections, "bases": self.bases}
        return head + yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


def group_key(values: Values, groups: Sequence[str]) -> str:
    """`learner=ccsi&dataset=digits`: which base a setting builds on."""
    return "&".join(f"{group}={values[group]}" for group in groups)


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
    if not check:
        return definition
    for kind, seeds in (("tuning", sweep.seeds.tuning), ("reporting", sweep.seeds.reporting)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"sweep.seeds.{kind}={seeds}: expected at least one seed, none of them twice.")
    both = sorted(set(sweep.seeds.tuning) & set(sweep.seeds.reporting))
    if both:
        raise UserError(
            f"sweep.seeds.tuning and sweep.seeds.reporting share {', '.join(map(str, both))}: "
            "what is reported must come from seeds the search has not seen."
        )
    if ray.autoscale and (ray.address is None or sweep.max_concurrent is None):
        raise UserError(
            "ray.autoscale=true: expected ray.address of a cluster that starts nodes on demand, and "
            "sweep.max_concurrent, the trials that it is to make room for."
        )
    if sweep.search == "optuna":
        check_optuna(definition.space)
    if sweep.search == "grid":
        definition.listed()
    check_compared(definition)
    if sweep.storage is not None and resources.workers > 1:
        raise UserError(
            "resources.workers: trials of several workers need a shared sweep.dir; expected sweep.storage=null."
        )
    if resources.gpu == "auto" and ray.autoscale:
        raise UserError("resources.gpu=auto: measured are trials on a GPU that is there; expected ray.autoscale=false.")
    if resources.gpu == "auto" and resources.workers > 1:
        raise UserError("resources.gpu=auto: measured are trials of one worker; expected a number, or workers=1.")
    if resources.gpu != "auto" and 0 < resources.gpu < 1 and resources.workers > 1:
        raise UserError(
            f"resources.gpu={resources.gpu}: NCCL joins no two workers on one card; expected a whole number."
        )
    if sweep.name is not None and (Path(sweep.name).name != sweep.name or sweep.name in (".", "..")):
        raise UserError(f"sweep.name={sweep.name}: expected a name without slashes; the place is sweep.dir.")
    for key, base in bases.items():
        if resources.gpu == 0 and str(base.get("device", "")).startswith("cuda"):
            raise UserError(
                "device=cuda, but resources.gpu is 0: say how much of a card a trial gets, resources.gpu=1."
            )
        ccsi.config.check(base)
        for dimension in definition.dimensions(key):
            if dimension.key in definition.groups:
                continue
            for value in dimension.values:
                try:
                    ccsi.config.check(ccsi.config.apply(base, {dimension.key: value}))
                except UserError as error:
                    raise UserError(f"sweep.space: {error}") from error
    return definition


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
    """The three sections as objects, their types and ranges checked against the declarations above."""
    here = __name__
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
    ccsi.config.check({"_target_": f"{here}.sections", **nodes})
    made = Sweep(**{**sweep, "seeds": Seeds(**seeds), "budget": Budget(**budget)})
    return made, Resources(**sections["resources"]), Cluster(**sections["ray"])


def sections(sweep: Any, resources: Any, ray: Any) -> None:
    """The sweep's own sections, as a callable whose nodes `ccsi.config.check` can walk."""


def _is_group(key: str, values: Sequence[Any]) -> bool:
    return (ccsi.config.config_dir() / key).is_dir() and all(isinstance(value, str) for value in values)


def read(folder: Path, check: bool = True, key: str = "resume") -> Definition:
    """The definition an earlier call left in `folder`; see `define`. `key`: the setting that named it.

    Raises:
        UserError: no sweep there, or its sweep.yaml is damaged.
    """
    path = folder / "sweep.yaml"
    try:
        record = yaml.safe_load(path.read_text())
        saved = {key: cast(dict[str, Any], record[key]) for key in ("sweep", "resources", "ray")}
        definition = define(saved, dict(record["bases"]), list(record["overrides"]), check)
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
