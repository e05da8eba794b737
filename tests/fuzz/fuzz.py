"""A seeded fuzzer of the command line: whatever the input, a command ends well or with one sentence.

    python tests/fuzz/fuzz.py SEED CASES [KIND …]

Each case is a command whose files and arguments are drawn from its number, so it can be repeated alone:
`python tests/fuzz/fuzz.py SEED 1 KIND@NUMBER`. The commands run in a forked child, which may die or hang; the next
child continues with the next case. One line of JSON for each case that failed, and one with the counts.
"""

import contextlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

HANG, SILENT = 20.0, 60.0
"""Seconds of work, and by the clock (machines may be busy), after which a command that does not end is hung."""
TRAINED = 0.4
"""Seconds of learning after which a command is stopped: its input was accepted."""
LONGEST = 600
"""Characters of a sentence."""
MEMORY = 6 * 2**30
"""Bytes that a child may allocate beyond what it has: a command that asks for more fails here as on a full machine."""


class TrainedError(BaseException):
    """A command has come so far that its input was accepted."""


def main(seed: str, cases: str, *kinds: str) -> int:
    """Run the cases; returns how many failed."""
    from kinds import LEARNERS, tiny_config
    from model_folders import KINDS

    failed, counts = 0, Counter[str]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        sandbox = Path(name).resolve()
        isolate(sandbox)
        for learner in LEARNERS:
            tiny_config(learner)  # composed once, for all children
        for kind in kinds or KINDS:
            kind, _, only = kind.partition("@")
            maker, share = KINDS[kind]
            numbers = [int(only)] if only else range(max(1, round(int(cases) * (1.0 if kinds else share))))
            bases = sandbox / "bases" / kind
            in_child(partial(prepare, maker, bases), None)
            for report in run_cases(partial(maker, bases), kind, seed, list(numbers), sandbox):
                counts[f"{kind} {report['outcome']}"] += 1
                if report["outcome"] not in ("done", "refused", "trained"):
                    failed += 1
                    print(json.dumps(report), flush=True)
    print(json.dumps({"counts": counts}), flush=True)
    return min(failed, 100)


def isolate(sandbox: Path) -> None:
    """Make what a command takes as its home, its temporary folder and its working folder lie in the sandbox."""
    for name in ("home", "tmp"):
        (sandbox / name).mkdir()
    os.environ |= {"HOME": str(sandbox / "home"), "TMPDIR": str(sandbox / "tmp"), "WANDB_MODE": "disabled"}
    os.environ |= {"MPLCONFIGDIR": str(sandbox / "tmp"), "COLUMNS": "80"}
    tempfile.tempdir = None
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    for name in (
        "ccsi.experiment.run",
        "ccsi.sweep.folder",
        "ccsi.model",
        "sklearn.metrics",
        "sklearn.svm",
        "sklearn.datasets",
    ):
        import_module(name)  # once, for all children


def run_cases(make: Any, kind: str, seed: str, numbers: list[int], sandbox: Path) -> Iterator[dict[str, Any]]:
    """The report of each case; a child that hangs or dies is replaced."""
    while numbers:
        last = None
        for message in in_child(partial(child, make, kind, seed, numbers, sandbox)):
            if "outcome" in message:
                yield message
                numbers = numbers[numbers.index(message["number"]) + 1 :]
                last = None
            else:
                last = message
        if last is None:
            if numbers:
                raise RuntimeError(f"{kind}: the child ended before case {numbers[0]} of seed {seed}")
            return
        yield last | {"outcome": "hang" if time.monotonic() - last.pop("at") >= SILENT else "killed"}
        numbers = numbers[numbers.index(last["number"]) + 1 :]


def in_child(work: Any, silent: float | None = SILENT) -> list[dict[str, Any]]:
    """Messages that `work` sent from a forked process, which is killed if it is silent for so many seconds."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        code = 1
        try:
            os.close(reading)
            os.setpgid(0, 0)
            work(lambda message: os.write(writing, json.dumps(message).encode() + b"\n"))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    data = b""
    while select.select([reading], [], [], silent)[0] and (part := os.read(reading, 2**16)):
        data += part
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)
    return [json.loads(line) for line in data.splitlines()]


def prepare(maker: Any, bases: Path, send: Any) -> None:
    maker.prepare(bases)


def child(make: Any, name: str, seed: str, numbers: list[int], sandbox: Path, send: Any) -> None:
    """Run cases, each in a folder of its own, and send a report of each."""
    kind = make()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import_module("torch._dynamo")  # imported late by PyTorch; the timer would break that off
    watch = Watch()
    for number in numbers:
        folder = sandbox / "cases" / f"{name}-{number}" / "work"
        folder.mkdir(parents=True)
        os.chdir(folder)
        typed = kind.case(random.Random(f"{seed} {name} {number}"), folder)
        about = {"kind": name, "number": number, "seed": seed, "typed": [repr(one)[:300] for one in typed]}
        send(about | {"at": time.monotonic()})
        send(about | watch.attempt(typed, folder))
        os.chdir(sandbox)
        shutil.rmtree(folder.parent, ignore_errors=True)


PROGRAMS = ("git", "fc-list")
"""Programs that may be started: for the commit in result.json, and matplotlib's for the fonts of its cache."""
PYTORCHS = f"{tempfile.gettempdir()}/torchinductor_"
"""A cache folder that PyTorch makes when some of its modules are imported."""


class Watch:
    """Runs commands; stops those that learn, and sees what is written outside and what programs are started."""

    def __init__(self) -> None:
        spine: Any = import_module("ccsi.experiment.run")  # the package's own `run` is the function
        models: Any = import_module("ccsi.model.learning")

        self.learning, self.folder, self.outside = False, Path(), list[str]()
        learn_all = spine.learn_all

        def learn(*parts: Any, **more: Any) -> None:
            self.learning = True
            signal.setitimer(signal.ITIMER_REAL, TRAINED, HANG / 4)  # again: what caught it may go on
            learn_all(*parts, **more)

        spine.learn_all = models.learn_all = learn
        signal.signal(signal.SIGALRM, self.alarm)
        sys.addaudithook(self.audit)

    def alarm(self, *signal_and_frame: Any) -> None:
        if self.learning:
            raise TrainedError

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder.name:
            return
        written: list[Any] = []
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written = [arguments[0]]
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.link", "os.rename"):
            written = [one for one in arguments if isinstance(one, str | bytes)]
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
            self.outside += (
                [] if any(name in repr(arguments) for name in PROGRAMS) else [f"{event} {arguments!r}"[:200]]
            )
        for path in written:
            if isinstance(path, str | bytes):
                full = os.path.abspath(os.fsdecode(path))
                home = str(self.folder.parents[2])  # the sandbox: its home and its temporary folder
                allowed = (f"{self.folder}/", f"{home}/tmp", f"{home}/home", "/dev/", "/proc/self/", PYTORCHS)
                if not f"{full}/".startswith(allowed):
                    self.outside.append(f"{event} {full}"[:200])

    def attempt(self, typed: Any, folder: Path) -> dict[str, Any]:
        """The outcome of a command, or of a function: `done`, `refused`, `trained`, or what went wrong."""
        from ccsi.cli import main
        from ccsi.errors import UserError

        said = io.StringIO()
        self.outside, self.learning, self.folder, began = [], False, folder, time.process_time()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = main(typed) if isinstance(typed, list) else typed()
            outcome, detail = {0: "done", 2: "refused", None: "done"}.get(code, f"exit {code}"), said.getvalue()
        except TrainedError:
            outcome, detail = "trained", ""
        except UserError as error:
            outcome, detail = "refused", f"ccsi: {error}"
        except BaseException as error:
            outcome, detail = "traceback", "".join(traceback.format_exception(error)[-4:])
            detail = f"{type(error).__name__}: {error}"[:300] + "\n" + detail[-1500:]
        finally:
            self.learning, self.folder = False, Path()
            signal.setitimer(signal.ITIMER_REAL, 0)
        if outcome == "refused" and (problem := sentence_problem(detail)):
            outcome, detail = problem, detail[:1500]
        if time.process_time() - began > HANG:
            outcome = "hang"
        if self.outside:
            outcome, detail = "outside", "\n".join(self.outside)
        return {"outcome": outcome, "detail": detail}


def sentence_problem(said: str) -> str | None:
    """What is wrong with a message; None if it is one sentence."""
    lines = said.strip("\n").split("\n")
    if len(lines) != 1 or not said.startswith("ccsi: "):
        return "no single line"
    if len(said) > LONGEST:
        return "too long"
    if "Traceback" in said or any(ord(sign) < 32 or ord(sign) == 127 for sign in lines[0]):
        return "not plain"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
