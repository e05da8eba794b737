"""Where and how runs compute on a node, and whether a node can run them."""

import contextlib
import gc
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ccsi.config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.io.locks import InUseError, locked
from ccsi.io.run_files import read_result
from ccsi.sweep.remote import Remote
from ccsi.tracking.events import TaskEnd, Tracker

CUDA_CONTEXT = 2**29
"""Bytes of a GPU that CUDA itself takes in each process, about: no allocator can cap them."""
SHARED_FOLDER = "sweep.dir must be a folder all nodes share, or sweep.storage be set"


@dataclass(frozen=True)
class TrialContext:
    """Where and how runs compute.

    Attributes:
        workers: processes that share a run. cpu, gpu: of each of them; gpu: the share of a card it may fill.
        max_failures: how often they start again when one crashes.
        environment: variables to set, because the driver's environment does not reach a running cluster.
        cwd: the driver's working directory, for relative paths; left alone if a node does not have it.
        sweep: its name, for the metrics. storage: where runs are kept if machines share no folder.
        call: names the driver's process; crashes are counted afresh in each. local: all runs on this machine.
        import_path: folders of modules outside the package.
    """

    workers: int
    cpu: float
    gpu: float
    max_failures: int
    environment: Mapping[str, str]
    cwd: str
    sweep: str = ""
    storage: str | None = None
    call: str = ""
    local: bool = False
    import_path: tuple[str, ...] = ()

    def enter(self) -> None:
        """Set what this process needs."""
        os.environ.update(self.environment)
        sys.path += [folder for folder in self.import_path if folder not in sys.path]
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)

    def check_folder(self, runs: Path) -> None:
        """Make sure that the folder of the runs is on this machine; it is made where each machine has its own.

        Raises:
            UserError: it is not, or belongs to another user.
        """
        if self.storage is None:
            if not runs.is_dir():
                raise UserError(f"{runs} is not on node {socket.gethostname()}: {SHARED_FOLDER}")
            return
        runs.mkdir(parents=True, exist_ok=True)
        top = runs.parent
        if top.stat().st_uid != os.getuid():
            raise UserError(f"{top} belongs to another user; expected it to be free, or TMPDIR to name another place.")
        top.chmod(0o700)  # images lie there


def check_node(runs: str, storage: str | None) -> None:
    """Make sure that this machine can run trials whose runs live in `runs`, or at `storage`.

    Raises:
        UserError: it cannot.
    """
    if storage is not None:
        Remote(storage).check()
        return
    try:
        with tempfile.TemporaryFile(dir=runs):
            same = (Path(runs).parent / "sweep.yaml").exists()
    except OSError as error:
        raise UserError(f"{runs}: {error.strerror or type(error).__name__}; {SHARED_FOLDER}") from error
    if not same:
        raise UserError(f"{runs}: another folder of this name; {SHARED_FOLDER}")


def execute(
    config: Config,
    on_task_end: Callable[[TaskEnd], None],
    watch: Tracker | None = None,
    storage: str | None = None,
) -> dict[str, Any]:
    """Run, resume, or only read (when finished) one run; returns the contents of its result.json.

    With a storage the run is fetched from there, copied to it at each checkpoint, and at the end removed from here.
    """
    folder = Path(config["run_dir"])
    with sole_user(folder):
        push: Callable[[], None] | None = None
        if storage is not None:
            remote = Remote(storage)
            remote.pull(f"runs/{folder.name}", folder)
            push = partial(remote.push, folder, f"runs/{folder.name}")
        result = read_result(folder)
        if result is None:
            ccsi.config.build(config)(on_task_end=on_task_end, on_checkpoint=push, watch=watch)
            result = read_result(folder)
        if push is not None and result is not None:
            push()
            shutil.rmtree(folder)
    if result is None:
        raise RuntimeError(f"the run ended without writing {folder / 'result.json'}")
    return result


@contextlib.contextmanager
def sole_user(folder: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the run's lock: a worker of a killed sweep may live for some seconds and must not write beside us."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.parent / f".{folder.name}.lock", wait=patience))
        except InUseError:
            raise RuntimeError(f"{folder} is in use by another process") from None
        yield


def reset_process(seed: int, gpu: float) -> None:
    """Clear what an earlier trial of this worker process left (processes are reused, which saves 2 s each)."""
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # PyTorch's and Ray's objects stay for good: looking at all of them takes 0.2 s each time
    if "torch" in sys.modules or gpu > 0:
        import torch

        torch.manual_seed(seed)  # runs own their random streams; this is for third parties
        if gpu > 0:
            if not torch.cuda.is_available():
                raise UserError(f"resources.gpu={gpu}, but PyTorch sees no GPU in this trial; expected CUDA.")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            if gpu < 1:  # Ray only counts fractions; the memory must be capped by us
                total = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.set_per_process_memory_fraction(max(gpu / 2, gpu - CUDA_CONTEXT / total))
