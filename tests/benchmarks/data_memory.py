"""Bytes of image data in memory with one trial and with two at a time, with and without `share_data`.

    python tests/benchmarks/data_memory.py /path/to/pbcblood_28.npz

Trials are processes that do what a sweep's trial does (`execution.context.execute`, experiment=quick/pbcblood with a
small budget, test evaluated). They stop themselves at the end of each task's training and after each task; when all
have stopped they are looked into from outside:

- *mapped*: of each data file the Pss of all its mappings in /proc/PID/smaps (a page that n processes share counts 1/n
  in each, so the sum counts it once); of each file the largest sum seen, added up over the files. `at once` is the
  largest sum over files at one moment.
- *copies*: pieces of the images are looked for in the processes' memory that maps no data file (the heap above all);
  how often they are found on average, times the images' bytes, added up over the processes; the largest such sum seen.

Linux only; another user's processes cannot be looked into.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BUDGET = [
    "experiment=quick/pbcblood",
    "device=cpu",
    "threads=1",
    "training.first_epochs=1",
    "training.epochs=1",
    "learner.synthesis.iterations=4",
    "learner.synthesis.per_class=16",
    "learner.synthetic_ratio=0.2",
    "learner.w_idc=0",
    "tracking.console.quiet=true",
    "report=false",
]
MIB = 2**20
NEEDLES = 10  # pieces looked for in each split
LENGTH = 64  # bytes of a piece


def mappings(pid: int) -> Iterator[tuple[int, int, str, dict[str, int]]]:
    """Start, end, path and kB by name of each mapping of a process."""
    head: tuple[int, int, str] | None = None
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line):
            if head:
                yield *head, sizes
            head, sizes = (int(found[1], 16), int(found[2], 16), found[3]), {}
        elif found := re.match(r"(\w+): +(\d+) kB", line):
            sizes[found[1]] = int(found[2])
    if head:
        yield *head, sizes


def look_into(pid: int, store: Path, needles: list[bytes]) -> tuple[dict[str, int], list[int]]:
    """Pss in bytes of each data file, and how often the rest of the process's memory holds each needle."""
    mapped: dict[str, int] = defaultdict(int)
    found = [0] * len(needles)
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for start, end, path, kilobytes in mappings(pid):
            if path.startswith(str(store)):
                mapped[path] += kilobytes["Pss"] * 1024
            elif kilobytes["Anonymous"]:
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except (OSError, ValueError, OverflowError):  # [vvar] and the like
                    continue
                found = [n + content.count(needle) for n, needle in zip(found, needles, strict=True)]
    return mapped, found


def measure(configs: list[dict[str, Any]], store: Path, needles: list[bytes], sizes: list[int]) -> dict[str, float]:
    """Run trials at the same time; MiB as the head of this file says."""
    pids = [
        os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, __file__, "--trial", json.dumps(c)]) for c in configs
    ]
    most: dict[str, int] = defaultdict(int)
    at_once = copies = samples = 0.0
    try:
        while True:
            statuses = [os.waitpid(pid, os.WUNTRACED)[1] for pid in pids]
            if not all(map(os.WIFSTOPPED, statuses)):
                assert not any(statuses), statuses
                break
            looks = [look_into(pid, store, needles) for pid in pids]
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            together: dict[str, int] = defaultdict(int)
            for mapped, _ in looks:
                for path, pss in mapped.items():
                    together[path] += pss
            for path, pss in together.items():
                most[path] = max(most[path], pss)
            at_once = max(at_once, sum(together.values()))
            shares = [np.reshape(found, (len(sizes), -1)).mean(1) @ sizes for _, found in looks]
            copies = max(copies, float(sum(shares)))
            samples += 1
    except BaseException:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    mapped_bytes = sum(most.values())
    figures = {"mapped": mapped_bytes, "copies": copies, "data": mapped_bytes + copies, "at once": at_once}
    return {name: value / MIB for name, value in figures.items()} | {"samples": samples}


def pieces(data: Any) -> tuple[list[bytes], list[int]]:
    """Bytes from the middle of images spread over each split, none of them plain; and the bytes of each split."""
    needles, sizes = [], []
    for part in (data.train, data.val, data.test):
        images = part.images.numpy().reshape(len(part), -1)
        middle = images[:, images.shape[1] // 2 :][:, :LENGTH]
        lively = np.flatnonzero([len(np.unique(row)) > LENGTH // 3 for row in middle])
        chosen = lively[np.linspace(0, len(lively) - 1, NEEDLES).astype(int)]
        needles += [middle[i].tobytes() for i in chosen]
        sizes.append(images.size)
    return needles, sizes


def trial(config: dict[str, Any]) -> None:
    """A run that stops, to be looked into, while a task's images are in use for training and after the task."""
    from ccsi.sweep.execution.context import execute
    from ccsi.tracking import Progress, Trackers

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def progress(self: Trackers, event: Progress) -> None:
        if event.phase == "training" and event.step == event.steps:
            stop()

    Trackers.progress = progress  # type: ignore[method-assign]
    execute(config, stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="pbcblood_28.npz")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        trial(json.loads(options.trial))
        return
    if not options.file:
        parser.error("name the file pbcblood_28.npz")

    import ccsi.config
    from ccsi.data import Npz, open_dataset

    config = ccsi.config.load([*BUDGET, f"dataset.path={os.path.abspath(options.file)}"])
    source = Npz(**{key: value for key, value in config["dataset"].items() if key != "_target_"})
    with tempfile.TemporaryDirectory() as temporary:
        data = open_dataset(source, Path(temporary) / "data")
        needles, sizes = pieces(data)
        print(f"images: {', '.join(f'{n / MIB:.1f}' for n in sizes)} MiB (train, val, test)", flush=True)
        del data
        for name in ("private", "shared"):
            totals = []
            for trials in (1, 2):
                folder = Path(temporary) / f"{name}{trials}"
                folder.mkdir()
                store = folder / "data"
                if name == "shared":
                    seconds = [opening(source, store) for _ in range(2)]  # the first time, as a sweep's driver does
                    print(f"read in {seconds[0]:.3f} s, opened again in {seconds[1]:.3f} s")
                share = str(store) if name == "shared" else None
                configs = [
                    config | {"share_data": share, "seed": n, "run_dir": str(folder / str(n))} for n in range(trials)
                ]
                figures = measure(configs, store, needles, sizes)
                totals.append(figures["data"])
                told = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
                print(f"{name}, {trials} at a time (MiB): {told}", flush=True)
            print(f"{name}: two need {totals[1] / totals[0]:.3f} times the data bytes of one", flush=True)


def opening(source: Any, store: Path) -> float:
    """Seconds until the data can be used."""
    from ccsi.data import open_dataset

    began = time.perf_counter()
    open_dataset(source, store)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
