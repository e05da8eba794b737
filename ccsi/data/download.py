"""Files from the network: verified, complete or absent, and downloaded once by however many processes need them."""

import hashlib
import math
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from ccsi.errors import UserError
from ccsi.io.atomic import replacing
from ccsi.io.files import open_regular
from ccsi.io.locks import locked
from ccsi.io.paths import absolute

PAUSES = (1.0, 3.0)
"""Seconds before each further attempt, if the network fails."""


def data_folder(root: str | None) -> Path:
    """The folder of downloads: `root`, else CCSI_DATA from the environment, else ~/.cache/ccsi. Not created here."""
    if root is not None:
        return absolute(root, "dataset.root")
    return absolute(os.environ.get("CCSI_DATA") or "~/.cache/ccsi", "CCSI_DATA")


def fetch(url: str, path: Path, md5: str) -> Path:
    """The absolute `path`, which has the MD5 `md5` (hexadecimal); downloaded from `url` (http, https) if it is missing.

    An existing file is only read, so a read-only folder suffices. The transfer goes to a hidden file beside `path`,
    which is renamed when it is complete and verified. Processes that fetch at the same time wait for the first.

    Raises:
        UserError: no network, a folder that cannot be written, or a wrong checksum (of the download, or of an existing
            file, which is not changed).
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            with locked(lock, math.inf, lambda: say(f"Waiting for another process that is downloading {path}")) as held:
                if held:  # no other process writes here: these files are left from killed ones
                    for left in path.parent.glob(f".{path.name}.*.part"):
                        left.unlink()
                if not path.exists():
                    download(url, path, md5)
                    return path
        found = md5_of(path)
    except OSError as error:
        raise UserError(
            f"Cannot get {path.name} from {url} into {path.parent} ({reason(error)}); download it elsewhere and put it "
            f"there as {path}, or set dataset.root=… or the environment variable CCSI_DATA to the folder that has it."
        ) from error
    if found != md5:
        raise UserError(
            f"{path} is damaged or another version: its MD5 is {found}, expected {md5}; "
            f"move it away and it will be downloaded again from {url}."
        )
    return path


def download(url: str, path: Path, md5: str) -> None:
    """Download `url` to `path`, complete or not at all; prints to stderr, with a progress bar if that is a terminal."""
    from pooch import HTTPDownloader  # here: most runs download nothing
    from requests import RequestException, Response

    def announce(response: Response, *args: Any, **options: Any) -> None:
        if response.status_code == 200:
            megabytes = int(response.headers.get("Content-Length", 0)) / 1e6
            size = f" ({megabytes:.1f} MB)" if megabytes else ""
            say(f"Downloading {path.name}{size} from {url} to {path.parent}")

    # a transfer is broken after 30 seconds without a byte
    get = HTTPDownloader(sys.stderr.isatty(), chunk_size=1 << 18, timeout=30.0, hooks={"response": announce})
    for pause in (*PAUSES, None):
        try:
            with replacing(path, tag=uuid.uuid4().hex) as file:
                get(url, file, None)
                if (found := md5_of(Path(file.name))) != md5:
                    raise UserError(
                        f"What {url} sent has MD5 {found}, expected {md5}; nothing was kept: try again later, "
                        f"or put the right file at {path}."
                    )
            return
        except RequestException as error:
            if pause is None or (error.response is not None and error.response.status_code < 500):
                raise
            say(f"The download of {path.name} failed ({reason(error)}); trying again.")
            time.sleep(pause)


def reason(error: BaseException) -> str:
    """The first cause of an error, in its own words."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or str(error)


def md5_of(path: Path) -> str:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))  # type: ignore[arg-type]
        return digest.hexdigest()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
