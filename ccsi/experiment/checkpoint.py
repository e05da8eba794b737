"""Everything that a run needs to resume, bit for bit, in one file that is whole or absent."""

import hashlib
import io
import pickle
import time
from pathlib import Path

import torch

from ccsi.errors import UserError
from ccsi.io.atomic import write_atomically
from ccsi.io.files import read_bytes
from ccsi.io.run_files import CHECKPOINT
from ccsi.stage import State

MARK = b"sha256="
COMMENT = len(MARK) + 64


class Checkpoints:
    """The newest state of a run, in `<folder>/checkpoint.pt`; `every` is the seconds between two inside a stage.

    The file is what `torch.save` writes, and `torch.load(path, weights_only=True)` reads it. That is a zip archive; its
    comment, which readers skip, is the SHA-256 of all bytes before it (the archive's own CRCs leave out headers and
    padding). Earlier versions put the digest (32 bytes) in front of the archive; that is still read.
    """

    def __init__(self, folder: Path, every: float) -> None:
        self.path, self.every = folder / CHECKPOINT, every
        self._last = time.monotonic()

    def load(self) -> State | None:
        """The newest state, tensors on the CPU; None if there is none. UserError if it is damaged or unreadable."""
        try:
            data = read_bytes(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be read ({error.strerror}); expected a file that may be read."
            ) from error
        if (archive := verified(data)) is None:
            raise UserError(
                f"{self.path} is damaged (its checksum does not match); put back a good copy to resume, "
                "or start anew with another run_dir."
            )
        try:
            state: State = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{self.path} holds no tensors and plain values; expected a checkpoint of ccsi.") from error
        return state

    def due(self) -> bool:
        """Whether the last checkpoint is `every` seconds old."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: State) -> None:
        """Replace the newest state; a kill or a full disk leaves the state before."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(-2, io.SEEK_END)  # a zip archive ends with its comment, whose length is in the two bytes before
        buffer.write(COMMENT.to_bytes(2, "little"))
        buffer.write(comment(buffer.getvalue()))
        write_atomically(self.path, buffer.getvalue())
        self._last = time.monotonic()


def comment(archive: bytes) -> bytes:
    """What follows the bytes of an archive in a checkpoint file."""
    return MARK + hashlib.sha256(archive).hexdigest().encode()


def verified(data: bytes) -> bytes | None:
    """The archive in a checkpoint file's bytes; None if any of them has changed."""
    if data[-COMMENT:] == comment(data[:-COMMENT]):
        return data
    return data[32:] if data[:32] == hashlib.sha256(data[32:]).digest() else None


def sha256_of(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
