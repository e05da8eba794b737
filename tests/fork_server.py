"""`python -m ccsi …` many times in a test, each in a process of its own, without the seconds of importing torch.

Run as a script it imports what a run needs, forks once for each line of JSON on stdin (`args`, and what shall befall
the process), and answers with a line of JSON: `rc`, `stdout`, `stderr`, `stages`.
"""

import importlib
import itertools
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class Server:
    """The other side, for the tests."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)

    def __call__(self, *args: str, **fate: Any) -> dict[str, Any]:
        """`python -m ccsi <args>` in a new process.

        Args:
            fate: `at`: number of the checkpoint write (from 1) at which it gets `signal`, `when`: "half" (the file is
                half written), "before" or "after" it is renamed into place. `file_size`: the largest file it may
                write, in bytes. `every`: only each so-many-th step inside a stage is due for a checkpoint.

        Returns:
            `rc` (negative: the signal that ended it), `stdout`, `stderr`, and `stages`: for each checkpoint written
            the stage it was written in, None between tasks.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"args": args, **fate}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def child(job: dict[str, Any], stages: Path) -> None:
    """Be `python -m ccsi`, until what must happen happens."""
    import ccsi.experiment.checkpoint

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "file_size" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    written = 0
    save, replace = ccsi.experiment.checkpoint.Checkpoints.save, os.replace

    def noting_save(self: ccsi.experiment.checkpoint.Checkpoints, state: dict[str, Any]) -> None:
        with stages.open("a") as file:
            file.write(json.dumps(state["stages"] and state["stages"]["name"]) + "\n")
        save(self, state)

    def fatal_replace(part: Path, path: Path) -> None:
        nonlocal written
        if path.name != ccsi.experiment.checkpoint.CHECKPOINT:
            return replace(part, path)
        written += 1
        here = written == job.get("at")
        if here and job["when"] == "half":
            os.truncate(part, part.stat().st_size // 2)
        if here and job["when"] != "after":
            os.kill(os.getpid(), job["signal"])
        replace(part, path)
        if here:
            os.kill(os.getpid(), job["signal"])

    if "every" in job:
        steps = itertools.count(1)
        ccsi.experiment.checkpoint.Checkpoints.due = lambda self: next(steps) % job["every"] == 0  # type: ignore[method-assign]
    if "file_size" not in job:
        ccsi.experiment.checkpoint.Checkpoints.save = noting_save  # type: ignore[method-assign]
        os.replace = fatal_replace  # type: ignore[assignment]
    sys.argv = ["ccsi", *job["args"]]
    runpy.run_module("ccsi", run_name="__main__", alter_sys=True)


def serve() -> None:
    for name in ("sklearn.datasets", "sklearn.metrics", "ccsi.experiment"):
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryDirectory() as scratch:
            out, err, stages = (Path(scratch) / name for name in ("out", "err", "stages"))
            stages.touch()
            pid = os.fork()
            if pid == 0:
                for target, path in ((1, out), (2, err)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), target)
                try:
                    child(job, stages)
                except SystemExit as error:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(int(error.code or 0))
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                os._exit(70)
            rc = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            named = [json.loads(name) for name in stages.read_text().splitlines()]
            answer = {"rc": rc, "stdout": out.read_text(), "stderr": err.read_text(), "stages": named}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
