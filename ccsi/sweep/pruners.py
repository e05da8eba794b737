"""Which trials of phase 1 are stopped: each is compared with all that have done as many tasks."""

from bisect import bisect_right, insort
from collections.abc import Hashable
from statistics import median

FIRST_RUNG = 2
"""ASHA's first rung: one task says nothing of forgetting, nor of what a config does from the second task on."""
REDUCTION_FACTOR = 4
"""ASHA promotes one in so many from each rung, and each rung is so many times as far as the one before."""


class NoPruner:
    """Stops no trial; `values`: by tasks done, those of all trials, sorted."""

    def __init__(self) -> None:
        self.values: dict[int, list[float]] = {}
        self._observed: dict[tuple[Hashable, int], float] = {}

    def observe(self, trial: Hashable, tasks: int, value: float) -> None:
        """Add a trial's value after so many tasks; it replaces what a resumed or repeated run reported before."""
        values, before = self.values.setdefault(tasks, []), self._observed.get((trial, tasks))
        if before is not None:
            values.remove(before)
        self._observed[trial, tasks] = value
        insort(values, value)

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

    Rungs are after 2, 8, 32, … tasks, counted over all seeds. A waiting trial resumes from its checkpoint once it is
    among the best quarter, because later ones were worse. (Ray's ASHA has no promotion: the first trials continue,
    however bad. And it takes a report between two rungs for the lower one.)
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

    Compared are means over as many tasks, from the second task on, once three others are there. (Ray's rule compares
    a trial's best value so far: accuracy falls from task to task, so no trial would ever be stopped.)
    """

    def should_prune(self, tasks: int, value: float) -> bool:
        others = list(self.values[tasks])
        others.remove(value)
        return tasks > 1 and len(others) >= 3 and value < median(others)


PRUNERS: dict[str, type[NoPruner]] = {"none": NoPruner, "asha": SuccessiveHalving, "median": MedianPruner}
"""By sweep.scheduler."""
SCHEDULER_NAMES = {"none": "", "asha": "ASHA", "median": "median stopping"}
"""sweep.scheduler as tables name it."""
