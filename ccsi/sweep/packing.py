"""`resources.gpu=auto`: how many trials share a GPU, from what one of them takes while it warms up."""

import math
import shutil
from pathlib import Path
from typing import Any

import ray

from ccsi.config import Config, build
from ccsi.errors import UserError
from ccsi.sweep.book import Book
from ccsi.sweep.trial import Place, fresh_start
from ccsi.tracking.events import TaskEnd

MARGIN = 0.2
"""How much more than the warm-up a trial may take later: later tasks have more classes to remember."""
WARM_UP_TASKS = 2
"""The second is the first with impressions and a teacher."""


def share_of_gpu(book: Book, place: Place) -> float:
    """The fraction of a GPU a trial gets, measured with the first setting on an otherwise empty GPU.

    Raises:
        UserError: no machine has a GPU, or the warm-up found the configuration at fault.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not gpus:
        raise UserError(f"resources.gpu=auto: expected a machine with a GPU, but none of the {len(nodes)} has one.")
    values = book.settings[0] if book.settings else {d.key: d.values[0] for d in book.definition.space}
    folder = book.definition.runs / ".warm-up"
    config = book.definition.run_config(values, 1, book.definition.sweep.seeds.tuning[0], folder)
    try:
        used, total = ray.get(ray.remote(num_cpus=place.cpu, num_gpus=1)(warm_up).remote(config, place))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    by_cpu = min(math.floor(node.get("CPU", 0) / place.cpu / node["GPU"] + 1e-6) for node in gpus)
    return 1 / max(1, min(packing(used, total), by_cpu))


def packing(used: int, total: int, margin: float = MARGIN) -> int:
    """How many trials that take `used` bytes, and a margin, fit into `total`; at least one."""
    return max(1, math.floor(total / (used * (1 + margin))))


def warm_up(config: Config, place: Place) -> tuple[int, int]:
    """Bytes of a GPU that a run holds after its first tasks, with all that CUDA takes for itself; and all there are."""
    import torch

    class EnoughError(Exception):
        pass

    def task_end(event: TaskEnd) -> None:
        if event.task + 1 == WARM_UP_TASKS:
            raise EnoughError

    place.enter()
    folder = Path(config["run_dir"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    fresh_start(int(config["seed"]), 1.0)
    try:
        quiet: dict[str, Any] = {"report": False, "checkpoint_every": 1e9}
        build(config | quiet)(on_task_end=task_end)
    except EnoughError:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
    free, total = torch.cuda.mem_get_info()
    return total - free, total
