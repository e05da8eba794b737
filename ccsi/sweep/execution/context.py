"""Where and how runs compute on a node, and whether a node can run them."""

import contextlib
import gc
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ccsi.config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.io.locks import InUseError, locked
from ccsi.io.run_files import RESULT, read_result
from ccsi.sweep.remote import Remote
from ccsi.tracking.events import TaskEnd, Tracker

CUDA_CONTEXT = 2**29  # bytes of a GPU that CUDA itself takes in each process, about: no allocator can cap them
SHARED_FOLDER = "sweep.dir must be a folder all nodes share, or sweep.storage be set"
PASSED_ON = ("CCSI_DATA", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "TUNE_FUNCTION_THREAD_TIMEOUT_S")
"""Environment variables of the driver that trials get; others do not reach a running cluster."""


@dataclass(frozen=True)
class TrialContext:
    """Where and how runs compute, as a driver says it.

    Attributes:
        workers: processes that share a run. cpu, gpu: of each of them; gpu: the share of a card it may fill.
        max_failures: how often they start again when one crashes.
        sweep: its name, for the metrics. storage: where runs are kept if machines share no folder.
        local: all runs on this machine. import_path: where the driver finds modules; not what a file says.
        trusted: callables and modules outside the package that the user allows, see `ccsi.config.trust`.
        cwd: the driver's working directory, for relative paths; left alone if a node does not have it.
        call: names the driver's process. environment: variables to set.
    """

    workers: int
    cpu: float
    gpu: float
    max_failures: int
    sweep: str = ""
    storage: str | None = None
    local: bool = False
    import_path: tuple[str, ...] = field(default_factory=lambda: tuple(filter(None, sys.path)))
    trusted: tuple[str, ...] = field(default_factory=ccsi.config.trusted)
    cwd: str = field(default_factory=os.getcwd)
    call: str = field(default_factory=lambda: f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    environment: Mapping[str, str] = field(
        default_factory=lambda: {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    )

    def enter(self) -> None:
        """Set what this process needs."""
        os.environ.update(self.environment)
        sys.path += [folder for folder in self.import_path if folder not in sys.path]
        ccsi.config.trust_names(*self.trusted)
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)

    def check_folder(self, runs: Path) -> None:
        """Raise UserError unless this machine has the folder of the runs; where each has its own, it is made."""
        if self.storage is not None:
            runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            if runs.parent.lstat().st_uid != os.getuid():
                free = "expected it to be free, or TMPDIR to name another place"
                raise UserError(f"{runs.parent} belongs to another user; {free}.")
            runs.parent.chmod(0o700)  # images lie there
        elif not runs.is_dir():
            raise UserError(f"{runs} is not on node {socket.gethostname()}: {SHARED_FOLDER}")


def check_node(runs: str, storage: str | None) -> None:
    """Raise UserError unless this machine can run trials whose runs live in `runs`, or at `storage`."""
    if storage is not None:
        return Remote(storage).check()
    try:
        with tempfile.TemporaryFile(dir=runs):
            if not Path(runs).with_name("sweep.yaml").exists():
                raise UserError(f"{runs}: another folder of this name; {SHARED_FOLDER}")
    except OSError as error:
        raise UserError(f"{runs}: {error.strerror or type(error).__name__}; {SHARED_FOLDER}") from error


def execute(
    config: Config, on_task_end: Callable[[TaskEnd], None], watch: Tracker | None = None, storage: str | None = None
) -> dict[str, Any]:
    """Run or resume one run, unless it is finished; returns the contents of its result.json.

    With a storage the run is fetched from there, copied to it at each checkpoint, and at the end removed from here.
    """
    folder = Path(config["run_dir"])
    with sole_user(folder):
        push: Callable[[], None] | None = None
        if storage is not None:
            remote = Remote(storage)
            remote.pull(f"runs/{folder.name}", folder)
            push = partial(remote.push, folder, f"runs/{folder.name}")
        if read_result(folder) is None:
            ccsi.config.build(config)(on_task_end=on_task_end, on_checkpoint=push, watch=watch, describe=False)
        result = read_result(folder)
        if result is None:
            raise RuntimeError(f"the run ended without writing {folder / RESULT}")
        if push is not None:
            push()
            shutil.rmtree(folder)
        return result


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold the run's lock: a worker of a killed sweep may live for some seconds and must not write beside us."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.with_name(f".{folder.name}.lock"), wait=60.0))
        except InUseError:
            raise RuntimeError(f"{folder} is in use by another process") from None
        yield


def start_thread(job: Callable[[], object]) -> Future[None]:
    """Do `job` in a daemon thread; the future says when it has ended, and its error."""
    done = Future[None]()

    def attempt() -> None:
        try:
            job()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    return done


def reset_process(seed: int, gpu: float) -> None:
    """Clear what an earlier trial of this worker process left (processes are reused, which saves 2 s each)."""
    import torch

    import ccsi.experiment  # noqa: F401  # with all that a run imports: what is there before the freeze stays

    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # looking at PyTorch's and Ray's objects would take 0.1 s each time
    torch.manual_seed(seed)  # runs own their random streams; this is for third parties
    if gpu > 0:
        if not torch.cuda.is_available():
            raise UserError(f"resources.gpu={gpu}, but PyTorch sees no GPU in this trial; expected CUDA.")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if gpu < 1:  # Ray only counts fractions; the memory must be capped by us
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(max(gpu / 2, gpu - CUDA_CONTEXT / total))


def prepare_ray(local: bool) -> None:
    """Check that Ray is installed, and before its import make a `local` one use a token and the loopback device."""
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise UserError(f"this command needs the package {package}: pip install 'ccsi[sweep]'.")
    if local:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # its name says where this is the default
        if "RAY_AUTH_MODE" not in os.environ:  # without a token Ray would write ~/.ray/auth_token
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
