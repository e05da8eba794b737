"""Processes joined by gloo on this machine, as `ccsi train` joins a run's workers."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ccsi.experiment", "torch._dynamo"])  # ten seconds, once instead of in each worker


def join(rank: int, size: int, file: str) -> None:
    """Become one of the workers."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )


class Joined:
    """Calls a module's function on all workers at once, and returns all results."""

    def __init__(self, size: int = 2) -> None:
        self.folder = tempfile.TemporaryDirectory()
        file = str(Path(self.folder.name) / "meet")
        self.workers = [ProcessPoolExecutor(1, FORKS, join, (rank, size, file)) for rank in range(size)]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        calls = [worker.submit(function, *arguments) for worker in self.workers]
        return [call.result(timeout=120) for call in calls]

    def close(self) -> None:
        for worker in self.workers:
            worker.submit(os._exit, 0)  # at once: tidying up takes each of them seconds
        for worker in self.workers:
            worker.shutdown()
        self.folder.cleanup()
