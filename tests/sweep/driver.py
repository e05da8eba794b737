"""Tune in this process: the sweep's own Supply, Referee and Events, and trials that are made up. No Ray is started."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ccsi.sweep.book import Book
from ccsi.sweep.phases import trials
from ccsi.sweep.pruning import Referee
from ccsi.sweep.schedule import Events, Supply
from ccsi.sweep.trial import LIVE

Learn = Callable[[dict[str, Any], int], Sequence[float]]
"""A run's configuration and phase -> its accuracy after each task; none at all: its configuration is at fault."""


def drive(book: Book, learn: Learn, workers: int = 2, events_left: int = 10**9, lost: bool = False) -> bool:
    """Run a sweep's trials, `workers` at a time; gives up after `events_left` reports, as when the driver is killed.

    Then the last report was heard; or is `lost`, though its checkpoint is there.

    A task takes `wait` of its run's configuration (default 1) on a clock of its own; of two trials that report at
    the same time the one begun first does.

    Returns:
        Whether the sweep came to its end.
    """
    book.take_up()
    supply, referee = Supply(trials(book), workers), Referee(book)
    events = Events(book, supply)
    live: dict[str, tuple[float, Any, Iterator[dict[str, Any]]]] = {}
    now, numbers = 0.0, count()

    def stop(trial: Any) -> None:
        del live[trial.trial_id]
        supply.on_trial_complete(trial.trial_id)
        events.on_trial_complete(0, [], trial)

    controller: Any = SimpleNamespace(
        get_live_trials=lambda: [trial for _, trial, _ in live.values()], get_trials=list, stop_trial=stop
    )
    while True:
        while isinstance(config := supply.suggest(name := f"{next(numbers):06d}"), dict):
            trial: Any = SimpleNamespace(trial_id=name, config=config, last_result=None)
            live[name] = (now + wait(config), trial, reports(book, config, learn))
            referee.on_trial_add(controller, trial)
            events.on_trial_start(0, [], trial)
        if config == "FINISHED":
            return True
        assert live, "nothing runs, and nothing is offered"
        referee.choose_trial_to_run(controller)  # before the next event, as Tune does
        if not live:
            continue
        name = min(live, key=lambda one: (live[one][0], one))
        now, trial, rest = live[name]
        result = next(rest, None)
        events_left -= result is not None
        if lost and events_left == 0:
            return False
        if result is not None:
            live[name] = (now + wait(trial.config), trial, rest)
            stopped = referee.on_trial_result(controller, trial, result) == "STOP"
            trial.last_result = result
            events.on_trial_result(0, [], trial, result)
        if result is None or stopped:
            stop(trial)
        if events_left == 0:
            return False


def wait(config: dict[str, Any]) -> float:
    """Seconds a task of this trial takes."""
    return float(json.loads(config["runs"])[0].get("wait", 1))


def reports(book: Book, trial: dict[str, Any], learn: Learn) -> Iterator[dict[str, Any]]:
    """What `run_trial` reports: after each task, the last of a run when its result.json is there."""
    done, scores, metric = 0, list[float](), book.definition.sweep.metric
    for config in json.loads(trial["runs"]):
        folder = Path(config["run_dir"])
        after = learn(config, int(folder.name[1]))
        if not after:
            yield {"tasks_done": done, "error": "not to my liking"}
            return
        for task in range(1, len(after) + 1):
            score = sum(after[:task]) / task if metric == "val_average_incremental" else after[task - 1]
            reached = len(list(folder.glob("task*")))
            if (folder / "result.json").exists() or task < reached:
                continue  # it goes on from its checkpoint, and tells that again
            if task < len(after):
                folder.mkdir(exist_ok=True)
                (folder / f"task{task}").touch()
                yield told(folder.name, task, len(after), score, done, scores, trial["prunable"])
        finish(folder, score, len(after), float(config.get("wait", 1)))
        yield told(folder.name, len(after), len(after), score, done, scores, trial["prunable"])
        scores.append(score)
        done += len(after)


def told(
    run: str, task: int, tasks: int, score: float, done: int, scores: list[float], prunable: bool
) -> dict[str, Any]:
    value = (sum(scores) + score) / (len(scores) + 1)
    report = {"run": run, "task": task, "tasks": tasks, "score": score, "tasks_done": done + task, "value": value}
    report["seconds"] = float(task)
    return report | ({"compared": value} if prunable else {})


def finish(folder: Path, val: float, tasks: int = 2, seconds: float = 1.5, test: float | None = None) -> None:
    """Write a finished run."""
    names = [*LIVE.values(), "forgetting"]
    result: dict[str, Any] = {name: test for name in names} | {"val": dict.fromkeys(names, val)}
    result |= {"scenario": {"classes_per_task": [2] * tasks}, "seconds": {"total": seconds * tasks}}
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result | {"protocol": "data-free"}))
