"""Everything a run needs to go on, bit for bit, in one file that is whole or absent."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch

from ccsi.errors import UserError
from ccsi.io.atomic import write_atomically

NAME = "checkpoint.pt"
State = dict[str, Any]


class Checkpoints:
    """The newest state of a run, in `<folder>/checkpoint.pt`.

    The file is a SHA-256 digest (32 bytes) followed by what `torch.save` writes; it is written beside its
    place, synced and renamed, so a kill at any moment leaves the state before or the state after.

    Args:
        folder: the run's folder. every: seconds between checkpoints inside a stage.
    """

    def __init__(self, folder: Path, every: float) -> None:
        self.path, self.every = folder / NAME, every
        self._last = time.monotonic()

    def load(self) -> State | None:
        """The newest state, tensors on the CPU; None if there is none.

        Raises:
            UserError: the file is damaged or cannot be read. It is left as it is.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}).") from error
        digest, payload = data[:32], data[32:]
        if hashlib.sha256(payload).digest() != digest:
            raise UserError(
                f"{self.path} is damaged (its checksum does not match); put back a good copy to go on, "
                "or start anew with another run_dir."
            )
        state: State = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        """Whether the last checkpoint is `every` seconds old."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: State) -> None:
        """Replace the newest state.

        Raises:
            UserError: the folder cannot be written (full, read-only); the state before is left.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        write_atomically(self.path, hashlib.sha256(payload).digest() + payload)
        self._last = time.monotonic()


def sha256_of(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
