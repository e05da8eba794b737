"""What a run reports to its trackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunStart:
    """A run starts or resumes.

    Attributes:
        name: short and readable, e.g. `pbcblood-ccsi-s0`. folder: the run's, absolute; it exists.
        config: the resolved configuration. tasks: names of each task's classes, in order.
        resumed_at: how many lines of `metrics.jsonl` are valid (0 for a fresh start).
        summary, warnings: lines about the data (see `ccsi.data.summary`); empty in a sweep's trials.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    tasks: tuple[tuple[str, ...], ...]
    resumed_at: int = 0
    summary: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """A logging point inside a phase (at most a few a second; values are already on the host).

    Attributes:
        task: 0-based. phase: `synthesis`, `training`, … step: 1-based, of `steps` in this phase.
        metrics: the loss and its parts (`loss`, `loss_ce`, `loss_distillation`, …), `val_accuracy`, `lr`.
        left: estimate of the whole run's seconds from now on; None while unknown. first_guess: no task has been
            learned yet.
    """

    task: int
    phase: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    left: float | None = None
    first_guess: bool = False


@dataclass(frozen=True)
class TaskEnd:
    """A task was learned and evaluated. Trackers receive it before its checkpoint, `on_task_end` after it.

    A run that was killed in between sends it again when it resumes.

    Attributes:
        task: 0-based, of `tasks`.
        figures: `val_<name>` of each of `ccsi.evaluation.metrics.SCALARS`, the same with `test_` when test is
            evaluated (fractions in [0, 1]; `auc` is NaN while there is one class), and `seconds` spent so far.
        confusion: split → counts [n_seen][n_seen], rows are true classes.
        impressions: the file of this task's, if any (`images` uint8 [N, C, S, S], `labels` int64 [N]).
        stored: what the learner keeps of real data now: `kind`, `count` and `bytes` of each.
        left: estimate of the seconds until the run's end; None while unknown.
    """

    task: int
    tasks: int
    figures: Mapping[str, float]
    confusion: Mapping[str, list[list[int]]]
    impressions: Path | None = None
    stored: Sequence[Mapping[str, Any]] = ()
    left: float | None = None


class Tracker(Protocol):
    """Shows or stores what happens, called from the run's own thread. A subclass overrides what it needs."""

    def __init__(self) -> None: ...

    def start(self, run: RunStart) -> None:
        """Before the first step; raises UserError if it cannot work (no key, no network)."""

    def progress(self, event: Progress) -> None:
        """At a logging point."""

    def task_end(self, event: TaskEnd) -> None:
        """After a task."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """At the end, with the content of result.json; None when the run was stopped or failed."""
