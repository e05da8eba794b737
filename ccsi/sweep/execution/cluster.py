"""Ray: start it or join it, count what its nodes can run, leave nothing behind."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ccsi.errors import UserError
from ccsi.sweep.definition import Cluster
from ccsi.sweep.execution.context import check_node
from ccsi.sweep.execution.failures import reason

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # Tune's actors cannot use workers started beforehand
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs keep their own record
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is unused: all trials' so far, every ten seconds
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be switched off
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # reports are events, not metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled here: stop at once, write the tables, say how to resume
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A worker is reused once a pruned trial's thread has ended. After Tune's 2 s the next trial would be lost.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
}
import ray  # it reads the variables above when it is imported
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

START_ATTEMPTS = 3
"""How often Ray is started on this machine until it is given up."""
ANSWER_WITHIN = 13.0
"""Seconds a Ray address has to answer."""
HEAD_SILENCE = 45.0
"""Seconds after which a head that does not answer counts as lost; Ray itself waits 60."""
CHECK_WITHIN = 60.0
"""Seconds the nodes have to answer whether they can run trials."""
PASSED_ON = ("CCSI_DATA", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "TUNE_FUNCTION_THREAD_TIMEOUT_S")
"""Environment variables of the driver that trials get."""

Resources = Mapping[str, float]


@contextlib.contextmanager
def start_ray(cluster: Cluster, dashboard: bool = False) -> Iterator[str | None]:
    """Ray for the time of a `with` block.

    Args:
        dashboard: it must have one.

    Yields:
        host:port of the dashboard of a local Ray ("": it is off); None on a running cluster.

    Raises:
        UserError: the address is wrong, or does not answer in time; or there is no dashboard.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    warnings.filterwarnings("ignore", module="ray")
    if cluster.address is None:
        arguments: dict[str, Any] = {"address": "local", "num_cpus": cluster.num_cpus}
        arguments |= {"include_dashboard": cluster.dashboard or dashboard}
        arguments |= {"dashboard_host": "127.0.0.1", "object_store_memory": 150 * 2**20}  # default: 30 % of memory
    else:
        check_cluster(cluster.address)
        arguments = {"address": cluster.address}
    try:
        joined = _init(arguments | quiet, cluster)
        if dashboard and not joined.dashboard_url:
            raise UserError(
                f"resources.workers: trials of several workers need Ray's dashboard (it frees what stopped ones held), "
                f"but the cluster at {cluster.address} has none; start it with `ray start --head "
                "--include-dashboard=true`, with ray[default] installed."
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield None if cluster.address else joined.address_info["webui_url"] or ""
    finally:
        ray.shutdown()


def _init(arguments: Mapping[str, Any], cluster: Cluster) -> Any:
    """`ray.init`; on this machine three times, because two that start at once may choose the same port."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return ray.init(**arguments)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            ray.shutdown()
            if cluster.address is None and attempt < START_ATTEMPTS:
                continue
            where = f"join ray.address={cluster.address}" if cluster.address else "start on this machine"
            raise UserError(f"Ray could not {where}: {str(error).strip().splitlines()[0]}") from error
    raise AssertionError


def check_cluster(address: str) -> None:
    """Raise UserError unless a Ray cluster answers at `address` (auto or host:port) within about 15 s."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in address:
            raise UserError(f"ray.address={address}: expected null, auto, or host:port of a running cluster.")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(
                f"ray.address={address}: no answer ({error}); start a cluster with `ray start --head`, or "
                "leave ray.address=null to use this machine."
            ) from error
    # Something listens, but is it Ray? Ask in a child: ray.init itself waits for a minute, deaf to signals.
    ask = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='CRITICAL'); ray.shutdown()"
    try:
        child = subprocess.run(
            [sys.executable, "-c", ask], check=False, capture_output=True, text=True, timeout=ANSWER_WITHIN
        )
        problem = (child.stderr.strip().splitlines() or ["no reason given"])[-1] if child.returncode else None
    except subprocess.TimeoutExpired:
        problem = f"no answer within {ANSWER_WITHIN:.0f} s"
    if problem is not None:
        raise UserError(
            f"ray.address={address}: no Ray cluster answers there ({problem}); is it up, is it the same Ray version "
            f"({ray.__version__}), and does it want a token (RAY_AUTH_MODE=token)?"
        )


def count_trials(cpu: float, gpu: float, workers: int = 1) -> int:
    """How many trials of so many workers fit the machines at once; `cpu` and `gpu` are a worker's.

    Raises:
        UserError: not even one, naming what there is. (Tune would wait for ever without a message.)
    """
    nodes = live_nodes()
    slots = count_slots(nodes, cpu, gpu)
    if slots < workers:
        wants = f"{cpu:g} CPUs and {gpu:g} GPUs"
        if workers > 1:
            raise UserError(
                f"resources: {workers} workers want {wants} each, but there is room for {slots} (there is: "
                f"{format_nodes(nodes)})."
            )
        raise UserError(f"resources: a trial wants {wants}, but no machine has them (there is: {format_nodes(nodes)}).")
    return slots // workers


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def count_slots(nodes: Sequence[Resources], cpu: float, gpu: float) -> int:
    """How many workers fit these nodes at once."""
    slots = 0
    for node in nodes:
        by_cpu = node.get("CPU", 0.0) / cpu
        by_gpu = node.get("GPU", 0.0) / gpu if gpu > 0 else math.inf
        if 0 < gpu < 1:  # a worker's share must lie on one card
            by_gpu = node.get("GPU", 0.0) * math.floor(1 / max(round(gpu, 4), 1e-4) + 1e-6)  # as Ray counts
        slots += math.floor(min(by_cpu, by_gpu) + 1e-6)
    return slots


def format_nodes(nodes: Sequence[Resources]) -> str:
    """`4 CPUs and 0 GPUs; 3 CPUs and 1 GPUs`."""
    return "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes) or "no node"


def check_nodes(runs: str, storage: str | None, cpu: float, gpu: float) -> None:
    """Raise UserError unless every node with room for a trial can run one: its disk, its packages.

    (Its trials would fail one after another.)
    """
    task, asked = ray.remote(num_cpus=0, max_retries=0)(check_node), dict[Any, str]()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and count_slots([node["Resources"]], cpu, gpu):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote(runs, storage)] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=CHECK_WITHIN) if asked else ([], [])
    for answer in answered:
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(f"node {asked[answer]} cannot run trials: {error.cause}.") from error
            raise UserError(  # not even our code is there
                f"node {asked[answer]} cannot run trials: {reason(str(error))}; expected ccsi to be installed on every "
                "node."
            ) from error
        except ray.exceptions.RayError:
            continue  # the node has just died


@contextlib.contextmanager
def watch_head(address: str, on_head_lost: Callable[[], None]) -> Iterator[None]:
    """Call `on_head_lost` when the head at host:port is silent: Ray would end this process soon, without a message."""
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        heard = time.monotonic()
        while not over.wait(HEAD_SILENCE / 10):
            try:
                socket.create_connection((host, int(port)), timeout=HEAD_SILENCE / 10).close()
                heard = time.monotonic()
            except OSError:
                if time.monotonic() - heard > HEAD_SILENCE and not over.is_set():
                    on_head_lost()
                    return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def clean_nodes(runs: str) -> None:
    """Remove what trials left on the nodes' own disks: copies of the images among it."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(shutil.rmtree)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    ray.wait(
        [task.options(scheduling_strategy=one).remote(runs, ignore_errors=True) for one in there],
        num_returns=len(nodes),
        timeout=CHECK_WITHIN,
    )
