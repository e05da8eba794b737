"""The command behind `python tune/train.py`: one run shared by several workers (see `ccsi.sweep.share`)."""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

import ccsi.config
from ccsi.checks import NonNegativeInt
from ccsi.config import Config, build, groups_help
from ccsi.errors import UserError
from ccsi.experiment.folder import check_run_dir, default_run_dir
from ccsi.sweep.definition import Cluster, Resources
from ccsi.sweep.main import keep_ray_private, taken
from ccsi.sweep.trial import Place, finished, reason
from ccsi.sweep.watch import say_where
from ccsi.tracking.console import SECONDS_BETWEEN_LINES, percent, show_metrics, show_result
from ccsi.tracking.files import NAME as METRICS

HELP = """\
One run shared by several workers, on this machine or on a cluster (Ray Train).

  python tune/train.py model=resnet50 workers=4 resources.gpu=1 dataset=… ray.address=auto
  python tune/train.py workers=2                      two workers on this machine's CPUs
  python tune/train.py best.yaml workers=4            a file with a run's configuration, and changes to it

Everything is as for `python -m ccsi` (see its --help), and the same command goes on where an interrupted run stopped.
The batch and the learning rate are those of all workers together. Beside it:
  workers=N                 processes that share the run        max_failures=N  restarts, in a row, that get no further
  resources.cpu=X resources.gpu=X  of each worker (default: the run's threads, and no GPU)
  ray.address=null|auto|HOST:PORT  ray.num_cpus=N
  run_dir=FOLDER            a folder that all machines share
Groups:
{groups}"""

OWN = ("resources", "ray", "max_failures")
"""What configs/train.yaml has beside a run's own settings."""
SHOWN = ("val_micro", "val_macro", "test_micro", "test_macro")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (0 done, 1 it broke off, 2 bad input, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(groups=groups_help("train")))
        return 0
    try:
        return train(arguments)
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130


def train(arguments: Sequence[str]) -> int:
    """See `main`."""
    config = configuration(arguments)
    resources, where, max_failures = sections_of(config)
    cpu, gpu = resources.cpu or float(config["threads"]), float(resources.gpu)
    if str(config["device"]).startswith("cuda") and gpu == 0:
        raise UserError("device=cuda, but resources.gpu is 0: say how many cards a worker gets, resources.gpu=1.")
    config |= {"threads": max(1, int(cpu)), "device": "cuda" if gpu > 0 else "cpu"}
    ccsi.config.check(config)
    folder = default_run_dir(config["run_dir"], config["name"], config["seed"], config)
    config["run_dir"] = str(folder)
    shared_data = folder.with_name(f".{folder.name}.data")
    config["share_data"] = config["share_data"] or str(shared_data)
    place = Place(config["workers"], cpu, gpu, max_failures, {}, os.getcwd(), local=where.address is None)
    with sole_driver(folder):
        try:
            problem = run_shared(config, place, where)
        finally:
            for left in (shared_data, folder.with_name(f".{folder.name}.train")):
                shutil.rmtree(left, ignore_errors=True)
    result = finished(folder)
    if result is None:
        print(f"train: broke off: {problem}; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 1
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)  # of sole_user; nobody needs it any more
    show_result(result, folder)
    return 0


def run_shared(config: Config, place: Place, where: Cluster) -> str:
    """Start Ray, and on it the run's workers; returns what broke them off, or ""."""
    folder = Path(config["run_dir"])
    if where.address is None:  # a cluster's nodes may see other disks than this machine
        check_run_dir(folder, config)
        build(config | {"_target_": "ccsi.experiment.validate"})()
        keep_ray_private()
    print(f"Starting Ray ({ccsi.config.shown(where.address or 'local')}) …", file=sys.stderr)
    from ccsi.sweep.schedule import PASSED_ON, capacity, cluster  # seconds to import
    from ccsi.sweep.share import persist

    place = replace(place, environment={key: os.environ[key] for key in PASSED_ON if key in os.environ})
    with cluster(where) as dashboard:
        if dashboard is not None:
            say_where(Console(stderr=True), dashboard)
        if not where.autoscale:  # else the nodes come when workers wait for them
            capacity(place.cpu, place.gpu, place.workers)
        return watched(lambda: persist(config, place), folder)


@contextlib.contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Refuse to work on a run on which another `tune/train.py` does."""
    path = folder.with_name(f".{folder.name}.driver")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = taken(path)
    except BlockingIOError:
        raise UserError(f"{folder} is in use: another process works on it.") from None
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def configuration(arguments: Sequence[str]) -> Config:
    """What the command line asks for: configs/train.yaml with changes, or a run's complete .yaml file first."""
    mine = {a for a in arguments if a.partition("=")[0].partition(".")[0] in OWN}
    if not any("=" not in a and a.endswith((".yaml", ".yml")) for a in arguments):
        return ccsi.config.load(arguments, name="train")
    sections = ccsi.config.load([a for a in arguments if a in mine], name="train")
    run = ccsi.config.from_arguments([a for a in arguments if a not in mine])
    return {key: sections[key] for key in OWN} | run


def sections_of(config: Config) -> tuple[Resources, Cluster, int]:
    """Take what is not the run's own out of the composed tree, checked."""
    own = {key: config.pop(key) for key in OWN}
    nodes = {"resources": {**own["resources"], "_target_": f"{Resources.__module__}.Resources"}}
    nodes |= {"ray": {**own["ray"], "_target_": f"{Cluster.__module__}.Cluster"}}
    ccsi.config.check({"_target_": f"{__name__}.sections", **own, **nodes})
    gpu = own["resources"]["gpu"]
    if gpu == "auto":
        raise UserError("resources.gpu=auto: only a sweep has trials to pack; expected a number.")
    if 0 < gpu < 1 and config["workers"] > 1:
        raise UserError(f"resources.gpu={gpu}: NCCL joins no two workers on one card; expected a whole number.")
    if own["ray"]["autoscale"] and own["ray"]["address"] is None:
        raise UserError("ray.autoscale=true: expected ray.address of a cluster that starts nodes on demand.")
    return Resources(**own["resources"]), Cluster(**own["ray"]), int(own["max_failures"])


def sections(resources: Any, ray: Any, max_failures: NonNegativeInt) -> None:
    """What train.yaml has beside a run's own settings, as a callable whose nodes `ccsi.config.check` can walk."""


def watched(job: Callable[[], None], folder: Path) -> str:
    """Do `job` in a thread, showing what the run in `folder` writes down meanwhile; returns what broke it off, or "".

    Raises:
        UserError: raised by the job. KeyboardInterrupt: Ctrl-C (Ray Train's own handler would wait for the workers).
    """
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            job()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    lines = tail(folder / METRICS)
    while thread.is_alive():
        thread.join(0.5)
        for line in lines:
            if line is None:
                break
            print(line, file=sys.stderr, flush=True)
    if failed and isinstance(failed[0], UserError):
        raise failed[0]
    return reason(str(failed[0])) if failed else ""


def tail(path: Path) -> Iterator[str | None]:
    """What happens in a run, from its metrics.jsonl, a line every ten seconds and at each task's end; None: no news."""
    position, shown = path.stat().st_size if path.exists() else 0, 0.0
    while True:
        text = ""
        if path.exists():
            with path.open() as file:
                if path.stat().st_size < position:  # cut back to a checkpoint
                    position = 0
                file.seek(position)
                text = file.readline()
        if not text.endswith("\n"):
            yield None
            continue
        position += len(text.encode())
        try:
            event = json.loads(text)
            task, phase = event.pop("task"), event.pop("phase")
        except (ValueError, KeyError, AttributeError):  # cut back and written on while we looked
            continue
        if phase == "task_end":
            figures = [f"{key.replace('_', ' ')} {percent(event[key])} %" for key in SHOWN if key in event]
            yield f"task {task} done: {', '.join(figures)}"
        elif time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            step, steps = event.pop("step"), event.pop("steps")
            yield f"task {task}  {phase:<9}  {step}/{steps}  {show_metrics(event)}"
