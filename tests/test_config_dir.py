"""Trackers, learners and experiments of the user's own: a folder of files, and no change to the package."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import ANY_LEARNER

import ccsi.cli
import ccsi.config
import ccsi.config.compose
from ccsi.errors import UserError

FILES = {
    "counter.py": """
from ccsi.tracking import TaskEnd, Tracker

class TaskCounter(Tracker):
    tasks = 0
    def task_end(self, event: TaskEnd) -> None:
        TaskCounter.tasks += 1
""",
    "tracking/counting.yaml": """
defaults: [default, _self_]
count:
  _target_: counter.TaskCounter
""",
    "slow_start.py": """
from typing import Any
from ccsi.checks import Positive
from ccsi.learners import NetLearner

class SlowStart(NetLearner):
    default_name = "slow_start"
    def __init__(self, *, gain: Positive = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.gain = gain
""",
    "learner/slow_start.yaml": """
_target_: slow_start.SlowStart
_partial_: true
name: slow_start
gain: 2.0
""",
    "experiment/mine/tiny.yaml": """
# @package _global_
defaults:
  - override /learner: slow_start
training:
  epochs: 1
""",
}


@pytest.fixture(params=["mine", "it's [my, own] folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, added for the time of a test."""
    top = tmp_path / str(request.param)
    for name, text in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    monkeypatch.setattr(ccsi.config.compose, "ADDED", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in ("counter", "slow_start"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    ccsi.config.add_config_dir(top)
    ccsi.config.add_config_dir(top)  # again changes nothing
    return top


def test_a_tracker_and_a_learner_from_outside_the_package(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "counting" in ccsi.config.choices("tracking") and "slow_start" in ccsi.config.choices("learner")
    assert "mine/tiny" in ccsi.config.choices("experiment") and "quick/digits" in ccsi.config.choices("experiment")
    assert ccsi.cli.main(["run", "--help"]) == 0 and "slow_start" in capsys.readouterr().out
    tree = ccsi.config.load([*ANY_LEARNER, "tracking=counting", "experiment=mine/tiny", f"run_dir='{tmp_path}/run'"])
    assert (tree["name"], tree["training"]["epochs"]) == ("digits-slow_start", 1)
    assert list(tree["tracking"]) == ["_target_", "wandb", "console", "count"]
    result = ccsi.config.build(tree)()
    assert result.figures["learner"] == "slow_start"
    assert sys.modules["counter"].TaskCounter.tasks == 3


@pytest.mark.parametrize("folder", ["mine"], indirect=True)
def test_mistakes_in_them_are_named_with_their_key(folder: Path, tmp_path: Path) -> None:
    load: Callable[..., Any] = lambda *more: ccsi.config.load(["tracking=counting", "learner=slow_start", *more])  # noqa: E731
    with pytest.raises(UserError, match=r"learner\.gane is not a setting; did you mean learner\.gain\?"):
        load("learner.gane=1")
    with pytest.raises(UserError, match=r"learner\.gain=-1: expected a number > 0"):
        ccsi.config.check(load("learner.gain=-1"))
    with pytest.raises(UserError, match=r"tracking\.count\.of is not a setting"):
        ccsi.config.check(load("+tracking.count.of=1"))
    with pytest.raises(UserError, match=r"names no file in configs/tracking; expected one of counting, default"):
        ccsi.config.load(["tracking=conting"])
    (folder / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(UserError, match=r"tracking\.count\._target_=broken\.It: .*nothing_of_this_name"):
        ccsi.config.check(load("tracking.count._target_=broken.It"))


@pytest.mark.parametrize("folder", ["mine"], indirect=True)
def test_folders_that_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--config-dir=.*nothing is not a folder"):
        ccsi.config.add_config_dir(tmp_path / "nothing")
    (tmp_path / "other" / "learner").mkdir(parents=True)
    (tmp_path / "other" / "learner" / "ewc.yaml").touch()
    with pytest.raises(UserError, match=r"ewc\.yaml: configs/ has a file of this name already"):
        ccsi.config.add_config_dir(tmp_path / "other")
    assert list(ccsi.config.compose.ADDED) == [folder]
