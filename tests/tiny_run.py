"""One tiny run, for the tests of the run level: digits at 8 px as tasks of 4, 3 and 3 classes, a few steps each."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ccsi.config

TINY = [
    "device=cpu",
    "dataset=digits",
    "dataset.size=8",
    "dataset.max_per_class=10",
    "scenario.classes_per_task=[4,3,3]",
    "training.epochs=1",
    "learner.synthesis.iterations=4",
    "learner.synthesis.per_class=4",
    "tracking.console.quiet=true",
    "report=false",
]
ANY_LEARNER = [override for override in TINY if not override.startswith("learner.")]


@functools.cache
def composed(*overrides: str) -> Any:
    """`ccsi.config.load`, a quarter of a second, once for the same overrides."""
    return ccsi.config.load(overrides)


def run_tiny(
    folder: Path, *overrides: str, base: list[str] = TINY, on_task_end: Callable[..., None] | None = None
) -> Any:
    """Run in this process, in `folder`; returns the contents of result.json."""
    groups = [override for override in overrides if ccsi.config.is_group(override.partition("=")[0])]
    values = ccsi.config.parse([override for override in overrides if override not in groups])
    changes = {override.key_or_group: override.value() for override in values} | {"run_dir": str(folder)}
    run = ccsi.config.build(ccsi.config.apply(composed(*base, *groups), changes))
    return run(on_task_end=on_task_end).figures
