"""A sweep's folder: made or found, locked for one driver, and taken back if nothing ran in it."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ccsi.config import shown
from ccsi.errors import UserError
from ccsi.io.atomic import replacing, write_atomically
from ccsi.io.locks import InUseError, locked
from ccsi.io.paths import absolute
from ccsi.io.text import printable
from ccsi.sweep.compose import compose
from ccsi.sweep.definition import Definition
from ccsi.sweep.remote import Remote
from ccsi.sweep.resume import read_definition, resumed, with_folder

MIN_FREE = 8 * 2**20
"""Bytes that must be free at the start: a full disk is better found now than at the first checkpoint."""
TUNE_FOLDER = "ray"
"""Tune's own files, in the sweep's folder while it runs."""
LOCK_WITHIN = 1.0
"""Seconds to wait for the lock: `ccsi status` holds it for an instant when it asks for it."""


def earlier_sweep(arguments: Sequence[str]) -> str | None:
    """The folder or storage of the sweep that a command line resumes; None for a new one."""
    typed = [one.removeprefix("resume=") for one in arguments if one.startswith("resume=")]
    return typed[-1] if typed and typed[-1] != "null" else None


def resolve(arguments: Sequence[str], fetch: bool = True) -> Definition:
    """The sweep that a command line asks for. fetch: whether an earlier one may be copied here from its storage."""
    overrides, earlier = [one for one in arguments if not one.startswith("resume=")], earlier_sweep(arguments)
    if earlier is None:
        return compose(overrides)
    if "://" not in earlier:
        return resumed(absolute(earlier, "resume"), overrides)
    if not fetch:
        raise UserError(f"resume={earlier}: expected a sweep's folder here, not its storage.")
    return resumed(fetch_sweep(earlier), overrides)


@contextlib.contextmanager
def open_sweep(arguments: Sequence[str]) -> Iterator[Definition]:
    """The sweep that was asked for, its folder made or found, and locked.

    A new folder in which nothing ran is removed again when the user's input turns out to be wrong.
    """
    definition, is_new = resolve(arguments), earlier_sweep(arguments) is None
    if is_new:
        unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        typed = definition.sweep.dir or f"sweeps/{definition.sweep.name or unique}"
        definition = with_folder(definition, absolute(typed, "sweep.dir"))
    folder = definition.folder
    if str(folder) != str(folder).encode(errors="replace").decode():
        raise UserError(f"sweep.dir={printable(folder)}: expected a path in UTF-8; Ray takes no other.")
    with lock_sweep(folder) as made:
        if is_new and any(folder.glob("[!.]*")):  # a lock is hidden
            raise UserError(f"sweep.dir={folder} exists already; choose another, or resume it: resume={shown(typed)}.")
        try:
            prepare_folder(definition)
            yield definition
        except UserError:
            if is_new and not any((folder / "runs").glob("[!.]*")):
                shutil.rmtree(folder if made else folder / "runs", ignore_errors=True)
                for name in ("sweep.yaml", "journal.jsonl"):
                    with contextlib.suppress(OSError):
                        (folder / name).unlink()
            raise
        finally:
            clean_folder(definition)


@contextlib.contextmanager
def lock_sweep(folder: Path) -> Iterator[bool]:
    """Make a folder, if need be, and hold its lock; yields whether it was made."""
    with contextlib.ExitStack() as stack:
        try:
            made = not folder.exists()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is inside is as private
            stack.enter_context(locked(folder / ".lock", wait=LOCK_WITHIN))
        except InUseError:
            raise UserError(f"sweep.dir={folder} is in use: another sweep process works on it.") from None
        except OSError as error:
            raise unwritable(folder, error) from error
        yield made


def prepare_folder(definition: Definition) -> None:
    """Write what a sweep's folder holds before anything runs; raises UserError if the disk is full."""
    folder, probe = definition.folder, definition.folder / ".probe"
    try:
        with replacing(probe, durable=False) as file:
            file.write(bytes(MIN_FREE))
        probe.unlink()
        write_atomically(folder / "sweep.yaml", definition.dump().encode())  # resume= may have changed a free key
        (folder / "runs").mkdir(exist_ok=True)
        remove_notes(folder)  # of a driver that was killed; failed jobs get a new chance
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise unwritable(folder, error) from error


def clean_folder(definition: Definition) -> None:
    """Remove what only a running sweep needs."""
    shutil.rmtree(definition.shared_data, ignore_errors=True)
    shutil.rmtree(definition.folder / TUNE_FOLDER, ignore_errors=True)
    remove_notes(definition.folder)


def remove_notes(folder: Path) -> None:
    """Remove what trials note beside their runs: how often they crashed, and locks that no surviving worker holds."""
    for note in (folder / "runs").glob(".*.attempts"):
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
    for lock in (folder / "runs").glob(".*.lock"):
        with contextlib.suppress(InUseError, OSError), locked(lock):  # which removes it
            pass


def unwritable(folder: Path, error: OSError) -> UserError:
    """The error for a folder that cannot be written."""
    return UserError(f"sweep.dir={folder} cannot be written ({error.strerror}); choose another folder.")


def open_remote(definition: Definition, url: str) -> Remote:
    """The storage of a sweep whose machines share no folder, claimed by this driver; its results are copied here."""
    remote, mark = Remote(url), definition.folder / ".stored"
    remote.check()
    if not mark.exists() and (remote.files("sweep") or remote.results()):
        raise UserError(f"sweep.storage={url} holds another sweep; choose an empty folder.")
    remote.claim()
    mark.touch()
    remote.fetch_results(remote.results(), definition.folder / "runs")
    return remote


def fetch_sweep(url: str) -> Path:
    """The folder of a sweep whose machine is lost, copied here from its storage."""
    remote = Remote(url)
    folder = Path("sweeps", remote.root.rpartition("/")[2]).absolute()
    if folder.exists():
        raise UserError(f"resume={url}: {folder} exists already; resume it with resume={folder}, or move it away.")
    remote.check()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        remote.pull("sweep", part)
        if not (part / "sweep.yaml").exists():
            raise UserError(f"resume={url}: there is no sweep; expected the sweep.storage of an earlier sweep.")
        (part / ".stored").touch()
        definition = read_definition(part)
        if not Path(definition.cwd).is_dir():  # another machine: relative paths start here
            (part / "sweep.yaml").write_text(replace(definition, cwd=os.getcwd()).dump(), encoding="utf-8")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
