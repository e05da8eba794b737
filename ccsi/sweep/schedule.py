"""Ray: start or join it, hand Tune one trial after another, leave nothing behind.

Tune decides where and when a trial runs, restarts it when it breaks off, and prunes. What has been done is
never asked of Tune but read from the runs' own folders, and every sweep uses a fresh Tuner: that is what makes
going on after kill -9 exact (Tune's own restore lags behind and may lose trials without a word).
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccsi.errors import UserError
from ccsi.sweep.book import Book, BrokenOffError
from ccsi.sweep.definition import Cluster, Definition
from ccsi.sweep.trial import WORKER_DIED, Place, reason, run_trial, unfit

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's actors cannot use workers started beforehand
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs keep their own record
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is never asked for: all trials' so far, every ten seconds
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be switched off
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # phase 2 reports nothing to compare
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: stop at once, write the tables, say how to go on
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A worker is used again once a pruned trial's thread has ended. After Tune's 2 s the next trial would be lost.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
}
import ray  # it reads the variables above when it is imported
from ray import tune
from ray.tune.search import Searcher
from ray.tune.trainable.function_trainable import wrap_function
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ccsi.sweep.packing import share_of_gpu
from ccsi.sweep.pruning import Referee

ANSWER_WITHIN = 13.0
"""Seconds a Ray address has to answer."""
SILENCE = 45.0
"""Seconds after which a head that does not answer is given up; Ray itself gives up after 60."""
VISIT_WITHIN = 60.0
"""Seconds the nodes have to say whether they can run trials."""
TUNE = "ray"
"""Tune's own files, in the sweep's folder while it runs."""
LOOK_EVERY = 10.0
"""Seconds between two looks at how many trials fit the nodes there are."""
PASSED_ON = ("CCSI_DATA", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "TUNE_FUNCTION_THREAD_TIMEOUT_S")


@contextlib.contextmanager
def cluster(settings: Cluster, dashboard: bool = False) -> Iterator[str | None]:
    """Ray for the time of a `with` block; `dashboard`: it must have one.

    Gives host:port of the dashboard of a local Ray ("": it is off), None on a running cluster.

    Raises:
        UserError: the address is not one, or nobody answers there in time; or there is no dashboard.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    warnings.filterwarnings("ignore", module="ray")
    if settings.address is None:
        arguments: dict[str, Any] = {"address": "local", "num_cpus": settings.num_cpus}
        arguments |= {"include_dashboard": settings.dashboard or dashboard}
        arguments |= {"dashboard_host": "127.0.0.1", "object_store_memory": 150 * 2**20}  # default: 30 % of memory
    else:
        answers(settings.address)
        arguments = {"address": settings.address}
    try:
        try:
            joined: Any = ray.init(**arguments, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"join ray.address={settings.address}" if settings.address else "start on this machine"
            raise UserError(f"Ray could not {where}: {str(error).strip().splitlines()[0]}") from error
        if dashboard and not joined.dashboard_url:
            raise UserError(
                f"resources.workers: trials of several workers need Ray's dashboard (it frees what stopped ones held), "
                f"but the cluster at {settings.address} has none; start it with `ray start --head "
                "--include-dashboard=true`, with ray[default] installed."
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own there
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield None if settings.address else joined.address_info["webui_url"] or ""
    finally:
        ray.shutdown()


def answers(address: str) -> None:
    """UserError unless a Ray cluster answers at `address` (auto or host:port) within about 15 s."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in address:
            raise UserError(f"ray.address={address}: expected null, auto, or host:port of a running cluster.")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(
                f"ray.address={address}: nobody answers there ({error}); start a cluster with `ray start --head`, or "
                "leave ray.address=null to use this machine."
            ) from error
    # Something listens, but is it Ray? Ask in a child: ray.init itself waits for a minute, deaf to signals.
    ask = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='CRITICAL'); ray.shutdown()"
    try:
        child = subprocess.run(
            [sys.executable, "-c", ask], check=False, capture_output=True, text=True, timeout=ANSWER_WITHIN
        )
        problem = "" if child.returncode == 0 else (child.stderr.strip().splitlines() or ["no reason given"])[-1]
    except subprocess.TimeoutExpired:
        problem = f"no answer within {ANSWER_WITHIN:.0f} s"
    if problem:
        raise UserError(
            f"ray.address={address}: no Ray cluster answers there ({problem}); is it up, is it the same Ray version "
            f"({ray.__version__}), and does it want a token (RAY_AUTH_MODE=token)?"
        )


def capacity(cpu: float, gpu: float, workers: int = 1) -> int:
    """How many trials of so many workers fit the machines at once; `cpu` and `gpu` are a worker's.

    Raises:
        UserError: not even one, saying what there is. (Tune would wait for ever without a word.)
    """
    nodes = alive()
    fits = room(nodes, cpu, gpu)
    if fits < workers:
        wants = f"{cpu:g} CPUs and {gpu:g} GPUs"
        if workers > 1:
            raise UserError(
                f"resources: {workers} workers want {wants} each, but there is room for {fits} (there is: "
                f"{told(nodes)})."
            )
        raise UserError(f"resources: a trial wants {wants}, but no machine has them (there is: {told(nodes)}).")
    return fits // workers


def alive() -> list[dict[str, float]]:
    """What each node of the cluster has, of those that are there now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def room(nodes: Sequence[Mapping[str, float]], cpu: float, gpu: float) -> int:
    """How many workers fit these nodes at once."""
    fits = 0
    for node in nodes:
        by_cpu = node.get("CPU", 0.0) / cpu
        by_gpu = node.get("GPU", 0.0) / gpu if gpu > 0 else math.inf
        if 0 < gpu < 1:  # a worker's share must lie on one card
            by_gpu = node.get("GPU", 0.0) * math.floor(1 / max(round(gpu, 4), 1e-4) + 1e-6)  # as Ray counts
        fits += math.floor(min(by_cpu, by_gpu) + 1e-6)
    return fits


def told(nodes: Sequence[Mapping[str, float]]) -> str:
    """Nodes in words."""
    return "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes) or "no node"


def visit(runs: str, storage: str | None, cpu: float, gpu: float) -> None:
    """Ask every node that has room for a trial whether it could run one: its disk, its packages.

    Raises:
        UserError: one could not. (Its trials would fail one after another.)
    """
    ask, asked = ray.remote(num_cpus=0, max_retries=0)(unfit), dict[Any, str]()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and room([node["Resources"]], cpu, gpu):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ask.options(scheduling_strategy=there).remote(runs, storage)] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=VISIT_WITHIN) if asked else ([], [])
    for answer in answered:
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # not even our code is there
            problem = f"{reason(str(error))}; expected ccsi to be installed on every node"
        except ray.exceptions.RayError:
            continue  # the node has just died
        if problem:
            raise UserError(f"node {asked[answer]} cannot run trials: {problem}.")


@contextlib.contextmanager
def head_watched(address: str, gone: Callable[[], None]) -> Iterator[None]:
    """Call `gone` when the cluster's head at host:port is silent: Ray would end this process soon, without a word."""
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        heard = time.monotonic()
        while not over.wait(SILENCE / 10):
            try:
                socket.create_connection((host, int(port)), timeout=SILENCE / 10).close()
                heard = time.monotonic()
            except OSError:
                if time.monotonic() - heard > SILENCE and not over.is_set():
                    gone()
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def tidy(runs: str) -> None:
    """Remove what trials left on the nodes' own disks: copies of the images among it."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(shutil.rmtree)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    ray.wait(
        [task.options(scheduling_strategy=one).remote(runs, ignore_errors=True) for one in there],
        num_returns=len(nodes),
        timeout=VISIT_WITHIN,
    )


class Supply(Searcher):
    """Tune's search algorithm that asks us for the next trial.

    Args:
        at_a_time: how many may live at once; `look`: asked for it again now and then, as nodes come and go.
    """

    def __init__(
        self, trials: Iterator[dict[str, Any] | None], at_a_time: int, look: Callable[[], int] | None = None
    ) -> None:
        super().__init__()
        self.trials, self.at_a_time, self.live = trials, at_a_time, set[str]()
        self.again: list[dict[str, Any]] = []
        self.look, self.looked = look, time.monotonic()

    def suggest(self, trial_id: str) -> Any:
        if self.look is not None and time.monotonic() - self.looked > LOOK_EVERY:
            self.at_a_time, self.looked = self.look(), time.monotonic()
        if len(self.live) >= self.at_a_time:
            return None
        try:
            trial = self.again.pop(0) if self.again else next(self.trials)
        except StopIteration:
            return None if self.live else Searcher.FINISHED  # one of those may have to be offered again
        if trial is not None:
            self.live.add(trial_id)
        return trial

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.live.discard(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a copy of everything for a restore that never happens

    def save(self, checkpoint_path: str) -> None:
        """Nothing: going on is our own affair."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class Events(tune.Callback):
    """Tune's events by the trial's short name, told to the journal and the progress line."""

    def __init__(self, book: Book, supply: Supply) -> None:
        self.book, self.supply, self.broken, self.repeated = book, supply, set[str](), Counter[str]()
        self.reasons: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self.book.started(trial.config["name"])

    def on_trial_result(self, iteration: int, trials: Sequence[Any], trial: Any, result: Any, **info: Any) -> None:
        if "value" in result:
            keys = ("run", "task", "tasks", "score", "seconds", "tasks_done", "value")
            report = {key: result[key] for key in keys}
            self.book.reported(trial.config["name"], report)

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        if trial.error_file:
            self.reasons[trial.trial_id] = reason(Path(trial.error_file).read_text())

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        told = trial.last_result or {}
        error = told.get("error")
        if error == WORKER_DIED:  # all a trial can say of its own end; Ray may know more
            error = self.reasons.get(trial.trial_id, error)
        self.book.ended(trial.config["name"], error, told.get("text", ""))
        if hasattr(trial, "run_metadata"):  # statistics of each number it told, and its configurations: not read again
            trial.run_metadata.metric_analysis.clear()
            trial.run_metadata.metric_n_steps.clear()
            trial.config["runs"] = ""

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self.broken.add(trial.trial_id)
        text = Path(trial.error_file).read_text() if trial.error_file else "it broke off without a reason"
        name = trial.config["name"]
        if reason(text) == WORKER_DIED and self.repeated[name] < self.book.definition.sweep.max_failures:
            # Tune counts no failures when it hands a trial to an idle worker that has died: it gives the trial up
            self.repeated[name] += 1
            self.book.running.discard(name)
            self.supply.again.append(trial.config)
            return
        self.book.broke(name, text)

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        for trial in trials:
            if trial.status == "ERROR" and trial.trial_id not in self.broken:  # Tune gives some up without a word
                self.on_trial_error(iteration, trials, trial)
                self.supply.on_trial_complete(trial.trial_id, error=True)
        self.book.tick()


def run_trials(definition: Definition, book: Book, trials: Iterator[dict[str, Any] | None]) -> None:
    """Run every trial of `trials` (see `ccsi.sweep.phases`) and keep the book.

    Both phases go through one Tuner, so that phase 2 finds a worker of phase 1 warm.

    Raises:
        UserError: no machine has what a trial wants, or the warm-up of resources.gpu=auto failed.
        BrokenOffError: the disk is full, or Tune gave up; what is done is kept.
    """
    sweep, cpu, workers = definition.sweep, definition.cpus(), definition.resources.workers
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    place = Place(workers, cpu, 1.0, sweep.max_failures, environment, definition.cwd, definition.name, sweep.storage)
    wanted = definition.resources.gpu
    gpu = float(wanted) if wanted != "auto" else share_of_gpu(book, place, alive())
    call = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    place = replace(place, gpu=gpu, call=call, local=definition.ray.address is None)
    # with ray.autoscale the nodes come when trials wait for them
    autoscaled = sweep.max_concurrent if definition.ray.autoscale else None
    fits = autoscaled or capacity(cpu, gpu, workers)

    if definition.ray.address is not None:
        visit(str(definition.runs), sweep.storage, cpu, gpu)

    def at_a_time() -> int:
        """As many as fit; and one waiting, so that no worker idles."""
        at_most = sweep.max_concurrent or fits
        # those of several workers ask for nothing that would hold one back
        return min(fits, at_most) + (sweep.search != "optuna" and 0 < fits <= at_most and workers == 1)

    def look() -> int:
        nonlocal fits
        book.keep()
        before, nodes = fits, alive()
        fits = autoscaled or room(nodes, cpu, gpu) // workers
        if before and not fits:
            book.console.print(f"No room for a trial is left (there is: {told(nodes)}): waiting.", highlight=False)
        return at_a_time()

    # Workers start side by side; by default one by one, each in danger: when a trial ends, Tune gives its worker to
    # the next trial and gives up the worker still starting for that one. (It does so still, if starts differ by more
    # than a trial takes: no trial is lost then, only a place idle.)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(fits, sweep.max_concurrent or fits))
    storage = definition.folder / TUNE
    shutil.rmtree(storage, ignore_errors=True)  # of a driver that was killed
    wants = {"cpu": cpu, "gpu": gpu} if gpu > 0 else {"cpu": cpu}
    if workers > 1:  # the trial itself only waits for its workers, which Ray Train asks for
        wants = {"memory": 1}
    trial = tune.with_resources(tune.with_parameters(run_trial, place=place, metric=sweep.metric), wants)
    trainable = wrap_function(trial, name=definition.name)  # in the dashboard an actor is a Trial of this sweep
    trainable.__name__ = trainable.__qualname__ = "Trial"
    supply = Supply(trials, at_a_time(), look)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=supply,
            scheduler=Referee(book),
            num_samples=-1,
            reuse_actors=workers == 1,
            trial_name_creator=lambda trial: trial.config["name"],
            trial_dirname_creator=lambda trial: trial.config["name"],
        ),
        run_config=tune.RunConfig(
            name=call,
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=1000),  # a trial counts for itself: see `Attempts`
            callbacks=[Events(book, supply)],
            verbose=0,
        ),
    )
    address = ray.get_runtime_context().gcs_address

    def gone() -> None:
        told = f"the cluster's head at {address} no longer answers; start it again"
        print(f"sweep: broke off: {told}, and go on with resume={definition.folder}.", file=sys.stderr, flush=True)
        last = [threading.Thread(target=one, daemon=True) for one in (book.lay_down, book.keep)]
        for thread in last:  # a disk may be gone with the head
            thread.start()
            thread.join(10)
        os._exit(1)  # Tune hangs in a call that no exception reaches

    try:
        with head_watched(address, gone):
            tuner.fit()
    except (OSError, tune.TuneError) as error:  # Tune wraps what our callbacks meet, but not what Supply and disk do
        raise BrokenOffError(reason(str(error))) from error
    if sweep.storage is not None:
        tidy(str(definition.runs))
