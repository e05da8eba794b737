"""Which trials of phase 1 Tune is told to stop: those that lag (see `ccsi.sweep.rungs`), or that nobody waits for."""

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ccsi.sweep.book import Book, numbers
from ccsi.sweep.phases import give_up


class Referee(FIFOScheduler):
    """Tells Tune which trials of phase 1 to stop, and the book by whom.

    What reports nothing `compared` (phase 2) runs on.
    A hopeless trial (see `Book.hopeless`) is stopped at its next task's end, where its worker is free at once; or
    now, if nothing else is left to do.
    """

    def __init__(self, book: Book) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.book = book

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "compared" not in result:
            return TrialScheduler.CONTINUE
        name = trial.config["name"]
        if numbers(name)[1] in self.book.hopeless():
            give_up(self.book, name)
            return TrialScheduler.STOP
        tasks, value = int(result["tasks_done"]), float(result["compared"])
        if self.book.rule.note(name, tasks, value) and self.book.lags(tasks, value):
            self.book.stopping[name] = self.book.scheduler
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self.book.over():
            needless = {self.book.trial(1, setting, 0) for setting in self.book.hopeless()}
            for trial in [t for t in tune_controller.get_live_trials() if t.config["name"] in needless]:
                give_up(self.book, trial.config["name"])
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)
