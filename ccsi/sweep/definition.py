"""What a sweep is: everything that decides its result, checked before it starts and kept in sweep.yaml."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

import ccsi.config
from ccsi.checks import FileName, NonNegative, NonNegativeInt, Positive, PositiveInt, Seed
from ccsi.config import Config
from ccsi.sweep.events import Samples, SweepExtended, Values
from ccsi.sweep.search_space import Dimension, compared, grid, parse, sample, within


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Seeds of the search (phase 1) and fresh ones for what is reported (phase 2)."""

    tuning: list[Seed]
    reporting: list[Seed]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of phase 1: hours of wall-clock time over all starts, trials started. What has started is finished."""

    hours: Positive | None
    trials: PositiveInt | None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The keys under `sweep`.

    Args:
        name: shown in Weights & Biases as the group; null is the folder's name.
        storage: where runs are kept if machines share no folder, e.g. s3://bucket/folder; null: in `dir`.
        dir: the output folder; null is `sweeps/<name>`, or `sweeps/<date-time>-<four hex digits>` without a name.
        space: config key -> candidates; see `ccsi.sweep.search_space`.
        search: how configs are drawn. `optuna` is TPE.
        num_samples: configs drawn for phase 1, for each candidate of `each`; `search=grid` takes every combination.
        scheduler: `asha` and `median` stop trials of phase 1 that are worse than others at equal tasks done.
        metric: what phase 1 selects on and phase 2 ranks by; always on val, larger is better.
        minimize: a second aim: `seconds` of a run. Phase 2 takes Pareto fronts of phase 1, Optuna searches for both.
        budget: how far phase 1 goes at most.
        patience: phase 1 ends once its best `top_k` are the same for so many completed trials in a row; null is never.
        warm_start: earlier sweeps whose best `top_k` configs are tried first; Optuna gets all their scores.
        seed: of the search.
        seeds: of the two phases; no seed may be in both.
        top_k: how many trials phase 2 reports; with `each` it is 1, for each candidate.
        max_concurrent: trials at a time; null is as many as fit.
        max_failures: how often in a row a crashed trial is restarted without having got further.
        debug: run the first trial in this process, without Ray, and stop.
        learners: what to compare; it is put into `space` as `learner: {each: …}`.
    """

    name: FileName | None
    storage: str | None
    dir: str | None
    space: dict[str, dict[str, Any] | None]
    search: Literal["random", "grid", "optuna"]
    num_samples: Samples
    scheduler: Literal["none", "asha", "median"]
    metric: Literal["val_average_incremental", "val_macro_over_tasks", "val_macro_over_classes", "val_micro"]
    minimize: Literal["seconds"] | None
    budget: Budget
    patience: PositiveInt | None
    warm_start: list[str]
    seed: Seed
    seeds: Seeds
    top_k: PositiveInt
    max_concurrent: PositiveInt | None
    max_failures: NonNegativeInt
    debug: bool
    learners: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets.

    Args:
        cpu: of each of its workers; null is the run's `threads`.
        gpu: of each of its workers; a fraction shares a card, `auto` measures it (see `execution.gpu_packing`).
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
        autoscale: the cluster starts nodes when trials wait: `sweep.max_concurrent` are sent, however few fit now.
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
        bases: the run's configuration by swept config groups (`learner=ccsi&dataset=digits`), without any under "".
        overrides: as typed, without `resume`; with the current tree they give `bases` again.
        cwd: where the command was typed; relative paths in the configuration start there.
        begun: the `extent` with which the sweep began, if a resumed one has increased it since.
    """

    sweep: Sweep
    resources: Resources
    ray: Cluster
    bases: dict[str, Config]
    overrides: list[str]
    cwd: str = field(default_factory=os.getcwd)
    begun: SweepExtended | None = None

    @property
    def extent(self) -> SweepExtended:
        """How far the sweep goes."""
        return SweepExtended(self.sweep.num_samples, self.sweep.top_k, self.sweep.seeds.reporting)

    def with_extent(self, extent: SweepExtended) -> "Definition":
        """The same sweep, which goes so far."""
        seeds = replace(self.sweep.seeds, reporting=list(extent.reporting))
        sweep = replace(self.sweep, num_samples=extent.num_samples, top_k=extent.top_k, seeds=seeds)
        return replace(self, sweep=sweep)

    @property
    def sections(self) -> dict[str, Any]:
        """The sweep's own part of the tree."""
        return {"sweep": asdict(self.sweep), "resources": asdict(self.resources), "ray": asdict(self.ray)}

    @property
    def space(self) -> list[Dimension]:
        return parse(self.sweep.space)

    @property
    def compared(self) -> str | None:
        """The key whose candidates are compared (`each` in the space), if any."""
        return next((dimension.key for dimension in self.space if dimension.kind == "each"), None)

    @property
    def _draws(self) -> bool:
        """Whether anything in the space is drawn, and not given or crossed."""
        own = [dimension for arm in self.space for dimensions in arm.spaces.values() for dimension in dimensions]
        drawn = [d for d in (*self.space, *own) if d.kind not in ("grid", "each")]
        return self.sweep.search != "grid" and any(len(d.values) > 1 for d in drawn)

    @property
    def search(self) -> str:
        """How configs are found: `sweep.search`, but `grid` where a random search has nothing to draw."""
        return "grid" if self.sweep.search == "random" and not self._draws else self.sweep.search

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
        """Where its runs share the data, unless `share_data` names a folder; removed when the sweep ends or stops."""
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

    def listed_configs(self) -> list[Values]:
        """The configs of phase 1's trials when they are known beforehand (not for Optuna)."""
        sweep, space, arms = self.sweep, self.space, compared(self.space)
        random = partial(sample, number=sweep.num_samples, seed=sweep.seed)
        draw: Callable[[list[Dimension]], list[Values]] = grid if sweep.search == "grid" else random
        if arms is None:
            return draw(space)
        return [{arms.key: one, **values} for one in arms.values for values in draw(within(space, one))]

    def _base(self, values: Values) -> Config:
        """The one of `bases` that a trial with these values builds on."""
        return self.bases["&".join(f"{group}={values[group]}" for group in self.groups)]

    def config(self, values: Values) -> Config:
        """The run's configuration with a trial's values, before the sweep's own keys are set."""
        changes = {key: value for key, value in values.items() if key not in self.groups}
        return ccsi.config.apply(self._base(values), changes)

    def run_config(self, values: Values, phase: int, seed: int, run_dir: Path) -> Config:
        """The configuration of one run: phase 1 on val alone, phase 2 with test."""
        config = self.config(values) | {"seed": seed, "run_dir": str(run_dir), "threads": self.threads(values)}
        config |= {"evaluate_test": True} if phase == 2 else {"evaluate_test": False, "report": False}
        config |= {"device": self.device(config), "workers": self.resources.workers}
        config["share_data"] = config.get("share_data") or str(self.shared_data)  # where it lies changes no result
        wandb = (config.get("tracking") or {}).get("wandb")
        if isinstance(wandb, dict):
            wandb |= {"group": self.name, "job_type": f"phase {phase}", "name": run_dir.name}
        return config

    def device(self, config: Config) -> str:
        """Where a run computes: on a GPU only if its trial has one."""
        wanted = str(config["device"])
        return "cuda" if self.resources.gpu != 0 else "cpu" if wanted == "auto" else wanted

    def threads(self, values: Values) -> int:
        """Threads of a run: its CPUs."""
        return max(1, int(self.resources.cpu or self._base(values).get("threads", 1)))

    def cpus(self) -> float:
        """CPUs of a trial."""
        return self.resources.cpu or float(max(base.get("threads", 1) for base in self.bases.values()))

    def dump(self) -> str:
        """The text of sweep.yaml."""
        head = "# What this sweep is. Resume it: ccsi sweep resume=<this folder>\n"
        begun = {} if self.begun is None else {"begun": vars(self.begun)}
        record = {"schema": 1, "cwd": self.cwd, "overrides": self.overrides} | begun | self.sections
        record["bases"] = self.bases
        return head + yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
