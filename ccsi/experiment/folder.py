"""A run's folder: used by one run at a time, never overwritten, and resumed only with the same configuration."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ccsi.config import flat, original_keys, read, shown, to_yaml, with_added
from ccsi.errors import UserError
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.io.atomic import write_atomically
from ccsi.io.locks import InUseError, locked
from ccsi.io.paths import absolute
from ccsi.io.run_files import RESULT, read_result
from ccsi.stage import State

CONFIG, LOCK = "config.yaml", ".lock"
NOT_COMPARED = ("run_dir", "tracking", "report", "checkpoint_every", "share_data")
"""Keys whose values may differ when a run is resumed: they do not touch the result."""
UNWRITABLE = (errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)


@contextmanager
def lock_run_dir(folder: Path, config: Mapping[str, Any], key: str = "run_dir") -> Iterator[State | None]:
    """Make the folder, with config.yaml, for this run alone; yields the state to resume from (None: a fresh start).

    A folder made here is removed again if the run ends before it wrote anything.

    key: the setting that names the folder, for messages.

    Raises:
        UserError: it holds a run of another configuration, one that has just been finished, or other files, or is in
            use, or it cannot be written (now, or by what is done inside).
    """
    made, held = [path for path in (folder, *folder.parents) if not path.exists()], False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a run's files may show its images
        with locked(folder / LOCK):
            held = True
            if finished_result(folder, config, key) is not None:  # again: another process may have used it since
                raise UserError(f"{key}={folder}: another process has just finished this run; call it again.")
            state = Checkpoints(folder, 0).load()
            if not (folder / CONFIG).exists():
                write_atomically(folder / CONFIG, to_yaml(config).encode())
            yield state
    except InUseError as error:
        made = []  # by the other process
        raise UserError(f"{key}={folder} is in use by another process; wait or choose another.") from error
    except OSError as error:
        if held and error.errno not in UNWRITABLE:
            raise
        problem = f"cannot be written ({error.strerror}); make room, or choose another folder."
        raise UserError(f"{key}={folder} {problem}") from error
    finally:
        if made and folder.is_dir() and not content_of(folder):
            with suppress(OSError):
                shutil.rmtree(folder)
                for path in made[1:]:
                    path.rmdir()


def content_of(folder: Path) -> set[str]:
    """Names of a folder's files, except what a killed run may leave before it wrote anything."""
    return {path.name for path in folder.iterdir() if path.name != LOCK and path.suffix != ".part"}


def check_run_dir(folder: Path, config: Mapping[str, Any], key: str = "run_dir") -> None:
    """Raise UserError (see `lock_run_dir`) for a folder that this run must not touch."""
    try:
        content = content_of(folder) if folder.exists() else set()
    except NotADirectoryError:
        raise UserError(f"{key}={folder} is a file; expected a folder, or a path that does not exist yet.") from None
    except OSError as error:  # a name too long, a folder that may not be read
        raise UserError(f"{key}={folder} cannot be read ({error.strerror}); choose another folder.") from error
    if not content:
        return
    if CONFIG not in content:
        raise UserError(f"{key}={folder} holds other files ({min(content)}); choose an empty or new folder.")
    try:
        old, new = flat(with_added(read(folder / CONFIG))), flat(config)
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # it may be sound
            raise
        problem = "is not a run's configuration; put it back to resume, or choose another run_dir."
        raise UserError(f"{folder / CONFIG} {problem}") from error
    for name in sorted(old.keys() | new.keys()):
        if name.split(".")[0] not in NOT_COMPARED and old.get(name) != new.get(name):
            state, way = ("holds a finished run", "see it") if RESULT in content else ("was begun", "resume")
            raise UserError(
                f"{key}={folder} {state} with {name}={shown(old.get(name))}, not {shown(new.get(name))}; "
                f"use the same settings to {way}, or another {key}."
            )


def finished_result(folder: Path, config: Mapping[str, Any], key: str = "run_dir") -> dict[str, Any] | None:
    """The content of result.json if this run is finished; UserError (see `lock_run_dir`) for a folder not its own."""
    check_run_dir(folder, config, key)
    return read_result(folder)


def default_run_dir(run_dir: str | None, name: str, seed: int, config: Mapping[str, Any]) -> Path:
    """A run's folder, absolute: `run_dir`, else runs/<name>-s<seed>-<hash of `config`, the same in all versions>."""
    compared = {key: value for key, value in original_keys(config).items() if key not in NOT_COMPARED}
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()
    return absolute(f"runs/{name}-s{seed}-{digest[:6]}" if run_dir is None else run_dir, "run_dir")
