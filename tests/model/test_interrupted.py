"""An interrupted fit or extension resumes when it is called again, and ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import QUIET, TINY, fitted

from ccsi.errors import UserError
from ccsi.experiment.tasks import RunSession
from ccsi.model import Model, load

Images = Callable[..., Path]
SMALL = [*TINY, "learner=ccsi", "learner.synthesis.iterations=6", "learner.synthesis.warmup=1", "checkpoint_every=0"]
SMALL += ["learner.synthesis.per_class=4", "training.batch_size=4"]
AGAIN = [*QUIET, "checkpoint_every=0"]


class StoppedError(Exception):
    pass


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """After so many checkpoints the process ends, as a kill does; -1: never."""
    left, save = [-1], RunSession.save

    def counted(self: RunSession, stages: object) -> None:
        save(self, stages)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError

    monkeypatch.setattr(RunSession, "save", counted)
    yield lambda n: left.__setitem__(0, n)


def hashes(model: Model) -> list[tuple[str, str | None, list[list[int]]]]:
    return [(task.weights_sha256, task.impressions_sha256, task.val.confusion) for task in model.record.tasks]


@pytest.mark.parametrize("after", [1, 3, 9, 14])
def test_both_resume(images: Images, tmp_path: Path, interrupt: Callable[[int], None], after: int) -> None:
    first, second = images("first", {"ant": 8, "bee": 8}), images("second", {"cat": 8})
    whole = fitted(first, base=SMALL)
    whole = whole.extend(second, overrides=AGAIN)
    for name in ("one", "two"):
        interrupt(after)
        call = (
            (lambda: fitted(first, base=SMALL, out=tmp_path / "one"))
            if name == "one"
            else (lambda: load(tmp_path / "one").extend(second, out=tmp_path / "two", overrides=AGAIN))
        )
        try:
            call()
        except StoppedError:
            assert (tmp_path / f"{name}.partial" / "checkpoint.pt").exists() and not (tmp_path / name).exists()
            interrupt(-1)
            call()
        interrupt(-1)
        assert not (tmp_path / f"{name}.partial").exists()
    assert hashes(load(tmp_path / "two")) == hashes(whole)


def test_other_settings_or_another_old_model_do_not_resume(
    images: Images, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    first, second = images("first", {"ant": 8, "bee": 8}), images("second", {"cat": 8})
    one, other = fitted(first, base=SMALL), fitted(first, base=[*SMALL, "seed=1"])
    interrupt(2)
    with pytest.raises(StoppedError):
        one.extend(second, out=tmp_path / "new", overrides=AGAIN)
    interrupt(-1)
    with pytest.raises(UserError, match=r"^out=.*new\.partial was begun with old=[0-9a-f]{64}, not [0-9a-f]{64}"):
        fitted(first, base=[*SMALL, "training.lr=0.3"]).extend(second, out=tmp_path / "new", overrides=AGAIN)
    with pytest.raises(UserError, match=r"^out=.*new\.partial was begun with .*; use the same settings to resume"):
        one.extend(second, out=tmp_path / "new", overrides=[*AGAIN, "training.lr=0.5"])
    with pytest.raises(UserError, match="was begun with"):
        other.extend(second, out=tmp_path / "new", overrides=AGAIN)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_killed(images: Images, tmp_path: Path) -> None:
    """kill -9 in the midst of training, then the same command."""
    first = images("first", {"ant": 30, "bee": 30})
    options = ["learner=lwf", "training.first_epochs=100", "dataset.size=8", "checkpoint_every=0", "report=false"]

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ccsi", "fit", str(first), f"out={tmp_path / out}", *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    process = start("killed")
    while not (tmp_path / "killed.partial" / "checkpoint.pt").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    assert start("killed").wait() == 0
    assert hashes(load(tmp_path / "killed")) == hashes(load(tmp_path / "whole"))
