"""Crashes of trials: how often one is retried, and the reason that is reported."""

import json
import re
from pathlib import Path

from ccsi.io.atomic import replacing
from ccsi.io.run_files import CHECKPOINT, fingerprint

WORKER_DIED = "the worker process died (killed, or out of memory)"
"""`reason` for a trial whose process ended without an exception."""
LOW_ON_MEMORY = (
    "its machine ran low on memory, so Ray ended the worker; run fewer trials at a time (resources.cpu, "
    "sweep.max_concurrent), or smaller ones"
)
"""`reason` for a trial that Ray ended to save the machine."""


class GivenUpError(Exception):
    """A run crashed too often, or in a way that no retry changes; its text is the last traceback or reason."""


class RetryCounter:
    """Counts how often a run was started without getting further than the time before; kept beside its folder.

    Crashes are normal on a cluster, and a run that makes progress may crash any number of times. One that crashes
    again and again at the same checkpoint is given up.

    Args:
        folder: the run's. call: names the driver's process; each call counts afresh.
    """

    def __init__(self, folder: Path, call: str = "") -> None:
        self.folder, self.call, self.path = folder, call, folder.with_name(f".{folder.name}.attempts")

    def begin(self, max_failures: int) -> None:
        """Note that an attempt starts.

        Raises:
            GivenUpError: more than `max_failures` attempts crashed at this checkpoint.
        """
        here = self._attempts_here()
        if len(here) > max_failures:
            raise GivenUpError(next((text for text in reversed(here) if text), WORKER_DIED))
        self._write([*here, ""])

    def crashed(self, max_failures: int, traceback: str, advice: str | None = None) -> None:
        """Note why an attempt crashed.

        Args:
            advice: what to do instead of a retry, if a retry would crash again.

        Raises:
            GivenUpError: it is not to be retried.
        """
        here = [*self._attempts_here()[:-1], traceback]
        self._write(here)
        if advice is not None:
            raise GivenUpError(f"{traceback}\n{advice}")
        if len(here) > max_failures:
            raise GivenUpError(traceback)

    def clear(self) -> None:
        """Forget all attempts: the run is finished, and later crashes are another run's."""
        self.path.unlink(missing_ok=True)

    def _place(self) -> str:
        """The driver's call and the checkpoint the run would resume from."""
        try:
            return f"{self.call} {fingerprint(self.folder / CHECKPOINT)}"
        except OSError:  # there is none
            return self.call

    def _attempts_here(self) -> list[str]:
        """The tracebacks of the attempts that started at the checkpoint of now, as far as they were noted."""
        try:
            noted = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return []
        return list(noted["crashes"]) if noted.get("place") == self._place() else []

    def _write(self, crashes: list[str]) -> None:
        with replacing(self.path, durable=False) as file:
            file.write(json.dumps({"place": self._place(), "crashes": crashes}).encode())


def reason(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    if "running low on memory" in text:  # Ray's memory monitor
        return LOW_ON_MEMORY
    if any("died" in line for line in lines) and not any("Traceback" in line for line in lines):
        return WORKER_DIED
    return (errors or lines or ["no reason given"])[-1][:500]


def memory_advice(error: Exception, gpu: float) -> str | None:
    """What to do about an exception that means too little memory, which no retry changes; None for any other.

    Args:
        gpu: the share of a card that the trial may fill.
    """
    if isinstance(error, MemoryError):
        return (
            "MemoryError: the trial needs more memory than this machine has left; run fewer at a time, or a smaller one"
        )
    if type(error).__name__ != "OutOfMemoryError":
        return None
    import torch

    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return (
        f"OutOfMemoryError: the trial needs more than its share of the GPU: resources.gpu={gpu:g} allows "
        f"{min(1.0, gpu) * total:.1f} of {total:.1f} GiB; give it a larger share, or a smaller batch"
    )
