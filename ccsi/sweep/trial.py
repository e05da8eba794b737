"""What happens inside one trial: the same `ccsi.experiment.run` as `python -m ccsi`, seed after seed.

A trial never starts over: its runs live in the sweep's folder and go on from their own newest checkpoint,
so a trial restarted after its worker died, or in a resumed sweep, ends with the bits of an undisturbed one.
"""

import contextlib
import fcntl
import gc
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ccsi.config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.sweep.watch import RayMetrics
from ccsi.tracking.events import TaskEnd, Tracker

LIVE = {"val_average_incremental": "average_incremental_accuracy"}
LIVE |= {"val_macro": "final_accuracy_macro", "val_micro": "final_accuracy_micro"}
"""sweep.metric, as `TaskEnd.figures` names it -> its name under `val` in result.json."""
CONTEXT = 2**29
"""Bytes of a GPU that CUDA itself takes in each process, about: no allocator can cap them."""
WORKER_DIED = "the worker process died (killed, or out of memory)"
"""What `reason` says of a trial whose process ended without an exception."""
LOW_ON_MEMORY = (
    "its machine ran low on memory, so Ray ended the worker; run fewer trials at a time (resources.cpu, "
    "sweep.max_concurrent), or smaller ones"
)
"""What it says of one that Ray ended to save the machine."""


@dataclass(frozen=True)
class Place:
    """Where and how runs compute.

    Attributes:
        workers: processes that share a run. cpu, gpu: of each of them; gpu: the share of a card it may fill.
        max_failures: how often they start again when one dies.
        environment: variables to set, as the driver's environment does not reach a running cluster.
        cwd: the driver's working directory, for relative paths; left alone if a node does not have it.
        sweep: its name, for the metrics. storage: where runs are kept if machines share no folder.
        call: names the driver's process; attempts are counted afresh in each. local: all runs on this machine.
    """

    workers: int
    cpu: float
    gpu: float
    max_failures: int
    environment: Mapping[str, str]
    cwd: str
    sweep: str = ""
    storage: str | None = None
    call: str = ""
    local: bool = False

    def enter(self) -> None:
        """Set what this process needs."""
        os.environ.update(self.environment)
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)


@dataclass(frozen=True)
class Report:
    """What a trial tells of one of its runs.

    Attributes:
        run: its name. metric: a key of `LIVE`. compared: whether a scheduler may stop the trial.
        done: tasks of the trial's runs before it. values: their values of the metric.
    """

    run: str
    metric: str
    compared: bool
    done: int
    values: Sequence[float]

    def at(self, event: TaskEnd) -> dict[str, Any] | None:
        """After a task; None after the last, which is told when result.json is there: any report may be the end."""
        if event.task + 1 == event.tasks:
            return None
        return self.of(event.task + 1, event.tasks, event.figures[self.metric], event.figures["seconds"])

    def of(self, task: int, tasks: int, score: float, seconds: float) -> dict[str, Any]:
        """After `task` (1-based) of `tasks`, with the run's own value of the metric, and its seconds so far."""
        mean = (sum(self.values) + score) / (len(self.values) + 1)
        told = {"run": self.run, "task": task, "tasks": tasks, "score": score, "seconds": seconds}
        told |= {"tasks_done": self.done + task, "value": mean}
        return told | ({"compared": mean} if self.compared else {})


def run_trial(trial: Mapping[str, Any], place: Place, metric: str) -> None:
    """A Tune trial: the runs of one setting, one after another, told to Tune after every task.

    Each report holds the run's `task` of `tasks`, `score` and `seconds`; `tasks_done` (counted over the seeds of the
    trial, so that schedulers compare settings at the same seed and task) and `value`, the mean over the seeds so far.
    A mistake in the configuration is reported as `error` and not raised: trying again would not mend it.

    Args:
        trial: `name`; `prunable`: whether a scheduler may stop it; `runs`: JSON of its runs' configurations.
        metric: a key of `LIVE`.
    """
    from ray import tune

    place.enter()
    done, values = 0, list[float]()

    for config in json.loads(trial["runs"]):
        folder = Path(config["run_dir"])
        absent = private(folder.parent) if place.storage is not None else missing(folder.parent)
        if absent:
            tune.report({"tasks_done": done, "error": absent})
            return
        report = Report(folder.name, metric, trial["prunable"], done, tuple(values))
        attempts = Attempts(folder, place.call)
        problem = attempts.begin(place.max_failures)
        if not problem:
            try:
                result = alone(config, place, report) if place.workers == 1 else shared(config, place, report)
            except UserError as error:
                tune.report({"tasks_done": done, "error": str(error)})
                return
            except Exception as error:
                problem = attempts.broke(place.max_failures, traceback.format_exc(), out_of_memory(error, place.gpu))
                if not problem:
                    raise  # Tune starts the trial again, in another process
        if problem:
            tune.report({"tasks_done": done, "error": reason(problem), "text": problem})
            return
        attempts.path.unlink(missing_ok=True)  # it is through: what befalls the trial from now on is another run's
        value = float(result["val"][LIVE[metric]])
        tune.report(report.of(tasks_of(result), tasks_of(result), value, float(result["seconds"]["total"])))
        values.append(value)
        done += tasks_of(result)


def alone(config: Config, place: Place, report: Report) -> dict[str, Any]:
    """One run in this process; returns the contents of its result.json."""
    from ray import tune

    def task_end(event: TaskEnd) -> None:
        told = report.at(event)
        if told is not None:
            tune.report(told)

    fresh_start(int(config["seed"]), place.gpu)
    return execute(config, task_end, RayMetrics(place.sweep), place.storage)


def shared(config: Config, place: Place, report: Report) -> dict[str, Any]:
    """As `alone`, in several workers of Ray Train's."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from ccsi.sweep.share import share

    folder = Path(config["run_dir"])
    if finished(folder) is None:
        share(config, place, report, [TuneReportCallback()])  # type: ignore[no-untyped-call]
    result = finished(folder)
    assert result is not None, f"the run ended without writing {folder / 'result.json'}"
    return result


def execute(
    config: Config,
    on_task_end: Callable[[TaskEnd], None],
    watch: Tracker | None = None,
    storage: str | None = None,
) -> dict[str, Any]:
    """Run, go on with, or only read (when finished) one run; returns the contents of its result.json.

    With a storage the run is fetched from there, copied to it at each checkpoint, and in the end removed from here.
    """
    folder = Path(config["run_dir"])
    with sole_user(folder):
        push: Callable[[], None] | None = None
        if storage is not None:
            from ccsi.sweep.storage import Storage

            kept = Storage(storage)
            kept.pull(f"runs/{folder.name}", folder)
            push = partial(kept.push, folder, f"runs/{folder.name}")
        result = finished(folder)
        if result is None:
            ccsi.config.build(config)(on_task_end=on_task_end, on_checkpoint=push, watch=watch)
            result = finished(folder)
        if push is not None and result is not None:
            push()
            shutil.rmtree(folder)
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


class Attempts:
    """How often a run was begun without getting further than the time before; kept beside its folder.

    Deaths are normal on a cluster, and a run that gets on may die any number of times. One that breaks off again and
    again at the same place is given up.
    """

    def __init__(self, folder: Path, call: str = "") -> None:
        self.folder, self.call, self.path = folder, call, folder.with_name(f".{folder.name}.attempts")

    def begin(self, most: int) -> str:
        """Note that work on the run begins; or, if it broke off more than `most` times here, the last reason."""
        here = self._here()
        if len(here) > most:
            return next((text for text in reversed(here) if text), WORKER_DIED)
        self._write([*here, ""])
        return ""

    def broke(self, most: int, text: str, hopeless: str) -> str:
        """Note why it broke off; gives the reason if that was once too often, or `hopeless` from the first time."""
        here = [*self._here()[:-1], text]
        self._write(here)
        return f"{text}\n{hopeless}" if hopeless else text if len(here) > most else ""

    def _at(self) -> str:
        """The driver's call, and what the run would go on from."""
        from ccsi.experiment.checkpoint import NAME  # and with it torch, which the driver can do without

        try:
            with (self.folder / NAME).open("rb") as file:  # its digest and size: copied from a storage it has new times
                return f"{self.call} {file.read(32).hex()} {os.fstat(file.fileno()).st_size}"
        except OSError:
            return self.call

    def _here(self) -> list[str]:
        """Of the attempts that began where the run stands now: what broke each off, as far as it could say."""
        try:
            noted = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return []
        return list(noted["broke"]) if noted["at"] == self._at() else []

    def _write(self, broke: list[str]) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"at": self._at(), "broke": broke}))
        part.replace(self.path)


def missing(folder: Path) -> str:
    """What to say if this machine does not have the sweep's folder; "" if it does."""
    if folder.is_dir():
        return ""
    where = f"{folder} is not on node {socket.gethostname()}"
    return f"{where}: sweep.dir must be a folder all nodes share, or sweep.storage be set"


def private(folder: Path) -> str:
    """Make a folder on this machine's own disk that no other user can read, as images lie there; "" or the problem."""
    folder.mkdir(parents=True, exist_ok=True)
    top = folder.parent
    if top.stat().st_uid != os.getuid():
        return f"{top} belongs to another user; expected it to be free, or TMPDIR to name another place."
    top.chmod(0o700)
    return ""


def unfit(runs: str, storage: str | None) -> str:
    """What keeps this machine from running trials whose runs live in `runs`, or at `storage`; "" if nothing does."""
    try:
        if storage is not None:
            from ccsi.sweep.storage import Storage

            Storage(storage).check()
            return ""
        with tempfile.TemporaryFile(dir=runs):
            problem = "" if (Path(runs).parent / "sweep.yaml").exists() else "another folder of this name"
    except UserError as error:
        return str(error)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    return f"{runs}: {problem}; sweep.dir must be a folder all nodes share, or sweep.storage be set" if problem else ""


def out_of_memory(error: Exception, gpu: float) -> str:
    """What to say of an exception that no other attempt would mend, as memory will not grow; "" for any other."""
    if isinstance(error, MemoryError):
        return (
            "MemoryError: the trial needs more memory than this machine has left; run fewer at a time, or a smaller one"
        )
    if type(error).__name__ != "OutOfMemoryError":
        return ""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return (
        f"OutOfMemoryError: the trial needs more than its share of the GPU: resources.gpu={gpu:g} allows "
        f"{min(1.0, gpu) * total:.1f} of {total:.1f} GiB; give it a larger share, or a smaller batch"
    )


def reason(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    if "running low on memory" in text:  # Ray's memory monitor
        return LOW_ON_MEMORY
    if any("died" in line for line in lines) and not any("Traceback" in line for line in lines):
        return WORKER_DIED
    return (told or lines or ["no reason given"])[-1][:500]


def fresh_start(seed: int, gpu: float) -> None:
    """Clear what an earlier trial of this worker process left behind (workers are used again, which saves 2 s each)."""
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # PyTorch's and Ray's objects stay for good: looking at all of them takes 0.2 s each time
    if "torch" in sys.modules or gpu > 0:
        import torch

        torch.manual_seed(seed)  # runs own their random streams; this is for what third parties might draw
        if gpu > 0:
            if not torch.cuda.is_available():
                raise UserError(f"resources.gpu={gpu}, but PyTorch sees no GPU in this trial; expected CUDA.")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            if gpu < 1:  # Ray only counts fractions; the memory must be capped by us
                total = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.set_per_process_memory_fraction(max(gpu / 2, gpu - CONTEXT / total))


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
