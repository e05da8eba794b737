"""What happens inside one trial: the same `ccsi.experiment.run` as `python -m ccsi`, seed after seed.

A trial never starts over: its runs live in the sweep's folder and go on from their own newest checkpoint,
so a trial restarted after its worker died, or in a resumed sweep, ends with the bits of an undisturbed one.
"""

import contextlib
import fcntl
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ccsi.config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.tracking.events import TaskEnd

LIVE = {"val_average_incremental": "average_incremental_accuracy"}
LIVE |= {"val_macro": "final_accuracy_macro", "val_micro": "final_accuracy_micro"}
"""sweep.metric, as `TaskEnd.figures` names it -> its name under `val` in result.json."""


def run_trial(
    trial: Mapping[str, Any],
    environment: Mapping[str, str],
    cwd: str,
    metric: str,
    gpu: float,
) -> None:
    """A Tune trial: the runs of one setting, one after another, told to Tune after every task.

    Each report holds `tasks_done` (counted over the seeds of the trial, so that ASHA compares settings at the
    same seed and task) and `value`, the mean over the seeds so far. A mistake in the configuration is
    reported as `error` and not raised: trying again would not mend it.

    Args:
        trial: `name`; `prunable`: whether a scheduler may stop it; `runs`: JSON of its runs' configurations.
        environment: variables to set, as the driver's environment does not reach a running cluster.
        cwd: the driver's working directory, for relative paths; left alone if this node does not have it.
        metric: a key of `LIVE`.
        gpu: the share of a card this trial may fill.
    """
    from ray import tune

    os.environ.update(environment)
    if os.path.isdir(cwd):
        os.chdir(cwd)
    done, values = 0, list[float]()

    def task_end(event: TaskEnd) -> None:
        if event.task + 1 == event.tasks:
            return  # reported below, once result.json is there: a scheduler may stop us at any report
        value = (sum(values) + event.figures[metric]) / (len(values) + 1)
        with packed(folder) as checkpoint:
            tune.report(report(event.task + 1, value), checkpoint=tune.Checkpoint.from_directory(checkpoint))

    def report(task: int, value: float) -> dict[str, Any]:
        told = {"run": folder.name, "task": task, "tasks_done": done + task, "value": value}
        return told | ({"compared": value} if trial["prunable"] else {})

    for config in json.loads(trial["runs"]):
        folder = Path(config["run_dir"])
        if not folder.parent.is_dir():
            raise RuntimeError(f"{folder.parent} is not on this node: sweep.dir must be a folder all nodes share")
        restore(tune.get_checkpoint(), folder)
        try:
            fresh_start(int(config["seed"]), gpu)
            result = execute(config, task_end)
        except UserError as error:
            tune.report({"tasks_done": done, "error": str(error)})
            return
        values.append(float(result["val"][LIVE[metric]]))
        tune.report(report(tasks_of(result), sum(values) / len(values)))
        done += tasks_of(result)


def execute(config: Config, on_task_end: Callable[[TaskEnd], None]) -> dict[str, Any]:
    """Run, go on with, or only read (when finished) one run; returns the contents of its result.json."""
    folder = Path(config["run_dir"])
    with sole_user(folder):
        result = finished(folder)
        if result is None:
            ccsi.config.build(config)(on_task_end=on_task_end)
            result = finished(folder)
    if result is None:
        raise RuntimeError(f"the run ended without writing {folder / 'result.json'}")
    return result


def finished(folder: Path) -> dict[str, Any] | None:
    """The contents of a finished run's result.json; None if the run is not finished."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{folder / 'result.json'} is damaged ({error}): remove the folder to run it again.") from error
    assert isinstance(result, dict)
    return result


def tasks_of(result: Mapping[str, Any]) -> int:
    """The number of tasks of a finished run."""
    return len(result["scenario"]["classes_per_task"])


def fresh_start(seed: int, gpu: float) -> None:
    """Clear what an earlier trial of this worker process left behind (workers are used again, which saves 2 s each)."""
    gc.collect()
    if "torch" in sys.modules or gpu > 0:
        import torch

        torch.manual_seed(seed)  # runs own their random streams; this is for what third parties might draw
        if gpu > 0:
            if not torch.cuda.is_available():
                raise UserError(f"resources.gpu={gpu}, but PyTorch sees no GPU in this trial; expected CUDA.")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            if gpu < 1:  # Ray only counts fractions; the memory must be capped by us
                torch.cuda.set_per_process_memory_fraction(gpu)


@contextlib.contextmanager
def sole_user(folder: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the run's lock: a worker of a killed sweep may live on for a few seconds and must not write beside us."""
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{folder} is in use by another process") from None
                time.sleep(0.2)
            except OSError:
                break  # a file system without locks
        yield


@contextlib.contextmanager
def packed(folder: Path) -> Iterator[str]:
    """A copy of what a run needs to go on elsewhere, to be handed to Tune's storage."""
    with tempfile.TemporaryDirectory(prefix="ccsi-checkpoint-") as temporary:
        ignore = shutil.ignore_patterns("plots", "wandb", ".*")
        if folder.is_dir():
            shutil.copytree(folder, Path(temporary) / folder.name, ignore=ignore)
        yield temporary


def restore(checkpoint: Any, folder: Path) -> None:
    """Bring a run's folder back from Tune's storage, if it is gone from where it was."""
    if checkpoint is None or folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    with checkpoint.as_directory() as stored:
        if (Path(stored) / folder.name).is_dir():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(Path(stored) / folder.name, part)
            part.rename(folder)
