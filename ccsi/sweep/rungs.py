"""Who lags in phase 1: each trial is held against all that have been where it is, after as many tasks."""

from bisect import bisect_right, insort
from statistics import median

FIRST = 2
"""ASHA's first rung: one task says nothing of forgetting, nor of what a setting does from the second task on."""

REDUCTION = 4
"""ASHA lets one in so many go on from each rung, and each rung is so many times as far as the one before."""


class Rungs:
    """The values trials had after so many tasks, in whatever order they came there; nobody lags."""

    def __init__(self) -> None:
        self.values: dict[int, list[float]] = {}
        self.noted: set[tuple[str, int]] = set()

    def note(self, trial: str, tasks: int, value: float) -> bool:
        """Note the value of a trial after so many tasks; says whether that is news.

        A resumed run that had been finished tells its end again.
        """
        if (trial, tasks) in self.noted:
            return False
        self.noted.add((trial, tasks))
        insort(self.values.setdefault(tasks, []), value)
        return True

    def is_rung(self, tasks: int) -> bool:
        """Whether trials may have to wait after so many tasks, to go on later."""
        return False

    def lags(self, tasks: int, value: float) -> bool:
        """Whether one of those that have been there, with this value, is not to go on."""
        return False

    def may_go_on(self, tasks: int, value: float, most: int) -> bool:
        """Whether one that lags may still be let go on once others, `most` in all, have come there."""
        return False


class Halving(Rungs):
    """ASHA (Li et al. 2020): the best quarter of those that have been at a rung go on; the others wait there.

    Rungs are after 2, 8, 32, … tasks, counted over all seeds: each leaves a quarter of the trials, four times as far,
    so that every rung costs about the same. One that waits goes on from its checkpoint when it has come to be among
    the best quarter, as others that came after it were worse. (Ray's own ASHA knows no such promotion: whoever
    comes first goes on, however bad. And it takes a report between two rungs for the lower one.)
    """

    def is_rung(self, tasks: int) -> bool:
        rung = FIRST
        while rung < tasks:
            rung *= REDUCTION
        return rung == tasks

    def lags(self, tasks: int, value: float) -> bool:
        return self.is_rung(tasks) and not self.may_go_on(tasks, value, len(self.values[tasks]))

    def may_go_on(self, tasks: int, value: float, most: int) -> bool:
        rung = self.values[tasks]
        return self.is_rung(tasks) and len(rung) - bisect_right(rung, value) < most // REDUCTION


class Median(Rungs):
    """Median stopping (Golovin et al. 2017): stop a trial whose value is below the median of the others' values.

    Compared are values after the same number of tasks done, each a mean over the tasks so far already; from the
    second task on, when at least three others have been there. Ray's own rule holds a trial's best value so far
    against the others' means: accuracy falls from task to task, so the best is the first task's, which beats any
    later mean, and nothing would ever be stopped. It also pauses trials while it has nothing to compare.
    """

    def lags(self, tasks: int, value: float) -> bool:
        others = list(self.values[tasks])
        others.remove(value)
        return tasks > 1 and len(others) >= 3 and value < median(others)


RULES: dict[str, type[Rungs]] = {"none": Rungs, "asha": Halving, "median": Median}
"""By sweep.scheduler."""
