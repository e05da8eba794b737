"""The machine a run computes on: its device, memory and threads, and the commit of the code."""

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from threadpoolctl import threadpool_limits

from ccsi.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def set_up_torch(device: DeviceName, threads: int) -> torch.device:
    """The device of this name, after setting what makes the whole process compute the same bits each time.

    Raises:
        UserError: no such device, or more `threads` than this machine has CPUs.
    """
    if threads > (cpus := os.cpu_count() or 1):
        raise UserError(
            f"threads={threads}: this machine has {cpus} CPUs; expected at most so many (the number of threads changes "
            "the last bits of a result, so a run resumes with as many as it was begun with)."
        )
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # NumPy's and scikit-learn's, whatever the environment said when they were imported
    where = torch_device(device)
    if where.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.backends.cudnn.allow_tf32 = False  # float32 shall be float32; bfloat16 is an option
    return where


def torch_device(wanted: DeviceName) -> torch.device:
    """The device of this name, UserError where there is none; `auto`: a CUDA GPU if there is one, else the CPU."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    elif wanted != "cpu" and not (torch.cuda if wanted == "cuda" else torch.backends.mps).is_available():
        kind = "CUDA" if wanted == "cuda" else "Apple"
        problem = f"this machine has no {kind} GPU that torch can use; expected device=cpu or auto."
        raise UserError(f"device={wanted}: {problem}")
    return torch.device(wanted)


def hardware(device: torch.device) -> str:
    """What result.json names as the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{'Apple GPU' if device.type == 'mps' else 'CPU'}, {os.cpu_count()} cores, {platform.machine()}"


def versions() -> dict[str, str]:
    """Of Python, and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "torchvision", "numpy")}


def this_start(device: torch.device) -> dict[str, Any]:
    """What result.json says of one start of a run; no name of a host or a user."""
    where = {"device": hardware(device), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"commit": commit(), "versions": versions(), **where}


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring `peak_memory` anew."""
    if device.type == "cuda":
        return torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux; elsewhere the peak is the process's since its start
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """The most bytes since `reset_peak_memory`: allocated on a CUDA GPU, else resident; 0 if unknown (Windows)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def commit() -> str | None:
    """The checkout's commit, with `+` if files differ from it; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():  # installed: a repository further up would be of something else
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(command, cwd=checkout, stderr=subprocess.PIPE, text=True, timeout=10).strip()
    return None
