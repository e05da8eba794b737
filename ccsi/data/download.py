"""One file from the network: verified, whole or not at all, and only once however many processes ask."""

import fcntl
import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ccsi.errors import UserError

TIMEOUT = 30.0
"""Seconds without a byte after which a transfer counts as broken."""
CHUNK = 1 << 18


def data_folder(root: str | None) -> Path:
    """Where downloads live: `root`, else the environment's CCSI_DATA, else ~/.cache/ccsi. Not created here."""
    return Path(root or os.environ.get("CCSI_DATA") or "~/.cache/ccsi").expanduser().absolute()


def fetch(url: str, path: Path, md5: str) -> Path:
    """`path`, after making sure that it is there and has the checksum; downloaded from `url` if need be.

    A file that is there is only read, so a read-only folder will do. The transfer goes to a hidden file beside
    `path` that takes its name when complete and verified, and is removed otherwise. Processes that ask at once
    take turns; those that come later find the finished file.

    Args:
        url: http or https.
        path: where the file belongs, absolute.
        md5: expected checksum, hexadecimal.

    Raises:
        UserError: no network, a folder that cannot be written, or a wrong checksum (of the download, or of a file
            that was there already, which is left as it is).
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with turn_in(path.parent, f"Waiting for another process that is downloading into {path.parent}") as alone:
                if alone:  # nobody else is writing, so a part left here belongs to a killed process
                    for left in path.parent.glob(f".{path.name}.*.part"):
                        left.unlink()
                if not path.exists():
                    download(url, path, md5)
                    return path
        found = md5_of(path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot get {path.name} from {url} into {path.parent} ({reason}); download it elsewhere and put it there "
            f"as {path}, or name the folder that has it with dataset.root=… or the environment variable CCSI_DATA."
        ) from error
    if found != md5:
        raise UserError(
            f"{path} is damaged or another version: its MD5 is {found}, expected {md5}; "
            f"move it away and it will be downloaded again from {url}."
        )
    return path


def download(url: str, path: Path, md5: str) -> None:
    """Transfer `url` to `path`, all or nothing, with a progress bar on a terminal and one plain line elsewhere."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    try:
        with (
            urlopen(Request(url, headers={"User-Agent": "ccsi"}), timeout=TIMEOUT) as response,
            part.open("xb") as file,
        ):
            size = response.headers.get("Content-Length", "")
            total = int(size) if size.isdecimal() else None
            with progress_bar() as bar:
                say(f"Downloading {path.name}{f' ({total / 1e6:.1f} MB)' if total else ''} from {url} to {path.parent}")
                task = bar.add_task(path.name, total=total)
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    bar.update(task, completed=done)
        if total is not None and done != total:  # http.client takes a connection that ends early for the end
            raise ConnectionError(f"the transfer broke off after {done} of {total} bytes")
        if digest.hexdigest() != md5:
            raise UserError(
                f"What {url} sent has MD5 {digest.hexdigest()}, expected {md5}; nothing was kept: try again later, "
                f"or put the right file at {path}."
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def turn_in(folder: Path, waiting: str | None) -> Iterator[bool]:
    """One writer at a time in `folder`, over all processes; True if the lock was got.

    The lock is on the folder itself: no lock file stays behind, and it ends with its process. NFS locks only what is
    open for writing: there it is on a file `.lock` in the folder. A file system without locks gives False: two may
    then write, and the last to finish wins.

    Args:
        waiting: said on stderr if another process has its turn.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(handle, waiting)
            locked = True
        except OSError:
            os.close(handle)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                lock(handle, waiting)
                locked = True
            except OSError:
                locked = False
        yield locked
    finally:
        os.close(handle)


def lock(handle: int, waiting: str | None) -> None:
    """Lock what is open there, waiting for it if need be.

    Raises:
        OSError: this file system cannot.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting:
            say(waiting)
        fcntl.flock(handle, fcntl.LOCK_EX)


def md5_of(path: Path) -> str:
    """Hexadecimal MD5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def progress_bar() -> Progress:
    """Bytes, speed and time left on stderr; shows nothing when that is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())


def say(line: str) -> None:
    """A plain line on stderr."""
    print(line, file=sys.stderr, flush=True)
