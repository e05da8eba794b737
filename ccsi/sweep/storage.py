"""Where runs are kept when machines share no folder: any address that Apache Arrow or fsspec can write to.

A run then works in a folder of its machine. After each of its checkpoints what changed is copied to the storage, the
checkpoint last, and wherever it starts again it begins with what is there.
"""

import json
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs

from ccsi.errors import UserError

ANSWER_WITHIN = 15.0
"""Seconds a storage has to take a first file."""
LAST = ("checkpoint.pt", "result.json")
"""What makes the rest valid is copied behind it, in this order."""


class Storage:
    """A folder at `url` (s3://bucket/folder, gs://…, file:///…, or any scheme of an installed fsspec package).

    Raises:
        UserError: nothing is known about such an address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if "://" not in url or url.startswith("memory://"):
            raise UserError(f"sweep.storage={url}: expected an address all machines can write to: s3://bucket/folder.")
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

    def check(self) -> None:
        """Write a file, read it and remove it.

        Raises:
            UserError: that failed, or took too long.
        """
        problem: list[str] = ["no answer"]

        def touch() -> None:
            path = f"{self.root}/.room-{uuid.uuid4().hex}"  # every node asks, at the same time
            try:
                self.system.create_dir(self.root, recursive=True)
                self._put(path, b"room")
                same = self._get(path) == b"room"
                self.system.delete_file(path)
                problem[0] = "" if same else "what was written did not come back"
            except Exception as error:
                problem[0] = first_line(error)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        thread.join(ANSWER_WITHIN)
        if problem[0]:
            raise UserError(f"sweep.storage={self.url} cannot be written ({problem[0]}); choose another place.")

    def push(self, folder: Path, name: str, leave: Sequence[str] = ()) -> None:
        """Copy what changed in `folder` since the last time to `name`, but for the inner folders to be left."""
        files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        files = [path for path in files if path.relative_to(folder).parts[0] not in leave]
        order = {path: LAST.index(path.name) + 1 if path.name in LAST else 0 for path in files}
        for path in sorted(files, key=lambda path: order[path]):
            about = path.stat()
            version = (about.st_mtime_ns, about.st_size)
            if self._copied.get(path) != version:
                self._put(f"{self.root}/{name}/{path.relative_to(folder)}", path.read_bytes())
                self._copied[path] = version

    def pull(self, name: str, folder: Path) -> None:
        """Make `folder` what was pushed to `name`; if nothing was, it is left as it is."""
        start = f"{self.root}/{name}"
        found = self.system.get_file_info(fs.FileSelector(start, recursive=True, allow_not_found=True))
        for info in found:
            if info.type == fs.FileType.File:
                path = folder / info.path.removeprefix(start).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._get(info.path))
                about = path.stat()
                self._copied[path] = (about.st_mtime_ns, about.st_size)

    def results(self) -> set[str]:
        """The names of all finished runs."""
        found = self.system.get_file_info(fs.FileSelector(f"{self.root}/runs", recursive=True, allow_not_found=True))
        return {Path(info.path).parent.name for info in found if info.base_name == "result.json"}

    def fetch_result(self, run: str, folder: Path) -> None:
        """Copy a run's result.json to `folder`, if there is one."""
        try:
            data = self._get(f"{self.root}/runs/{run}/result.json")
        except FileNotFoundError:
            return
        json.loads(data)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_bytes(data)

    def _put(self, path: str, data: bytes) -> None:
        """Write a file so that a reader meets the old one or the new one: object stores do so by themselves."""
        local = isinstance(self.system, fs.LocalFileSystem)
        target = path + ".part" if local else path
        if local:
            self.system.create_dir(path.rpartition("/")[0], recursive=True)
        with self.system.open_output_stream(target) as stream:
            stream.write(data)
        if local:
            self.system.move(target, path)

    def _get(self, path: str) -> bytes:
        with self.system.open_input_stream(path) as stream:
            data: Any = stream.read()
        return bytes(data)


def first_line(error: Exception) -> str:
    """What an exception says, in a line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
