"""Which trials of phase 1 are stopped: each is compared with all that have done as many tasks."""

from bisect import bisect_right, insort
from collections.abc import Hashable
from statistics import median

FIRST_RUNG = 2
"""ASHA's first rung: one task says nothing of forgetting, nor of what a config does from the second task on."""

REDUCTION_FACTOR = 4
"""ASHA promotes one in so many from each rung, and each rung is so many times as far as the one before."""


class NoPruner:
    """Keeps the values of trials after so many tasks, in whatever order they arrive; stops none.

    Attributes:
        values: by tasks done, sorted.
    """

    def __init__(self) -> None:
        self.values: dict[int, list[float]] = {}
        self._observed: dict[tuple[Hashable, int], float] = {}

    def observe(self, trial: Hashable, tasks: int, value: float) -> bool:
        """Add a trial's value after so many tasks; returns whether it is new. (A resumed run reports again.)

        The value of a run that is done again, because its result is gone, replaces the old one.
        """
        values, before = self.values.setdefault(tasks, []), self._observed.get((trial, tasks))
        if before == value:
            return False
        if before is not None:
            values.remove(before)
        self._observed[trial, tasks] = value
        insort(values, value)
        return True

    def is_rung(self, tasks: int) -> bool:
        """Whether trials may have to wait after so many tasks, to be promoted later."""
        return False

    def should_prune(self, tasks: int, value: float) -> bool:
        """Whether a trial with this observed value is stopped."""
        return False

    def is_promotable(self, tasks: int, value: float, n_trials: int) -> bool:
        """Whether a stopped trial may resume once `n_trials` have this many tasks done."""
        return False


class SuccessiveHalving(NoPruner):
    """ASHA (Li et al. 2020): the best quarter of those that have been at a rung continue; the others wait there.

    Rungs are after 2, 8, 32, … tasks, counted over all seeds: each leaves a quarter of the trials, four times as far,
    so that every rung costs about the same. A waiting trial resumes from its checkpoint when it has come to be among
    the best quarter, because others that came after it were worse. (Ray's own ASHA has no such promotion: the trials
    that come first continue, however bad. And it takes a report between two rungs for the lower one.)
    """

    def is_rung(self, tasks: int) -> bool:
        rung = FIRST_RUNG
        while rung < tasks:
            rung *= REDUCTION_FACTOR
        return rung == tasks

    def should_prune(self, tasks: int, value: float) -> bool:
        return self.is_rung(tasks) and not self.is_promotable(tasks, value, len(self.values[tasks]))

    def is_promotable(self, tasks: int, value: float, n_trials: int) -> bool:
        rung = self.values[tasks]
        return self.is_rung(tasks) and len(rung) - bisect_right(rung, value) < n_trials // REDUCTION_FACTOR


class MedianPruner(NoPruner):
    """Median stopping (Golovin et al. 2017): stop a trial whose value is below the median of the others' values.

    Compared are values after the same number of tasks done, each a mean over the tasks so far already; from the
    second task on, when at least three others have been there. Ray's own rule compares a trial's best value so far
    with the others' means: accuracy falls from task to task, so the best is the first task's, which beats any
    later mean, and no trial would ever be stopped. It also pauses trials while it has no values to compare.
    """

    def should_prune(self, tasks: int, value: float) -> bool:
        others = list(self.values[tasks])
        others.remove(value)
        return tasks > 1 and len(others) >= 3 and value < median(others)


PRUNERS: dict[str, type[NoPruner]] = {"none": NoPruner, "asha": SuccessiveHalving, "median": MedianPruner}
"""By sweep.scheduler."""
SCHEDULER_NAMES = {"none": "", "asha": "ASHA", "median": "median stopping"}
"""sweep.scheduler as tables name it."""
