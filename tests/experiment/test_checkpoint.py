"""A checkpoint's file: anyone reads it with torch, and any damage is found."""

import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ccsi.errors import UserError
from ccsi.experiment.checkpoint import Checkpoints, verified
from ccsi.io.run_files import CHECKPOINT, fingerprint

STATE = {"net": {"weight": torch.arange(6.0).view(2, 3)}, "tasks_done": 1, "stages": None, "lines": 3}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path, 0)
    made.save(STATE)
    return made


def in_the_old_format(path: Path) -> None:
    """Replace the file by what earlier versions wrote: a digest of 32 bytes, then the archive."""
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


def same(state: Any) -> bool:
    return repr(state) == repr(STATE)


def test_anyone_reads_it(checkpoints: Checkpoints) -> None:
    assert same(checkpoints.load())
    for mmap in (False, True):
        assert same(torch.load(checkpoints.path, weights_only=True, mmap=mmap))
    with zipfile.ZipFile(checkpoints.path) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256=")


@pytest.mark.parametrize("old", [False, True])
def test_a_flipped_bit_or_a_missing_byte_anywhere_is_found(old: bool, checkpoints: Checkpoints) -> None:
    path = checkpoints.path
    if old:
        in_the_old_format(path)
        assert same(checkpoints.load())
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] for at in range(len(whole))]
    damages = [*flipped, *(whole[:at] for at in range(len(whole))), whole + b"\n"]
    assert verified(whole) is not None and not any(map(verified, damages))
    for damaged in damages[:: len(damages) // 20]:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint\.pt is damaged \(its checksum does not match\)"):
            checkpoints.load()


def test_a_fingerprint_names_the_content(checkpoints: Checkpoints, tmp_path: Path) -> None:
    before = fingerprint(checkpoints.path)
    copy = Path(shutil.copyfile(checkpoints.path, tmp_path / "copy"))
    assert fingerprint(copy) == before
    checkpoints.save(STATE | {"lines": 4})
    assert fingerprint(checkpoints.path) != before
    checkpoints.save(STATE)
    assert fingerprint(checkpoints.path) == before
    in_the_old_format(checkpoints.path)
    assert fingerprint(checkpoints.path) != before
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "nothing")


def test_a_runs_files_its_configuration_and_its_trackers_take_no_torch() -> None:
    program = "import sys, ccsi.io.run_files, ccsi.config, ccsi.tracking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    assert CHECKPOINT == "checkpoint.pt"
