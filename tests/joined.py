"""Processes joined by gloo on this machine, as `tune/train.py` joins a run's workers."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any


def join(rank: int, size: int, file: str) -> None:
    """Become one of the workers."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )


class Joined:
    """Calls a module's function on all workers at once, and gives all results."""

    def __init__(self, size: int = 2) -> None:
        self.folder = tempfile.TemporaryDirectory()
        file, spawn = str(Path(self.folder.name) / "meet"), multiprocessing.get_context("spawn")
        self.workers = [ProcessPoolExecutor(1, spawn, join, (rank, size, file)) for rank in range(size)]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        calls = [worker.submit(function, *arguments) for worker in self.workers]
        return [call.result(timeout=120) for call in calls]

    def close(self) -> None:
        for worker in self.workers:
            worker.shutdown(cancel_futures=True)
        self.folder.cleanup()
