"""Where runs are kept when machines share no folder: any address that Apache Arrow or fsspec can write to.

A run works in a folder of its machine, is copied to the storage at each checkpoint, and resumes from there anywhere.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ccsi.errors import UserError
from ccsi.io.atomic import inside, write_atomically
from ccsi.io.text import first_line

OBJECT_STORES = ("s3", "gcs", "abfs", "py::fsspec+s3", "py::fsspec+gcs", "py::fsspec+abfs")
"""Arrow's names of systems that write a file whole or not at all."""
ANSWER_WITHIN = 15.0
"""Seconds a storage has to take a first file."""
OWNER = "owner.json"
"""Says who works on the sweep; it lies beside the sweep's files, so that `pull` leaves it out."""
CLAIM = 60.0
"""Seconds for which a driver's claim to a sweep holds."""
LAST = ("checkpoint.pt", "result.json")
"""These make the other files valid, so they are copied after them, in this order."""


class Remote:
    """A folder at `url` (s3://bucket/folder, gs://…, file:///…, or any scheme of an installed fsspec package)."""

    def __init__(self, url: str) -> None:
        self.url = url
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UserError(
                "sweep.storage: expected an address without name and password, which would be written to files; give "
                "them in the environment (AWS_ACCESS_KEY_ID, …), or a role to the machines."
            )
        if "://" not in url or url.startswith("memory://"):
            raise UserError(f"sweep.storage={url}: expected an address all machines can write to: s3://bucket/folder.")
        from pyarrow import fs  # only sweeps with a storage need it

        self.fs: Any = fs
        self.system: Any
        try:
            self.system, root = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:  # not Arrow's own
            try:
                import fsspec

                other, root = fsspec.core.url_to_fs(url)
            except (ImportError, OSError, ValueError):
                raise UserError(f"sweep.storage={url} cannot be used ({first_line(error)}).") from error
            self.system = fs.PyFileSystem(fs.FSSpecHandler(other))
        self.root = root.rstrip("/")
        self._copied: dict[Path, tuple[int, int]] = {}
        self._renewed: float | None = None  # when this driver renewed its claim; None: it has none

    def check(self) -> None:
        """Write a file, read it and remove it; raises UserError if that fails, or takes too long."""
        problem: list[str] = ["no answer"]

        def touch() -> None:
            path = f"{self.root}/.probe-{uuid.uuid4().hex}"  # every node asks, at the same time
            try:
                self.system.create_dir(self.root, recursive=True)
                self._put(path, b"probe")
                same = self._get(path) == b"probe"
                self.system.delete_file(path)
                problem[0] = "" if same else "what was written did not come back"
            except Exception as error:
                problem[0] = first_line(error)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        thread.join(ANSWER_WITHIN)
        if problem[0]:
            raise UserError(f"sweep.storage={self.url} cannot be written ({problem[0]}); choose another folder.")

    def claim(self) -> None:
        """Become the one driver that works on the sweep kept here, until `release`; call `renew` now and then."""
        try:
            owner = json.loads(self._get(f"{self.root}/{OWNER}"))
        except (FileNotFoundError, ValueError):
            owner = {"time": 0.0}
        age = time.time() - owner["time"]
        ended = owner.get("host") == socket.gethostname() and not process_exists(owner["process"])
        if age < CLAIM and not ended:
            raise UserError(
                f"sweep.storage={self.url} is in use: process {owner['process']} on {owner['host']} worked on it "
                f"{max(0.0, age):.0f} s ago; if it is gone, try again in {CLAIM - age:.0f} s."
            )
        self._renewed = 0.0
        self.renew()

    def renew(self) -> None:
        """Renew the claim, at most every ten seconds."""
        if self._renewed is not None and time.time() - self._renewed >= 10:
            self._renewed = time.time()
            owner = {"process": os.getpid(), "host": socket.gethostname(), "time": self._renewed}
            with contextlib.suppress(OSError):
                self._put(f"{self.root}/{OWNER}", json.dumps(owner).encode())

    def release(self) -> None:
        """Give the claim back: another driver may start at once."""
        if self._renewed is not None:
            self._renewed = None
            with contextlib.suppress(OSError):
                self.system.delete_file(f"{self.root}/{OWNER}")

    def push(self, folder: Path, name: str, leave: Sequence[str] = ()) -> None:
        """Copy what changed in `folder` since the last time to `name`, except the inner folders `leave`."""
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        files = [path for path in files if path.resolve() == folder.resolve() / path.relative_to(folder)]  # no links
        files = [path for path in files if path.relative_to(folder).parts[0] not in leave]
        for path in sorted(files, key=lambda path: LAST.index(path.name) if path.name in LAST else -1):
            if self._copied.get(path) != (version := version_of(path)):
                self._put(f"{self.root}/{name}/{path.relative_to(folder)}", path.read_bytes())
                self._copied[path] = version

    def pull(self, name: str, folder: Path) -> None:
        """Make `folder` what was pushed to `name`; if nothing was, it is left as it is.

        Raises:
            UserError: a name or a link in the storage leads out of the folder.
        """
        for stored in self.files(name):
            path = self._inside(folder, stored.removeprefix(f"{self.root}/{name}").removeprefix("/"))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._get(stored))
            self._copied[path] = version_of(path)

    def _inside(self, folder: Path, name: str) -> Path:
        """The path of a file of the storage in `folder`."""
        try:
            return inside(folder, name)
        except ValueError as error:
            raise UserError(f"sweep.storage={self.url} holds {name!r}, which {error}.") from error

    def results(self) -> set[str]:
        """The names of all finished runs."""
        return {Path(path).parent.name for path in self.files("runs") if path.endswith("/result.json")}

    def fetch_results(self, runs: Iterable[str], folder: Path) -> None:
        """Copy the result.json of these runs, as far as there is one, to their folders in `folder`."""

        def fetch(run: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                path = self._inside(folder, f"{run}/result.json")
                data = self._get(f"{self.root}/runs/{run}/result.json")
                json.loads(data)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(path, data)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(fetch, runs))

    def files(self, name: str) -> list[str]:
        """The addresses of all files below `name`."""
        below = self.fs.FileSelector(f"{self.root}/{name}", recursive=True, allow_not_found=True)
        return [info.path for info in self.system.get_file_info(below) if info.is_file]

    def _put(self, path: str, data: bytes) -> None:
        """Write a file so that a reader meets the old one or the new one: object stores do so by themselves."""
        whole = self.system.type_name in OBJECT_STORES
        target = path if whole else path + ".part"
        if not whole:
            self.system.create_dir(path.rpartition("/")[0], recursive=True)
        with self.system.open_output_stream(target) as stream:
            stream.write(data)
        if not whole:
            self.system.move(target, path)

    def _get(self, path: str) -> bytes:
        if self.system.type_name == "local" and Path(path).resolve() != Path(self.root).resolve().joinpath(
            Path(path).relative_to(self.root)
        ):
            raise UserError(f"sweep.storage={self.url}: {path} is a link; expected a file.")
        with self.system.open_input_stream(path) as stream:
            return bytes(stream.read())


def version_of(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def process_exists(process: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True
