"""One run shared by several workers, by Ray Train: for `python tune/train.py`, and for a sweep's trial that wants them.

Each worker calls the same `ccsi.experiment.run`; gradients, moments and figures are shared in
`ccsi.distributed`. A worker that dies takes the others with it, and all start again from the run's newest checkpoint.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ray import train
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer without its process group

from ccsi.config import Config, build
from ccsi.distributed import AgreedError, ProcessGroup
from ccsi.errors import UserError
from ccsi.sweep.trial import Attempts, Place, Report, finished, fresh_start, out_of_memory, sole_user
from ccsi.sweep.watch import RayMetrics
from ccsi.tracking.events import TaskEnd

DIED = (TrainingFailedError, RayError)
"""A worker died or raised; Ray Train's own actor did, as its node is gone."""
ERROR = "error.txt"
"""In Ray Train's folder: what starting again would not mend."""


def share(config: Config, place: Place, report: Report | None = None, callbacks: Sequence[Any] = ()) -> None:
    """Run `config` in several workers once: until it is finished, or one of them dies.

    Args:
        config: of the run; its `run_dir` is on a disk that all machines share.
        report: what the workers tell after each task, if anybody wants to know. callbacks: Ray Train's.

    Raises:
        UserError: what the workers found wrong. One of `DIED`.
    """
    folder = Path(config["run_dir"])
    room = folder.with_name(f".{folder.name}.train")  # Ray Train wants one; a run keeps its own record
    one = {"CPU": place.cpu} | ({"GPU": place.gpu} if place.gpu > 0 else {})
    given = {"config": json.dumps(config), "place": place, "report": report, "room": str(room)}
    joined: BackendConfig = BackendConfig()  # not at all: see `joins`
    if not joins(place):
        joined = TorchConfig(backend="cpu:gloo,cuda:nccl" if place.gpu > 0 else "gloo")
    trainer = DataParallelTrainer(
        work,
        train_loop_config=given,
        backend_config=joined,
        scaling_config=ScalingConfig(num_workers=place.workers, use_gpu=place.gpu > 0, resources_per_worker=one),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(room),
            failure_config=FailureConfig(max_failures=0),  # see `Attempts`
            callbacks=list(callbacks),
        ),
    )
    shutil.rmtree(room, ignore_errors=True)  # of a driver that was killed
    room.mkdir(parents=True)
    try:
        try:
            trainer.fit()
        except DIED:  # whatever broke off, Ray names only where; our workers write into the file what no restart mends
            if not (room / ERROR).exists():
                raise
        if (room / ERROR).exists():
            raise UserError((room / ERROR).read_text())
    finally:
        shutil.rmtree(room, ignore_errors=True)


def persist(config: Config, place: Place) -> None:
    """`share`, again and again as long as it gets further: see `Attempts`.

    Raises:
        UserError: what the workers found wrong. One of `DIED`: too often at one place.
        RuntimeError: they had done so before; the last reason.
    """
    attempts = Attempts(Path(config["run_dir"]), str(os.getpid()))
    try:
        while True:
            problem = attempts.begin(place.max_failures)
            if problem:
                raise RuntimeError(problem)
            try:
                return share(config, place)
            except DIED:  # anything else no restart mends
                problem = attempts.broke(place.max_failures, traceback.format_exc(), "")
                if problem:
                    raise
    finally:
        attempts.path.unlink(missing_ok=True)


def joins(place: Place) -> bool:
    """Whether the workers find each other by a file, on the loopback device, rather than by a port open to all."""
    return place.local and place.gpu == 0


def work(given: Mapping[str, Any]) -> None:
    """One worker's part of a run; Ray Train calls it in each."""
    config, place, report = json.loads(given["config"]), given["place"], given["report"]
    place.enter()
    folder, error_file = Path(config["run_dir"]), Path(given["room"], ERROR)
    if joins(place):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        me = train.get_context()
        torch.distributed.init_process_group(
            "gloo", f"file://{given['room']}/meet", rank=me.get_world_rank(), world_size=me.get_world_size()
        )
    group = ProcessGroup.current()

    def task_end(event: TaskEnd) -> None:
        told = report and report.at(event)
        if told:
            train.report(told)

    try:
        with sole_user(folder) if group.is_main else nullcontext():
            if group.broadcast_object(finished(folder) is not None):  # one of us died after the last line was written
                return
            fresh_start(int(config["seed"]), place.gpu)
            build(config)(on_task_end=task_end, watch=RayMetrics(place.sweep))
    except AgreedError as error:
        if group.is_main:
            error_file.write_text(str(error))
    except UserError as error:  # this worker's own: the others wait for it until Ray ends them
        error_file.write_text(str(error))
        raise
    except Exception as error:
        told = out_of_memory(error, place.gpu)
        if told:
            error_file.write_text(told)
        raise
