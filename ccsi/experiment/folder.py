"""A run's folder: lock_run_dir by one run at a time, never overwritten, compared with what it was begun with."""

import errno
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccsi.config import shown
from ccsi.errors import UserError
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.io.atomic import write_atomically

NOT_COMPARED = ("run_dir", "tracking", "report", "checkpoint_every", "share_data")
"""Settings that may differ when a run goes on: they do not touch the result."""


@contextmanager
def lock_run_dir(folder: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """The folder for this run alone, and the state to go on from (None: a fresh start).

    A folder made here is removed again if the run ends before it wrote anything.

    Raises:
        UserError: it holds a finished run, a run with other settings, something else, or is in use, or it cannot
            be written (also later, by what is done inside).
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with locked(folder):
            check_run_dir(folder, settings)  # again: another process may have used it since
            yield Checkpoints(folder, 0).load()
    except OSError as error:
        if error.errno not in (errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS):
            raise
        raise UserError(f"{folder} cannot be written ({error.strerror}); make room, or set another run_dir.") from error
    finally:
        if made and folder.is_dir() and not held_in(folder):
            with suppress(OSError):
                for path in folder.iterdir():
                    path.unlink()
                for path in made:
                    path.rmdir()


def locked(folder: Path) -> TextIO:
    """Make the folder, and hold it until the file returned is closed (or the process ends, however it ends)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"run_dir={folder} cannot be written ({error.strerror}); choose another folder.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"run_dir={folder} is in use by another process; wait for it or choose another.") from error
    except OSError:
        pass  # a file system without locks
    return lock


def held_in(folder: Path) -> set[str]:
    """Names of what a folder holds, apart from what a killed run may leave before it wrote anything."""
    return {path.name for path in folder.iterdir() if path.name != ".lock" and path.suffix != ".part"}


def check_run_dir(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that this run must not touch."""
    try:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise UserError(f"run_dir={folder} is a file; expected a folder, or a path that does not exist yet.")
        held = held_in(folder)
    except OSError as error:  # a name too long, a folder that may not be read
        raise UserError(f"run_dir={folder} cannot be read ({error.strerror}); choose another folder.") from error
    if not held:
        return
    if "config.yaml" not in held:
        raise UserError(f"run_dir={folder} holds other files ({min(held)}); choose an empty or new folder.")
    if "result.json" in held:
        raise UserError(f"run_dir={folder} holds a finished run; choose another run_dir, or move that folder away.")
    old, new = flat(read_config(folder / "config.yaml")), flat(settings)
    for key in sorted(old.keys() | new.keys()):
        if key.split(".")[0] not in NOT_COMPARED and old.get(key) != new.get(key):
            raise UserError(
                f"run_dir={folder} was begun with {key}={shown(old.get(key))}, not {shown(new.get(key))}; "
                "use the same settings to go on, or another run_dir."
            )


def read_config(path: Path) -> dict[str, Any]:
    """The settings that a run was begun with.

    Raises:
        UserError: the file is damaged.
    """
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        settings = error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is not a run's configuration; put it back to go on, or choose another run_dir.")
    return {str(key): value for key, value in settings.items()}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def default_run_dir(run_dir: str | None, name: str, seed: int, settings: Mapping[str, Any]) -> Path:
    """A run's folder, absolute: `run_dir`, or else runs/<name>-s<seed>-<hash of the settings>."""
    return Path(run_dir or f"runs/{name}-s{seed}-{short_hash(settings)}").expanduser().absolute()


def short_hash(settings: Mapping[str, Any]) -> str:
    """Six letters and digits that tell runs with different settings apart."""
    compared = {key: value for key, value in settings.items() if key not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()[:6]


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """config.yaml, once."""
    if not (folder / "config.yaml").exists():
        write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(settings))).encode())
