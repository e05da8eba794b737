"""One run shared by several workers of Ray Train: for `ccsi train`, and for a sweep's trial with several workers.

Each worker calls the same `ccsi.experiment.run`, which shares gradients, moments and figures (`ccsi.distributed`). A
worker that crashes ends the others too, and all start again from the run's newest checkpoint.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from ray import train, tune
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer without its process group
from ray.util.queue import Empty, Queue

from ccsi.config import Config, build
from ccsi.distributed import AgreedError, ProcessGroup
from ccsi.errors import UserError
from ccsi.io.run_files import read_result
from ccsi.sweep.execution.context import TrialContext, reset_process, sole_user, start_thread
from ccsi.sweep.execution.failures import RetryCounter, memory_advice
from ccsi.sweep.execution.metrics import RayMetrics
from ccsi.tracking.events import TaskEnd

WORKER_CRASHED = (TrainingFailedError, RayError)  # or Ray Train's own actor did, because its node is lost
ERROR = "error.txt"  # in Ray Train's folder: an error that a retry would not change


class Forward(UserCallback):
    """Puts what the workers report into a queue, from which the trial's own thread reports to Tune.

    With Ray's TuneReportCallback another thread does, and waits forever if the trial itself reports before it.
    """

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.reports.put(metrics[0])


def run_workers(config: Config, context: TrialContext, on_task_end: Callable[[TaskEnd], None] | None = None) -> None:
    """Run `config` in several workers once: until it is finished, or one of them crashes.

    Args:
        config: of the run; its `run_dir` is on a disk that all machines share.
        on_task_end: in a Tune trial: called in each worker after each task. What it reports to Ray Train, Tune gets.

    Raises:
        UserError: what the workers found wrong. One of `WORKER_CRASHED`.
    """
    folder = Path(config["run_dir"])
    scratch = folder.with_name(f".{folder.name}.train")  # Ray Train wants one; a run keeps its own record
    one = {"CPU": context.cpu} | ({"GPU": context.gpu} if context.gpu > 0 else {})
    payload = {"config": json.dumps(config), "context": context, "on_task_end": on_task_end, "scratch": str(scratch)}
    backend: BackendConfig = TorchConfig(backend="cpu:gloo,cuda:nccl" if context.gpu > 0 else "gloo")
    if context.local and context.gpu == 0:  # on the loopback device, rather than by a port open to all
        backend = BackendConfig()
        payload["meet"] = f"file://{scratch}/meet-{uuid4().hex}"
    reports = Queue(actor_options={"num_cpus": 0}) if on_task_end else None
    trainer = DataParallelTrainer(
        work,
        train_loop_config=payload,
        backend_config=backend,
        scaling_config=ScalingConfig(num_workers=context.workers, use_gpu=context.gpu > 0, resources_per_worker=one),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=0),  # see `RetryCounter`
            callbacks=[] if reports is None else [Forward(reports)],  # type: ignore[list-item]
        ),
    )
    shutil.rmtree(scratch, ignore_errors=True)  # of a driver that was killed
    scratch.mkdir(mode=0o700, parents=True)
    try:
        try:
            done = start_thread(trainer.fit)
            while reports is not None and not (done.done() and reports.empty()):
                with suppress(Empty):
                    tune.report(reports.get(timeout=0.5))  # SystemExit if Tune stops the trial: its workers end with it
            if reports is not None:
                reports.shutdown()
            done.result()
        except WORKER_CRASHED:  # Ray names only where; our workers write into the file what a retry would not change
            if not (scratch / ERROR).exists():
                raise
        if (scratch / ERROR).exists():
            raise UserError((scratch / ERROR).read_text())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_workers_with_retries(config: Config, context: TrialContext) -> None:
    """`run_workers`, repeated as long as it gets further: see `RetryCounter`."""
    retries = RetryCounter(Path(config["run_dir"]), context)
    try:
        while True:
            with suppress(*WORKER_CRASHED), retries.attempt():  # a retry changes no other error
                return run_workers(config, context)
    finally:
        retries.clear()


def work(payload: Mapping[str, Any]) -> None:
    """One worker's part of a run; Ray Train calls it in each."""
    config, context = json.loads(payload["config"]), payload["context"]
    context.enter()
    folder = Path(config["run_dir"])
    if "meet" in payload:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        me = train.get_context()
        rank, size = me.get_world_rank(), me.get_world_size()
        torch.distributed.init_process_group("gloo", payload["meet"], rank=rank, world_size=size)
    group = ProcessGroup.current()
    try:
        with sole_user(folder) if group.is_main else nullcontext():
            if group.broadcast_object(read_result(folder) is not None):  # one crashed after the last line was written
                return
            reset_process(int(config["seed"]), context.gpu)
            watch, describe = RayMetrics(context.sweep), payload["on_task_end"] is None  # not in a sweep's trials
            build(config)(on_task_end=payload["on_task_end"], watch=watch, describe=describe)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else memory_advice(error, context.gpu)
        if text is not None and (group.is_main or not isinstance(error, AgreedError)):
            Path(payload["scratch"], ERROR).write_text(text)
        if not isinstance(error, AgreedError):  # this worker's own: the others wait for it until Ray ends them
            raise
