"""One run shared by several workers, by Ray Train: for `python tune/train.py`, and for a sweep's trial that wants them.

Each worker calls the same `ccsi.experiment.run`; gradients, moments and figures are shared in `ccsi.workers`. A worker
that dies takes the others with it, and all start again from the run's newest checkpoint.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ccsi.config import Config, build
from ccsi.errors import UserError
from ccsi.sweep.trial import Place, Report, finished, fresh_start, sole_user
from ccsi.sweep.watch import RayMetrics
from ccsi.tracking.events import TaskEnd
from ccsi.workers import AgreedError, Workers


def share(config: Config, place: Place, report: Report | None = None, callbacks: Sequence[Any] = ()) -> None:
    """Run `config` in several workers, again after each death, until it is finished or the restarts are used up.

    Args:
        config: of the run; its `run_dir` is on a disk that all machines share.
        report: what the workers tell after each task, if anybody wants to know. callbacks: Ray Train's.

    Raises:
        UserError: what all workers found wrong. ray.train.TrainingFailedError: they died too often.
    """
    folder = Path(config["run_dir"])
    room = folder.with_name(f".{folder.name}.train")  # Ray Train wants one; a run keeps its own record
    one = {"CPU": place.cpu} | ({"GPU": place.gpu} if place.gpu > 0 else {})
    trainer = TorchTrainer(
        work,
        train_loop_config={"config": json.dumps(config), "place": place, "report": report, "room": str(room)},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if place.gpu > 0 else "gloo"),
        scaling_config=ScalingConfig(num_workers=place.workers, use_gpu=place.gpu > 0, resources_per_worker=one),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(room),
            failure_config=FailureConfig(max_failures=place.max_failures),
            callbacks=list(callbacks),
        ),
    )
    shutil.rmtree(room, ignore_errors=True)  # of a driver that was killed
    room.mkdir(parents=True)
    try:
        trainer.fit()
        if (room / "error.txt").exists():
            raise UserError((room / "error.txt").read_text())
    finally:
        shutil.rmtree(room, ignore_errors=True)


def work(given: Mapping[str, Any]) -> None:
    """One worker's part of a run; Ray Train calls it in each, their process group set up."""
    config, place, report = json.loads(given["config"]), given["place"], given["report"]
    place.enter()
    group, folder = Workers.here(), Path(config["run_dir"])

    def task_end(event: TaskEnd) -> None:
        told = report and report.at(event)
        if told:
            train.report(told)

    with sole_user(folder) if group.leads else nullcontext():
        if group.tell(finished(folder) is not None):  # one of us died after the last line was written
            return
        try:
            fresh_start(int(config["seed"]), place.gpu)
            build(config)(on_task_end=task_end, watch=RayMetrics(place.sweep))
        except AgreedError as error:  # starting again would not mend it
            if group.leads:
                Path(given["room"], "error.txt").write_text(str(error))
