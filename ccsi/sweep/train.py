"""One run shared by several workers, outside a sweep (see `execution.data_parallel`)."""

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import ccsi.config
from ccsi.checks import NonNegativeInt
from ccsi.config import Config, build
from ccsi.errors import UserError
from ccsi.experiment.folder import check_run_dir, default_run_dir
from ccsi.io.locks import InUseError, locked
from ccsi.io.run_files import read_result
from ccsi.sweep.definition import Cluster, Resources
from ccsi.sweep.execution.context import TrialContext, prepare_ray
from ccsi.sweep.execution.failures import GivenUpError, reason
from ccsi.sweep.folder import LOCK_WITHIN
from ccsi.sweep.recorder import SweepInterruptedError
from ccsi.tracking.console import SECONDS_BETWEEN_LINES, percent, show_metrics, show_result
from ccsi.tracking.files import NAME as METRICS

OWN = ("resources", "ray", "max_failures")
"""What configs/train.yaml has beside a run's own keys."""
SHOWN = ("val_micro", "val_macro", "test_micro", "test_macro")


def train(arguments: Sequence[str]) -> None:
    """Run what the command line asks for, and print its figures.

    Raises:
        UserError: bad input. SweepInterruptedError: a worker crashed too often, or Ray did.
    """
    config = configuration(arguments)
    resources, cluster, max_failures = own_sections(config)
    cpu, gpu = resources.cpu or float(config["threads"]), float(resources.gpu)
    if str(config["device"]).startswith("cuda") and gpu == 0:
        raise UserError("device=cuda, but resources.gpu is 0: say how many cards a worker gets, resources.gpu=1.")
    if config["device"] == "mps":
        raise UserError("device=mps: several workers need gloo or NCCL; expected device=cpu, or one worker (ccsi run).")
    config |= {"threads": max(1, int(cpu)), "device": "cuda" if gpu > 0 else "cpu"}
    ccsi.config.check(config)
    folder = default_run_dir(config["run_dir"], config["name"], config["seed"], config)
    config["run_dir"] = str(folder)
    shared_data = folder.with_name(f".{folder.name}.data")
    config["share_data"] = config["share_data"] or str(shared_data)
    local = cluster.address is None
    context = TrialContext(config["workers"], cpu, gpu, max_failures, local=local)
    with sole_driver(folder):
        try:
            run_shared(config, context, cluster)
        finally:
            for left in (shared_data, folder.with_name(f".{folder.name}.train")):
                shutil.rmtree(left, ignore_errors=True)
    result = read_result(folder)
    if result is None:
        raise SweepInterruptedError("the workers ended without a result")
    show_result(result, folder)


def run_shared(config: Config, context: TrialContext, cluster: Cluster) -> None:
    """Start Ray, and on it the run's workers."""
    folder = Path(config["run_dir"])
    prepare_ray(context.local)
    if context.local:  # a cluster's nodes may see other disks than this machine
        check_run_dir(folder, config)
        build(config | {"_target_": "ccsi.experiment.validate"})()
    print(f"Starting Ray ({ccsi.config.shown(cluster.address or 'local')}) …", file=sys.stderr)
    from ccsi.sweep.execution import cluster as ray_cluster  # seconds to import
    from ccsi.sweep.execution.data_parallel import run_workers_with_retries

    with ray_cluster.start_ray(cluster, Console(stderr=True)):
        if not cluster.autoscale:  # else the nodes come when workers wait for them
            ray_cluster.count_trials(context.cpu, context.gpu, context.workers)
        show_progress(lambda: run_workers_with_retries(config, context), folder)


@contextlib.contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Refuse a run on which another `ccsi train` works."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.with_name(f".{folder.name}.driver"), wait=LOCK_WITHIN))
        except InUseError:
            raise UserError(f"{folder} is in use: another process works on it.") from None
        yield


def configuration(arguments: Sequence[str]) -> Config:
    """What the command line asks for: configs/train.yaml with changes, or a run's complete .yaml file first."""
    mine = {a for a in arguments if a.partition("=")[0].partition(".")[0] in OWN}
    if not any("=" not in a and a.endswith((".yaml", ".yml")) for a in arguments):
        return ccsi.config.load(arguments, name="train")
    sections = ccsi.config.load([a for a in arguments if a in mine], name="train")
    run = ccsi.config.from_arguments([a for a in arguments if a not in mine])
    return {key: sections[key] for key in OWN} | run


def own_sections(config: Config) -> tuple[Resources, Cluster, int]:
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
    """What train.yaml has beside a run's own keys, as a callable whose nodes `ccsi.config.check` can walk."""


def show_progress(job: Callable[[], None], folder: Path) -> None:
    """Do `job` in a thread, and print meanwhile what the run in `folder` writes.

    Raises:
        UserError: raised by the job. SweepInterruptedError: any other error of it. KeyboardInterrupt: Ctrl-C (Ray
        Train's own handler would wait for the workers).
    """
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            job()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    lines = progress_lines(folder / METRICS)
    while thread.is_alive():
        thread.join(0.5)
        for line in lines:
            if line is None:
                break
            print(line, file=sys.stderr, flush=True)
    for error in failed:
        if isinstance(error, UserError):
            raise error
        text = str(error) if isinstance(error, GivenUpError) else f"{type(error).__name__}: {error}"
        raise SweepInterruptedError(reason(text)) from error


def progress_lines(path: Path) -> Iterator[str | None]:
    """A run's progress, from its metrics.jsonl: a line every ten seconds and at each task's end; None: no news."""
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
        except (ValueError, KeyError, AttributeError):  # cut back and rewritten while we looked
            continue
        if phase == "task_end":
            figures = [f"{key.replace('_', ' ')} {percent(event[key])} %" for key in SHOWN if key in event]
            yield f"task {task} done: {', '.join(figures)}"
        elif time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            step, steps = event.pop("step"), event.pop("steps")
            yield f"task {task}  {phase:<9}  {step}/{steps}  {show_metrics(event)}"
