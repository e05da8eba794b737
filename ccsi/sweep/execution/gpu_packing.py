"""`resources.gpu=auto`: how many trials share a GPU, from what one of them takes while it warms up."""

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import ray
from rich.console import Console

import ccsi.config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.sweep.events import GpuShareMeasured
from ccsi.sweep.execution.context import TrialContext, reset_process
from ccsi.sweep.execution.failures import reason
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.state import SweepState
from ccsi.tracking.events import TaskEnd

MARGIN = 0.2
"""How much more than the warm-up a trial may take later: later tasks have more classes to remember."""
WARM_UP_WITHIN = 1800.0  # seconds, waiting for a free GPU included
# repetition takes no further memory
HURRIED = {"training.epochs": 1, "training.first_epochs": 1, "training.steps": None, "training.first_steps": None}
HURRIED |= {"learner.synthesis.iterations": 2}
QUIET = {"report": False, "checkpoint_every": 1e6, "tracking.console.quiet": True, "tracking.wandb.mode": "disabled"}


def measure_gpu_share(
    recorder: SweepRecorder, context: TrialContext, nodes: Sequence[Mapping[str, float]], console: Console
) -> float:
    """The fraction of a GPU a trial gets, measured once with the first config on an otherwise empty GPU of `nodes`."""
    if recorder.state.gpu_share is not None:  # the same as when the sweep began
        return recorder.state.gpu_share
    per_gpu = [node.get("CPU", 0) / context.cpu / node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    enough = [n for n in per_gpu if n >= 1]
    if not enough:
        has = f"none with a GPU has the {context.cpu:g} CPUs of a trial for each" if per_gpu else "none has a GPU"
        raise UserError(f"resources.gpu=auto: expected a machine with a GPU, but of the {len(nodes)} there {has}.")
    console.print("Measuring how much of a GPU a trial takes …")
    used, total = run_warm_up(warm_up_config(recorder.state), context)
    fits = min(packing(used, total), math.floor(min(enough) + 1e-6))
    gib = f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"
    console.print(f"resources.gpu=auto: a trial took {gib}, so {fits} share a GPU.")
    share = math.floor(1e4 / fits) / 1e4  # Ray counts in ten-thousandths and rounds: 6 times 0.1667 were more than one
    recorder.record(GpuShareMeasured(share))
    return share


def packing(used: int, total: int) -> int:
    """How many trials that take `used` bytes, and `MARGIN`, fit into `total`; at least one."""
    return max(1, math.floor(total / (used * (1 + MARGIN))))


def warm_up_config(state: SweepState) -> Config:
    """The configuration of the first trial's first run, as far as memory is concerned, in a folder of its own."""
    definition = state.definition
    values = state.configs[0] if state.configs else {d.key: d.values[0] for d in definition.space}
    folder = definition.runs / ".warm-up"
    config = definition.run_config(values, 1, definition.sweep.seeds.tuning[0], folder)
    known = set(ccsi.config.flat(config))
    return ccsi.config.apply(config, {key: value for key, value in (HURRIED | QUIET).items() if key in known})


def run_warm_up(config: Config, context: TrialContext) -> tuple[int, int]:
    """`warm_up`, on a whole GPU of the cluster; raises UserError if that crashed."""
    try:
        asked = ray.remote(num_cpus=context.cpu, num_gpus=1)(warm_up).remote(config, context)
        measured: tuple[int, int] = ray.get(asked, timeout=WARM_UP_WITHIN)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        free = ray.available_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        raise UserError(
            f"resources.gpu=auto: the warm-up did not end within {WARM_UP_WITHIN / 60:.0f} minutes ({free:g} GPUs are "
            "free); wait for a free GPU, or set resources.gpu=X."
        ) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        crashed = f"resources.gpu=auto: the warm-up crashed ({reason(str(error))}); fix it, or set resources.gpu=X."
        raise UserError(str(cause) if isinstance(cause, UserError) else crashed) from error
    return measured


def warm_up(config: Config, context: TrialContext) -> tuple[int, int]:
    """Bytes of a GPU that a run holds after its first tasks, with all that CUDA takes for itself; and all there are."""
    import torch

    class EnoughError(Exception):
        pass

    def on_task_end(event: TaskEnd) -> None:
        if event.task == 1:  # the first with impressions and a teacher
            raise EnoughError

    context.enter()
    folder = Path(config["run_dir"])
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    reset_process(int(config["seed"]), 1.0)
    try:
        with suppress(EnoughError):
            ccsi.config.build(config)(on_task_end=on_task_end)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    free, total = torch.cuda.mem_get_info()  # the allocator gives nothing back: what it holds is the most it held
    return total - free, total
