"""Ray: start it or join it, count what its nodes can run, leave nothing behind."""

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ccsi.errors import UserError
from ccsi.sweep.definition import Cluster
from ccsi.sweep.execution.context import check_node
from ccsi.sweep.execution.failures import reason
from ccsi.sweep.processes import ProcessWatch

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
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30 s if SIGTERM comes while Ray starts
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that warns workers: ours resume from checkpoints
    # A worker is reused once a pruned trial's thread has ended. After Tune's 2 s the next trial would be lost.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
}
import ray  # it reads the variables above when it is imported
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_WITHIN = 13.0  # seconds a Ray address has to answer
HEAD_SILENCE = 45.0  # seconds after which a head that does not answer counts as lost; Ray itself waits 60
CHECK_WITHIN = 60.0  # seconds the nodes have to answer


@contextlib.contextmanager
def start_ray(
    cluster: Cluster, console: Console, watch: ProcessWatch | None = None, dashboard: bool = False
) -> Iterator[None]:
    """Ray for the time of a `with` block, if need be with a `dashboard`; prints where one on this machine is watched.

    Args:
        watch: of the processes of a Ray on this machine.

    Raises:
        UserError: the address is wrong, or does not answer in time; or there is no dashboard.
        KeyboardInterrupt: SIGTERM has come while it started, for which Ray has a handler of its own.
    """
    arguments: dict[str, Any] = {"address": cluster.address or "local"}
    warnings.filterwarnings("ignore", module="ray")
    if cluster.address is None:
        arguments |= {"include_dashboard": cluster.dashboard or dashboard, "dashboard_host": "127.0.0.1"}
        arguments |= {"num_cpus": cluster.num_cpus, "object_store_memory": 150 * 2**20}  # default: 30 % of memory
    else:
        check_cluster(cluster.address)
        watch = None
    try:
        if watch is not None:
            watch.start()
        try:
            joined = _init(arguments, cluster.address)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
        except SystemExit as error:
            raise KeyboardInterrupt from error
        if dashboard and not joined.dashboard_url:
            raise UserError(
                f"resources.workers: trials of several workers need Ray's dashboard (it frees what stopped ones held), "
                f"but the cluster at {cluster.address} has none; start it with `ray start --head "
                "--include-dashboard=true`, with ray[default] installed."
            )
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if cluster.address is None:
            print_addresses(console, joined.address_info["webui_url"] or "")
        if watch is not None:
            watch.arm()
        yield
    finally:
        if watch is not None:
            watch.over.set()  # processes that end now are no accident
        ray.shutdown()
        if watch is not None:
            watch.finish()


def _init(arguments: Mapping[str, Any], address: str | None, attempts: int = 3) -> Any:
    """`ray.init`; on this machine up to three times, because two that start at once may choose the same port."""
    try:
        # Workers look for modules in this folder first: it must not be one that a file names
        with contextlib.chdir(Path(__file__).resolve().parents[3]):
            return ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **arguments)
    except Exception as error:  # Ray raises the plain one, too
        ray.shutdown()
        if address is None and attempts > 1:
            return _init(arguments, address, attempts - 1)
        where = f"join ray.address={address}" if address else "start on this machine"
        raise UserError(f"Ray could not {where}: {str(error).strip().splitlines()[0]}") from error


def print_addresses(console: Console, dashboard: str) -> None:
    """Print where a local Ray is watched: its metrics, its dashboard (host:port, if on), and the token it wants."""
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    lines = [f"Metrics for Prometheus: http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"]
    if dashboard:
        token = os.environ.get("RAY_AUTH_TOKEN") if os.environ.get("RAY_AUTH_MODE") == "token" else None
        if token is not None and not console.is_terminal:  # a log file must not hold it
            token = "shown on a terminal only; or choose one: RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…"
        lines.append(f"Dashboard: http://{dashboard}" + (f" (token: {token})" if token else ""))
    console.print("\n".join(lines), soft_wrap=True)


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
        command = [sys.executable, "-P", "-c", ask]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=ANSWER_WITHIN)
        return
    except subprocess.TimeoutExpired:
        problem = f"no answer within {ANSWER_WITHIN:.0f} s"
    except subprocess.CalledProcessError as error:
        problem = reason(error.stderr)
    raise UserError(
        f"ray.address={address}: no Ray cluster answers there ({problem}); is it up, is it the same Ray version "
        f"({ray.__version__}), and does it want a token (RAY_AUTH_MODE=token)?"
    )


def count_trials(cpu: float, gpu: float, workers: int) -> int:
    """How many trials fit the machines at once; UserError if none does, because Tune would wait for ever."""
    nodes = live_nodes()
    slots = count_slots(nodes, cpu, gpu)
    if slots < workers:
        wants, there = f"{cpu:g} CPUs and {gpu:g} GPUs", f"(there is: {format_nodes(nodes)})"
        if workers > 1:
            raise UserError(f"resources: {workers} workers want {wants} each, but there is room for {slots} {there}.")
        raise UserError(f"resources: a trial wants {wants}, but no machine has them {there}.")
    return slots // workers


def live_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def count_slots(nodes: Sequence[Mapping[str, float]], cpu: float, gpu: float) -> int:
    """How many workers fit these nodes at once."""
    slots = 0
    for node in nodes:
        by_cpu = node.get("CPU", 0.0) / cpu
        by_gpu = node.get("GPU", 0.0) / gpu if gpu > 0 else math.inf
        if 0 < gpu < 1:  # a worker's share must lie on one card
            by_gpu = node.get("GPU", 0.0) * math.floor(1 / max(round(gpu, 4), 1e-4) + 1e-6)  # as Ray counts
        slots += math.floor(min(by_cpu, by_gpu) + 1e-6)
    return slots


def format_nodes(nodes: Sequence[Mapping[str, float]]) -> str:
    """`4 CPUs and 0 GPUs; 3 CPUs and 1 GPUs`."""
    return "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes) or "no node"


def check_nodes(runs: str, storage: str | None, cpu: float, gpu: float) -> None:
    """Raise UserError unless every node with room for a trial can run one: its disk, its packages."""
    for result, address in call_on_nodes(cpu, gpu, check_node, runs, storage).items():
        try:
            ray.get(result)
        except ray.exceptions.RayTaskError as error:
            no_code = f"{reason(str(error))}; expected ccsi to be installed on every node"
            why = error.cause if isinstance(error.cause, UserError) else no_code
            raise UserError(f"node {address} cannot run trials: {why}.") from error
        except ray.exceptions.RayError:
            continue  # the node has just died


def call_on_nodes(cpu: float, gpu: float, function: Callable[..., Any], *arguments: Any) -> dict[Any, str]:
    """Call a function on each node with room for a trial; returns references to the results, and the nodes' addresses.

    A node that does not answer within `CHECK_WITHIN` is left out.
    """
    task, asked = ray.remote(num_cpus=0, max_retries=0)(function), dict[Any, str]()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and count_slots([node["Resources"]], cpu, gpu):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote(*arguments)] = node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=CHECK_WITHIN) if asked else ([], [])
    return {result: asked[result] for result in ready}


def leave_lost_ray(message: str, watch: ProcessWatch | None, *last: Callable[[], object]) -> None:
    """End this process with code 1 because its Ray is lost: Tune hangs in a call that no exception reaches.

    last: what is done before, as far as it ends: a disk may be gone, too.
    """
    print(f"ccsi: interrupted: {message}", file=sys.stderr, flush=True)
    if watch is not None:
        watch.finish()
    for thread in [threading.Thread(target=one, daemon=True) for one in last]:
        thread.start()
        thread.join(10)
    os._exit(1)


@contextlib.contextmanager
def watch_head(address: str, on_head_lost: Callable[[], None]) -> Iterator[None]:
    """Call `on_head_lost` when the head at host:port is silent: Ray would end this process soon, without a message."""
    host, _, port = address.rpartition(":")
    over = threading.Event()

    def watch() -> None:
        heard = time.monotonic()
        while not over.wait(HEAD_SILENCE / 10):
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), timeout=HEAD_SILENCE / 10).close()
                heard = time.monotonic()
            if time.monotonic() - heard > HEAD_SILENCE and not over.is_set():
                return on_head_lost()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
