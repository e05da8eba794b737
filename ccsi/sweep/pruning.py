"""Which trials of phase 1 are stopped, and by whom: ASHA, median stopping, or because nobody waits for them."""

from statistics import median
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from ccsi.sweep.book import Book, numbers
from ccsi.sweep.definition import SCHEDULERS
from ccsi.sweep.phases import give_up


class Halving(ASHAScheduler):
    """ASHA (Li et al. 2020) that compares a trial only when it reports at a rung, and once there.

    A rung is every doubling of the tasks done, as tasks are few. Ray's own takes a report between two rungs for the
    lower one, and one that was made before for the rung below: a resumed trial, whose finished runs tell only their
    end, would be held against others at fewer tasks. No max_t is needed: a trial ends by itself.
    """

    def __init__(self) -> None:
        super().__init__(
            time_attr="tasks_done", metric="compared", mode="max", max_t=2**20, grace_period=1, reduction_factor=2
        )
        self.asked: set[tuple[str, int]] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        tasks = int(result.get("tasks_done", 0))
        if tasks & (tasks - 1) or (trial.trial_id, tasks) in self.asked:
            return ASHAScheduler.CONTINUE
        self.asked.add((trial.trial_id, tasks))
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last report was compared when it came."""


class Median(FIFOScheduler):
    """Median stopping (Golovin et al. 2017): stop a trial whose value is below the median of the others' values.

    Compared are values after the same number of tasks done, each a mean over the tasks so far already; from the
    second task on, when at least three others have been there. Ray's own rule holds a trial's best value so far
    against the others' means: accuracy falls from task to task, so the best is the first task's, which beats any
    later mean, and nothing would ever be stopped. It also pauses trials while it has nothing to compare.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: dict[int, dict[str, float]] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        tasks, value = int(result["tasks_done"]), float(result["compared"])
        there = self.values.setdefault(tasks, {})
        if trial.trial_id in there:
            return TrialScheduler.CONTINUE
        others = list(there.values())
        there[trial.trial_id] = value
        lags = tasks > 1 and len(others) >= 3 and value < median(others)
        return TrialScheduler.STOP if lags else TrialScheduler.CONTINUE


class Referee(FIFOScheduler):
    """Tells Tune which trials of phase 1 to stop, and the book by whom.

    What reports nothing `compared` (phase 2) runs on.
    A hopeless trial (see `Book.hopeless`) is stopped at its next task's end, where its worker is free at once; or
    now, if nothing else is left to do.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book, self.scheduler = book, book.definition.sweep.scheduler
        rules: dict[str, type[TrialScheduler]] = {"none": FIFOScheduler, "asha": Halving, "median": Median}
        self.rule = rules[self.scheduler]()
        nobody: Any = None  # the rules ask the controller nothing
        for name, reports in book.history().items():  # what earlier calls of an interrupted sweep have seen
            ghost: Any = SimpleNamespace(trial_id=name)
            self.rule.on_trial_add(nobody, ghost)
            for report in reports:
                self.rule.on_trial_result(nobody, ghost, report | {"compared": report["value"]})

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "compared" not in result:
            return TrialScheduler.CONTINUE
        name = trial.config["name"]
        if numbers(name)[1] in self.book.hopeless():
            give_up(self.book, name)
            return TrialScheduler.STOP
        if self.rule.on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
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
