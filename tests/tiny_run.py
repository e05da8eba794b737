"""One tiny run, for the tests of the run level: digits at 8 px as tasks of 4, 3 and 3 classes, a few steps each."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ccsi.config

ANY_LEARNER = [
    "device=cpu",
    "dataset=digits",
    "dataset.size=8",
    "dataset.max_per_class=10",
    "scenario.classes_per_task=[4,3,3]",
    "training.epochs=1",
    "tracking.console.quiet=true",
    "report=false",
]
FEW = {
    "synthesis.iterations": 4,
    "synthesis.per_class": 4,
    "generation.steps": 4,
    "generation.batch_size": 8,
    "generation.latent": 8,
    "generation.width": 8,
    "budget.per_class": 3,
    "balanced_epochs": 1,
    "refine_epochs": 1,
    "expansion": 32,
    "held_out": 0.4,
}
"""What a learner takes its time or its memory by."""


@functools.cache
def composed(*overrides: str) -> Any:
    """`ccsi.config.load`, a quarter of a second, once for the same overrides."""
    return ccsi.config.load(overrides)


def tiny(learner: str) -> list[str]:
    """Overrides that make a run with a learner tiny (without those that choose the learner)."""
    there = ccsi.config.flat(composed(f"learner={learner}")["learner"])
    return [*ANY_LEARNER, *(f"learner.{key}={value}" for key, value in FEW.items() if key in there)]


TINY = tiny("ccsi")


def run_tiny(
    folder: Path, *overrides: str, base: list[str] | None = None, on_task_end: Callable[..., None] | None = None
) -> Any:
    """Run in this process, in `folder`; returns the contents of result.json. base: `tiny` of the learner chosen."""
    if base is None:
        base = tiny(next((one.partition("=")[2] for one in overrides if one.startswith("learner=")), "ccsi"))
    groups = [override for override in overrides if ccsi.config.is_group(override.partition("=")[0])]
    values = ccsi.config.parse([override for override in overrides if override not in groups])
    changes = {override.key_or_group: override.value() for override in values} | {"run_dir": str(folder)}
    run = ccsi.config.build(ccsi.config.apply(composed(*base, *groups), changes))
    return run(on_task_end=on_task_end).figures
