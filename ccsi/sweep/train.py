"""One run shared by several workers, outside a sweep (see `execution.data_parallel`)."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from pathlib import Path

import ccsi.config
import ccsi.experiment
from ccsi.checks import NonNegativeInt, PositiveInt
from ccsi.config import Config, build
from ccsi.errors import UserError
from ccsi.experiment.description import describe
from ccsi.experiment.folder import check_run_dir, default_run_dir, finished_result
from ccsi.io.locks import InUseError, locked
from ccsi.io.paths import absolute, expand
from ccsi.io.run_files import read_result
from ccsi.sweep.compose import section
from ccsi.sweep.definition import Cluster, Resources
from ccsi.sweep.execution.context import TrialContext, prepare_ray, start_thread
from ccsi.sweep.execution.failures import GivenUpError, reason
from ccsi.sweep.folder import LOCK_WITHIN
from ccsi.sweep.processes import ProcessWatch
from ccsi.sweep.recorder import SweepInterruptedError
from ccsi.sweep.runs import last_events
from ccsi.tracking.console import SECONDS_BETWEEN_LINES, clock, percent, show_metrics, show_result, terminal

OWN = ("resources", "ray", "max_failures")
"""What configs/train.yaml has beside a run's own keys."""
SHOWN = ("val_micro", "val_macro_over_tasks", "test_micro", "test_macro_over_tasks")


def train(arguments: Sequence[str]) -> None:
    """Run what the command line asks for, print its figures; SweepInterruptedError if workers crash too often."""
    config = configuration(arguments)
    ccsi.config.check({key: value for key, value in config.items() if key not in OWN})
    config, context, cluster = with_resources(config)
    folder = default_run_dir(config["run_dir"], config["name"], config["seed"], config)
    config["run_dir"] = str(folder)
    shared_data = folder.with_name(f".{folder.name}.data")
    if (earlier := finished_result(folder, config)) is not None:
        return show_result(earlier, folder)
    config["share_data"] = config["share_data"] or str(shared_data)

    def clean() -> None:
        for left in (shared_data, folder.with_name(f".{folder.name}.train")):
            shutil.rmtree(left, ignore_errors=True)

    with sole_driver(folder):
        try:
            run_shared(config, context, cluster, clean, describe_run)
        finally:
            clean()
    result = read_result(folder)
    if result is None:
        raise SweepInterruptedError("the workers ended without a result")
    show_result(result, folder)


def learn_shared(config: Config, old_folder: str | None) -> None:
    """Fit or extend a model in several workers; SweepInterruptedError if they crash too often.

    config: of `ccsi fit` or `ccsi extend`, with workers and resources. old_folder: the model to extend.
    """
    ccsi.config.check({key: value for key, value in config.items() if key not in OWN})
    config, context, cluster = with_resources(config)
    learning = config | {"_partial_": False}
    learning["out"] = str(absolute(config["out"], "out"))
    folder = Path(learning["out"] + ".partial")
    parts = {"learning": learning, "old_folder": old_folder, "run_dir": str(folder), "seed": config["seed"]}
    with sole_driver(folder):
        target = {"_target_": "ccsi.model.learn_shared", "_partial_": True}
        run_shared(target | parts, context, cluster, lambda: None, lambda config: None)


def with_resources(config: Config) -> tuple[Config, TrialContext, Cluster]:
    """A configuration without what is not the run's own, on the workers' devices; and these workers."""
    own = {key: config[key] for key in (*OWN, "workers")}
    config = {key: value for key, value in config.items() if key not in OWN}
    own |= {"resources": section(own, "resources", Resources), "ray": section(own, "ray", Cluster)}
    resources, cluster, max_failures, workers = build({"_target_": sections, "_partial_": True, **own})()
    if resources.gpu == "auto":
        raise UserError("resources.gpu=auto: only a sweep has trials to pack; expected a number.")
    cpu, gpu, local = resources.cpu or float(config["threads"]), float(resources.gpu), cluster.address is None
    if 0 < gpu < 1 and workers > 1:
        raise UserError(f"resources.gpu={gpu}: NCCL joins no two workers on one card; expected a whole number.")
    if cluster.autoscale and local:
        raise UserError("ray.autoscale=true: expected ray.address of a cluster that starts nodes on demand.")
    if str(config["device"]).startswith("cuda") and gpu == 0:
        raise UserError("device=cuda, but resources.gpu is 0: say how many cards a worker gets, resources.gpu=1.")
    if config["device"] == "mps":
        raise UserError("device=mps: several workers need gloo or NCCL; expected device=cpu, or one worker (ccsi run).")
    config |= {"threads": max(1, int(cpu)), "device": "cuda" if gpu > 0 else "cpu"}
    return config, TrialContext(workers, cpu, gpu, max_failures, local=local), cluster


def describe_run(config: Config) -> None:
    """Check a run on this machine before Ray starts, and print a summary of its data."""
    check_run_dir(Path(config["run_dir"]), config)
    setup = build(config | {"_target_": ccsi.experiment.validate})()
    for line in describe(setup.data, setup.plan, setup.learner).all_lines():  # the workers' consoles go to logs
        print(line, file=sys.stderr)


def run_shared(
    config: Config,
    context: TrialContext,
    cluster: Cluster,
    clean: Callable[[], None],
    check_here: Callable[[Config], None],
) -> None:
    """Start Ray, and on it the run's workers.

    clean: what is done before this process ends because Ray is lost. check_here: done before Ray starts.
    """
    folder = Path(config["run_dir"])
    prepare_ray(context.local)
    if context.local:  # a cluster's nodes may see other disks than this machine
        check_here(config)
    print(f"Run {folder.name} in {folder}: {context.workers} workers", file=sys.stderr)
    print(f"Starting Ray ({ccsi.config.shown(cluster.address or 'local')}) …", file=sys.stderr)
    from ccsi.sweep.execution import cluster as ray_cluster  # seconds to import
    from ccsi.sweep.execution.data_parallel import run_workers_with_retries

    def on_death(name: str) -> None:
        message = f"Ray's process {name} has died; resume with the same command"
        ray_cluster.leave_lost_ray(message, watch, clean)

    watch = ProcessWatch(None, on_death)
    with ray_cluster.start_ray(cluster, terminal(stderr=True), watch):
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
    files = [argument for argument in arguments if ccsi.config.is_file(argument)]
    if not files or OWN[0] in ccsi.config.read(expand(files[0], "FILE")):  # --show prints all keys
        return ccsi.config.from_arguments(arguments, "train")
    own = [a for a in arguments if a.partition("=")[0].partition(".")[0] in OWN and a not in files]
    tree = ccsi.config.load(own, name="train")
    return {key: tree[key] for key in OWN} | ccsi.config.from_arguments([a for a in arguments if a not in own])


def sections(
    resources: Resources, ray: Cluster, max_failures: NonNegativeInt, workers: PositiveInt
) -> tuple[Resources, Cluster, int, int]:
    """What `with_resources` has `ccsi.config.build` call."""
    return resources, ray, max_failures, workers


def show_progress(job: Callable[[], None], folder: Path) -> None:
    """Do `job` in a thread, so that Ctrl-C does not wait for the workers, and print what the run in `folder` writes.

    Errors of the job other than UserError are raised as SweepInterruptedError.
    """
    events, printed_at, done = last_events(folder), 0.0, start_thread(job)
    while not done.done():
        wait([done], 0.5)
        before, events = events, last_events(folder)
        ends = [event for event in events if event.get("phase") == "task_end" and event not in before]
        for event in ends:
            figures = [f"{key.replace('_', ' ')} {percent(event[key])} %" for key in SHOWN if key in event]
            left = f", about {clock(left)} left" if (left := event.get("left")) else ""
            print(
                f"task {event['task']} done{left}{': ' * bool(figures)}{', '.join(figures)}",
                file=sys.stderr,
                flush=True,
            )
        is_step = events and "step" in events[-1] and events[-1] not in before
        if is_step and time.monotonic() - printed_at > SECONDS_BETWEEN_LINES:
            printed_at = time.monotonic()
            print(step_line(**events[-1]), file=sys.stderr, flush=True)
    error = done.exception()
    if isinstance(error, UserError):
        raise error
    if error is not None:
        text = str(error) if isinstance(error, GivenUpError) else f"{type(error).__name__}: {error}"
        raise SweepInterruptedError(reason(text)) from error


def step_line(task: int, phase: str, step: int, steps: int, **metrics: float | None) -> str:
    """A step inside a task, with its metrics but for those that were not finite."""
    known = {key: value for key, value in metrics.items() if value is not None}
    return f"task {task}  {phase:<9}  {step}/{steps}  {show_metrics(known)}"
