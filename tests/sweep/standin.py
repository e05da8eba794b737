"""A stand-in for `ccsi.experiment.run`: sleeps instead of learning, keeps its place on disk, can be told to fail."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccsi.errors import UserError
from ccsi.io.run_files import SCHEMA
from ccsi.tracking.events import Progress, RunStart, TaskEnd, Tracker

FIGURES = ("macro_over_tasks", "macro_over_classes", "micro", "average_incremental")


def run(
    *,
    quality: float = 0.5,
    wait: float = 0.0,
    tasks: int = 2,
    fault: str = "none",
    seed: int = 0,
    run_dir: str | None = None,
    on_task_end: Callable[[TaskEnd], None] | None = None,
    on_checkpoint: Callable[[], None] | None = None,
    watch: Tracker | None = None,
    **rest: Any,
) -> None:
    """Learn nothing in `tasks` steps of `wait` seconds; val accuracy is `quality` + seed / 1000.

    fault: `none`; `user`, `crash` (always); `once` (an exception in the second task, the first time);
    `worst` (crash if quality < 0.5); `hang` (learns nothing, and hangs in the third task).
    """
    assert run_dir is not None
    folder = Path(run_dir)
    if fault == "user":
        raise UserError("quality is not to my liking.")
    if fault == "crash" or (fault == "worst" and quality < 0.5):
        raise ValueError("boom")
    folder.mkdir(exist_ok=True)
    state = folder / "checkpoint.pt"
    history = json.loads(state.read_text()) if state.exists() else []
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {len(history)}\n")
    value = 0.0 if fault == "hang" else quality + seed / 1000
    if history and on_task_end is not None:
        on_task_end(TaskEnd(len(history) - 1, tasks, {"val_average_incremental": value, "seconds": 0.0}, {}))
    if watch is not None:
        watch.start(RunStart("standin", folder, {}, (("0",),) * tasks))
    while len(history) < tasks:
        if watch is not None:
            watch.progress(Progress(len(history), "training", 1, 2, {"loss": 1.0}))
        time.sleep(1000 if fault == "hang" and len(history) == 2 else wait)
        if fault == "once" and len(history) == 1 and not (folder / "fell").exists():
            (folder / "fell").touch()
            raise OSError("the disk hiccuped")
        history.append(hashlib.sha256(f"{history}{quality}{seed}".encode()).hexdigest())
        part = folder / "part"
        part.write_text(json.dumps(history))
        part.replace(state)
        if on_checkpoint is not None:
            on_checkpoint()
        end = TaskEnd(len(history) - 1, tasks, {"val_average_incremental": value, "seconds": 0.0}, {})
        if watch is not None:
            watch.task_end(end)
        if on_task_end is not None:
            on_task_end(end)
    figures: dict[str, Any] = dict.fromkeys(FIGURES, value)
    figures |= {"forgetting": 0.0, "accuracy_after_task": [value] * tasks, "accuracy_matrix": [[value]] * tasks}
    test = {name: figure if rest["evaluate_test"] else None for name, figure in figures.items()}
    result = {"schema": SCHEMA, "scenario": {"classes_per_task": [1] * tasks}, "protocol": "stand-in", "seed": seed}
    result |= {"test": test, "val": figures, "weights_sha256": history[-1], "seconds": {"total": wait * tasks}}
    part = folder / "part"
    part.write_text(json.dumps(result))
    part.replace(folder / "result.json")
    if watch is not None:
        watch.finish(result)
