"""Crashes of trials: how often one is retried, and the reason that is reported."""

import json
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.run_files import CHECKPOINT, fingerprint
from ccsi.sweep.execution.context import TrialContext

WORKER_DIED = "the worker process died (killed, or out of memory)"
"""`reason` for a trial whose process ended without an exception."""


class GivenUpError(Exception):
    """A run crashed too often, or in a way that no retry changes; its text is the last traceback or reason."""


class RetryCounter:
    """Counts the attempts at a run that got no further than the one before, in a file beside its folder.

    Crashes are normal on a cluster, and a run that makes progress may crash any number of times. One that crashes
    again and again at the same checkpoint is given up. Each driver (`context.call`) counts afresh.
    """

    def __init__(self, folder: Path, context: TrialContext) -> None:
        self.folder, self.context, self.path = folder, context, folder.with_name(f".{folder.name}.attempts")

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Count an attempt, which is what is done inside; GivenUpError after too many, or if no retry would help."""
        crashes, limit = self._crashes(), self.context.max_failures
        if len(crashes) > limit:
            raise GivenUpError(next((text for text in reversed(crashes) if text), WORKER_DIED))
        self._write([*crashes, ""])
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            of_ray = type(error).__module__.startswith("ray.")  # its text is the worker's traceback
            text, advice = str(error) if of_ray else traceback.format_exc(), memory_advice(error, self.context.gpu)
            crashes = [*self._crashes()[:-1], text]
            self._write(crashes)
            if advice is not None or len(crashes) > limit:
                raise GivenUpError(f"{text}\n{advice}" if advice else text) from error
            raise

    def clear(self) -> None:
        """Forget all attempts: the run is finished, and later crashes are another run's."""
        self.path.unlink(missing_ok=True)

    def _checkpoint(self) -> str:
        """The driver's call, and the checkpoint that the run would resume from, if there is one."""
        with suppress(OSError):
            return f"{self.context.call} {fingerprint(self.folder / CHECKPOINT)}"
        return self.context.call

    def _crashes(self) -> list[str]:
        """The tracebacks of the attempts that started at the current checkpoint; empty where none was noted."""
        try:
            return list(json.loads(self.path.read_text()).get(self._checkpoint(), []))
        except (OSError, ValueError):
            return []

    def _write(self, crashes: list[str]) -> None:
        with replacing(self.path, durable=False) as file:
            file.write(json.dumps({self._checkpoint(): crashes}).encode())


def reason(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "running low on memory" in text:  # Ray's memory monitor
        return (
            "its machine ran low on memory, so Ray ended the worker; run fewer trials at a time (resources.cpu, "
            "sweep.max_concurrent), or smaller ones"
        )
    if any("died" in line for line in lines) and not any("Traceback" in line for line in lines):
        return WORKER_DIED
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return (errors or lines or ["no reason given"])[-1][:500]


def memory_advice(error: Exception, gpu: float) -> str | None:
    """What to do about an exception that means too little memory (`gpu`: the trial's share of a card), or None."""
    if isinstance(error, MemoryError):
        return "MemoryError: the trial needs more memory than its machine has; run fewer at a time, or a smaller one"
    if type(error).__name__ != "OutOfMemoryError" or type(error).__module__.startswith("ray."):  # Ray's: of a node
        return None
    import torch

    total = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0
    return (
        f"OutOfMemoryError: the trial needs more than its share of the GPU: resources.gpu={gpu:g} allows "
        f"{min(1.0, gpu) * total:.1f} of {total:.1f} GiB; give it a larger share, or a smaller batch"
    )
