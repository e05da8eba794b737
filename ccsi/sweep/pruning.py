"""Which trials of phase 1 are stopped, and by whom: ASHA, median stopping, or because nobody waits for them."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ccsi.sweep.book import Book, numbers
from ccsi.sweep.definition import SCHEDULERS
from ccsi.sweep.phases import give_up

REDUCTION = 4
"""ASHA keeps one in so many at each rung; 4 as in the paper."""


class Rungs:
    """Holds each trial against all that have been where it is: after as many tasks, in whatever order they came."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}

    def stops(self, trial: str, tasks: int, value: float) -> bool:
        """Note the value of a trial after so many tasks; says whether it is stopped there.

        Said once: a resumed run that had been finished tells its end again.
        """
        there = self.values.setdefault(tasks, {})
        if trial in there:
            return False
        others = list(there.values())
        there[trial] = value
        return self.lags(tasks, value, others)

    def lags(self, tasks: int, value: float, others: Sequence[float]) -> bool:
        """Whether a trial with this value after so many tasks is stopped."""
        return False


class Halving(Rungs):
    """ASHA (Li et al. 2020): a trial goes on if it is among the best quarter of those that have been where it is.

    A rung is every task, as tasks are few and each is worth minutes. Equals go on together: what only concerns
    later tasks leaves the first one as it is. Ray's own ASHA takes a report between two rungs for the lower one, and
    one that was made before for the rung below: a resumed trial, whose finished runs tell only their end, would be
    held against others at fewer tasks.
    """

    def lags(self, tasks: int, value: float, others: Sequence[float]) -> bool:
        better = sum(other > value for other in others)
        return better >= max(1, (len(others) + 1) // REDUCTION)


class Median(Rungs):
    """Median stopping (Golovin et al. 2017): stop a trial whose value is below the median of the others' values.

    Compared are values after the same number of tasks done, each a mean over the tasks so far already; from the
    second task on, when at least three others have been there. Ray's own rule holds a trial's best value so far
    against the others' means: accuracy falls from task to task, so the best is the first task's, which beats any
    later mean, and nothing would ever be stopped. It also pauses trials while it has nothing to compare.
    """

    def lags(self, tasks: int, value: float, others: Sequence[float]) -> bool:
        return tasks > 1 and len(others) >= 3 and value < median(others)


class Referee(FIFOScheduler):
    """Tells Tune which trials of phase 1 to stop, and the book by whom.

    What reports nothing `compared` (phase 2) runs on.
    A hopeless trial (see `Book.hopeless`) is stopped at its next task's end, where its worker is free at once; or
    now, if nothing else is left to do.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book, self.scheduler = book, book.definition.sweep.scheduler
        rules: dict[str, type[Rungs]] = {"none": Rungs, "asha": Halving, "median": Median}
        self.rule = rules[self.scheduler]()
        for name, reports in book.history().items():  # what earlier calls of an interrupted sweep have seen
            for report in reports:
                self.rule.stops(name, report["tasks_done"], report["value"])

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "compared" not in result:
            return TrialScheduler.CONTINUE
        name = trial.config["name"]
        if numbers(name)[1] in self.book.hopeless():
            give_up(self.book, name)
            return TrialScheduler.STOP
        if self.rule.stops(name, int(result["tasks_done"]), float(result["compared"])):
            self.book.stopping[name] = f"by {SCHEDULERS[self.scheduler]}"
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self.book.over():
            needless = {self.book.trial(1, setting, 0) for setting in self.book.hopeless()}
            for trial in [t for t in tune_controller.get_live_trials() if t.config["name"] in needless]:
                give_up(self.book, trial.config["name"])
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)
