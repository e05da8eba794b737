"""Copies of model folders with something wrong in them, whose checksums are right again; and a watch over a process."""

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ccsi.errors import LONGEST, UserError
from ccsi.experiment.checkpoint import sha256_of
from ccsi.model import load
from ccsi.model.folder import MEMORY, MODEL_JSON, REFERENCE, WEIGHTS
from ccsi.model.record import canonical

TENSORS = (WEIGHTS, MEMORY, REFERENCE)
Content = dict[str, Any]
SECONDS, MEMORY_LIMIT = 6.0, 2**30
"""Of work, for one folder; bytes that all of them together may take at a time."""


def copied(base: Path, folder: Path) -> Path:
    """A copy of a folder; what was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(base, folder))


def content_of(folder: Path) -> Content:
    """What model.json says, without its checksum."""
    content: Content = json.loads((folder / MODEL_JSON).read_bytes())
    del content["sha256"]
    return content


def seal(folder: Path, content: Any, files: bool = True) -> None:
    """Write model.json with right checksums of itself and, unless `files` is false, of the files that it names."""
    if files and isinstance(content, dict) and isinstance(content.get("files"), dict):
        for name, entry in content["files"].items():
            if isinstance(entry, dict) and (folder / name).is_file():
                data = (folder / name).read_bytes()
                entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if isinstance(content, dict):
        content = content | {"sha256": hashlib.sha256(canonical(content)).hexdigest()}
    (folder / MODEL_JSON).write_bytes(json.dumps(content).encode())


def change_record(folder: Path, change: Callable[[Content], Any]) -> None:
    """Change what model.json says; its checksum is right again."""
    content = content_of(folder)
    change(content)
    seal(folder, content)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of all files; every checksum is right again."""
    content, tensors, file_of = content_of(folder), dict[str, Tensor](), dict[str, str]()
    for name in TENSORS:
        found = safetensors.torch.load((folder / name).read_bytes())
        tensors |= found
        file_of |= dict.fromkeys(found, name)
    change(tensors)
    for name in TENSORS:
        own = {key: value.contiguous() for key, value in tensors.items() if file_of.get(key, MEMORY) == name}
        (folder / name).write_bytes(safetensors.torch.save(own))
    net = {key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")}
    content["tasks"][-1]["weights_sha256"] = sha256_of(net)
    seal(folder, content)


def change_file(folder: Path, name: str, data: bytes) -> None:
    """Write other bytes to a file; every checksum is right again."""
    (folder / name).write_bytes(data)
    seal(folder, content_of(folder))


def header(entries: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header; length: what it says of the header's length."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


class Watch:
    """Sees what this process opens for writing, imports, and starts, while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self.hook)  # there is no way to remove it

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        changing = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree")
        starting = event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.fork")
        if (writing and str(arguments[0]) != os.devnull) or changing or starting or event == "pickle.find_class":
            self.seen.append(f"{event} {arguments!r}"[:200])

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Nothing is written, started or unpickled meanwhile."""
        self.seen, self.on = [], True
        try:
            yield
        finally:
            self.on = False
        assert self.seen == []


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(folder: Path, watch: Watch) -> str:
    """The sentence by which a folder is refused when it is loaded or, at the latest, used; "" if it is not."""
    before, files, began = peak(), sorted(folder.parent.rglob("*")), time.process_time()
    said = ""
    with watch.nothing():
        try:
            model = load(folder, "cpu")
            with torch.no_grad():
                model.predict(np.zeros((2, 8, 8), dtype=np.uint8))
        except UserError as error:
            said = str(error)
    assert time.process_time() - began < SECONDS and peak() - before < MEMORY_LIMIT
    assert sorted(folder.parent.rglob("*")) == files
    assert "\n" not in said and len(said) <= LONGEST and "Traceback" not in said
    assert not said or str(folder) in said, said
    return said
