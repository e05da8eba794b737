"""An interrupted fit or extension resumes when it is called again, and ends with the same bits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_models import QUIET, TINY, fitted

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


def stopped(call: Callable[[], Model], interrupt: Callable[[int], None], after: int, out: Path) -> Model:
    """What a call makes that is interrupted at its `after`-th checkpoint, and called again."""
    interrupt(after)
    with pytest.raises(StoppedError):
        call()
    assert (out.with_name(f"{out.name}.partial") / "checkpoint.pt").exists() and not out.exists()
    interrupt(-1)
    model = call()
    assert not out.with_name(f"{out.name}.partial").exists()
    return model


@pytest.mark.parametrize("after", [1, 2, 3])  # the third is after the task itself
def test_a_fit_resumes(images: Images, tmp_path: Path, interrupt: Callable[[int], None], after: int) -> None:
    first = images("first", {"ant": 8, "bee": 8})
    again = stopped(lambda: fitted(first, base=SMALL, out=tmp_path / "one"), interrupt, after, tmp_path / "one")
    assert hashes(again) == hashes(fitted(first, base=SMALL)) == hashes(load(tmp_path / "one"))


@pytest.mark.parametrize("after", [1, 4, 7, 8, 9, 10])  # synthesis, training, and after the task itself
def test_an_extension_resumes(images: Images, tmp_path: Path, interrupt: Callable[[int], None], after: int) -> None:
    first, second = images("first", {"ant": 8, "bee": 8}), images("second", {"cat": 8})
    old, out = fitted(first, base=SMALL), tmp_path / "two"
    again = stopped(lambda: old.extend(second, out=out, overrides=AGAIN), interrupt, after, out)
    assert hashes(again) == hashes(old.extend(second, overrides=AGAIN)) == hashes(load(out))
    assert again.record.temperature == load(out).record.temperature


@pytest.mark.parametrize("moment", ["sync", "rename", "rmtree"])
def test_stopped_while_the_folder_is_written(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before it is whole there is no folder; once it is, the left-over of the work is removed by the next call."""
    first, out = images("first", {"ant": 8, "bee": 8}), tmp_path / "one"

    remove = shutil.rmtree

    def stop(path: Path, *_: object, **__: object) -> None:
        if moment != "rmtree" or path.suffix == ".partial":
            raise StoppedError
        remove(path, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr(*{
            "sync": ("ccsi.model.folder.sync_folder", stop),
            "rename": (Path, "rename", stop),
            "rmtree": ("ccsi.model.learning.shutil.rmtree", stop),
        }[moment])  # fmt: skip
        with pytest.raises(StoppedError):
            fitted(first, out=out)
    assert out.exists() == (moment == "rmtree") and (tmp_path / "one.partial").exists()
    if moment == "rmtree":
        with pytest.raises(UserError, match="exists already"):
            fitted(first, out=out)
    else:
        fitted(first, out=out)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "one"} and load(out).class_names == ("ant", "bee")


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
    fitted(first, base=SMALL).extend(second, out=tmp_path / "new", overrides=AGAIN)  # the same model, fitted again


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
