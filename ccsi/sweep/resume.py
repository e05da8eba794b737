"""From a sweep's folder back to its Definition, which may go further than it did."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

import ccsi.config
from ccsi.config import flat, shown
from ccsi.errors import UserError
from ccsi.io.files import read_text
from ccsi.sweep.compose import SECTIONS, compose, define, make_sections
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import SweepExtended
from ccsi.sweep.journal import Journal
from ccsi.sweep.recorder import replay
from ccsi.sweep.search_space import same

CHANGEABLE = {"ray.address", "ray.autoscale", "ray.dashboard", "ray.num_cpus"}
CHANGEABLE |= {"sweep.max_concurrent", "sweep.max_failures", "sweep.dir", "sweep.budget.hours", "sweep.budget.trials"}
"""Keys a resumed sweep may change: they say where, how fast and how far, not what comes out."""
EXTENDABLE = ("sweep.num_samples", "sweep.top_k", "sweep.seeds.reporting")
"""Keys a resumed sweep may increase: what was run remains, and the rest is run, too."""
SCHEMA = 1
"""Of sweep.yaml."""
MAX_BYTES = 2**26
"""Of a sweep.yaml."""
MOST_NODES = 100_000
"""Keys and values that a sweep.yaml may have: some 200 for each combination of swept groups."""
NOT_AS_WRITTEN = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
"""What reading a damaged sweep.yaml may raise."""


def read_definition(folder: Path, check: bool = True, key: str = "resume") -> Definition:
    """The definition an earlier call left in `folder`; see `define`. key: names the folder in messages."""
    try:
        text = ccsi.config.current_names(read_text(folder / "sweep.yaml", MAX_BYTES))
        record = ccsi.config.parse_yaml(text, MOST_NODES)
        if record.get("schema", SCHEMA) != SCHEMA:
            problem = f"sweep.yaml has schema {shown(record['schema'])}; expected {SCHEMA}, as this version writes it."
            raise UserError(problem)
        record = ccsi.config.current_targets(record)
        ccsi.config.check_resolvers({key: value for key, value in record.items() if key != "overrides"})
        saved = define({key: record[key] for key in SECTIONS}, dict(record["bases"]), list(record["overrides"]), check)
        begun = SweepExtended(**record["begun"]) if "begun" in record else None
        if begun is not None:  # of the same types and ranges
            make_sections(replace(saved, begun=None).with_extent(begun).sections)
            extended_to(saved.with_extent(begun), saved.extent)
        return with_folder(
            replace(saved, cwd=str(record["cwd"]), begun=begun), folder
        )  # the folder may have been moved
    except UserError as error:
        raise UserError(f"{key}={folder}: {error}") from error
    except FileNotFoundError:
        raise UserError(f"{key}={folder}: there is no sweep.yaml; expected the folder of an earlier sweep.") from None
    except (OSError, yaml.YAMLError, *NOT_AS_WRITTEN) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{key}={folder}: sweep.yaml cannot be read ({reason}); expected it as written.") from error


def resumed(folder: Path, overrides: Sequence[str]) -> Definition:
    """The definition in `folder` with the overrides typed beside `resume=`: a sweep may go further, not elsewhere.

    How far it has gone is what its journal says: sweep.yaml may hold a mistyped number of which nothing was run.
    """
    saved = read_definition(folder)
    again = {override.lstrip("+~").split("=")[0] for override in overrides}
    if "ray.address" not in again and not is_local_address(saved.ray.address):
        raise UserError(
            f"resume={folder}: sweep.yaml names the Ray cluster at {saved.ray.address}, which may run any code; if it "
            "is yours, type ray.address=… too."
        )
    if not overrides:
        return saved
    kept = [override for override in saved.overrides if override.lstrip("+~").split("=")[0] not in again]
    try:
        ccsi.config.check_overrides(kept)
    except UserError as error:
        raise UserError(f"resume={folder}: {error}") from error
    if not any("draw" in base.get("dataset", {}) for base in saved.bases.values()):
        kept.append("dataset.draw=together")  # what a version without this key did
    typed = compose([*kept, *overrides])
    before, after = (flat({**one.sections, **one.bases}) for one in (saved, typed))
    before = {key: "together" for key in after if key.endswith("dataset.draw")} | before
    for key in [*before, *after]:
        if key not in CHANGEABLE and key not in EXTENDABLE and not same(before.get(key), after.get(key)):
            raise UserError(
                f"resume={folder}: {key.lstrip('.')} was {shown(before.get(key))} when the sweep began and is now "
                f"{shown(after.get(key))}; leave it, or start a new sweep: a resumed one may change "
                f"{', '.join(sorted(CHANGEABLE))}, and increase {', '.join(EXTENDABLE)}."
            )
    ran = saved.with_extent(replay(saved, Journal(folder / "journal.jsonl")).definition.extent)
    try:
        extended = extended_to(ran, typed.extent)
        check_changes_something(ran, extended)
    except UserError as error:
        raise UserError(f"resume={folder}: {error}") from error
    typed = replace(typed.with_extent(extended.extent), begun=extended.begun)
    return with_folder(replace(typed, cwd=saved.cwd), folder)


def is_local_address(address: str | None) -> bool:
    """Whether the head of a Ray cluster is on this machine, as far as its address says."""
    if address in (None, "auto"):
        return True
    try:
        with socket.socket(socket.AF_INET6 if ":" in address.rpartition(":")[0] else socket.AF_INET) as probe:
            probe.bind((address.rpartition(":")[0].strip("[]"), 0))  # only an address of this machine can be bound
    except (OSError, UnicodeError):
        return False
    return True


def with_folder(definition: Definition, folder: Path) -> Definition:
    """The same sweep with `folder` (absolute) as its output folder."""
    return replace(definition, sweep=replace(definition.sweep, dir=str(folder)))


def check_changes_something(before: Definition, after: Definition) -> None:
    """Raise UserError if `after` asks for more samples of a space that has no more."""
    grows = after.sweep.num_samples > before.sweep.num_samples and after.sweep.search != "optuna"
    if grows and len(after.listed_configs()) == len(before.listed_configs()):
        raise UserError("sweep.num_samples changes nothing, because sweep.space has no more combinations.")


def extended_to(saved: Definition, extent: SweepExtended) -> Definition:
    """The same sweep, extended: new reporting seeds come after those it has. UserError unless all of it remains."""
    mine = saved.extent
    for key in ("num_samples", "top_k"):
        before, after = getattr(mine, key), getattr(extent, key)
        if after < before:
            problem = f"sweep.{key} was {before} and is now {after}"
            raise UserError(f"{problem}; a sweep that has begun may only get more.")
    if lost := [seed for seed in mine.reporting if seed not in extent.reporting]:
        raise UserError(
            f"sweep.seeds.reporting={extent.reporting} lacks {', '.join(map(str, lost))}, which the sweep has; "
            f"a sweep that has begun may only get more: {mine.reporting} and others."
        )
    seeds = [*mine.reporting, *(seed for seed in extent.reporting if seed not in mine.reporting)]
    extent = replace(extent, reporting=seeds)
    return saved if extent == mine else replace(saved.with_extent(extent), begun=saved.begun or mine)
