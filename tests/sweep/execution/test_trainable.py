"""How often a trial is tried again, and what it says when it is given up; no Ray is started."""

import contextlib
import json
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from ray import tune
from ray.exceptions import OutOfMemoryError

from ccsi.errors import UserError
from ccsi.io.locks import InUseError
from ccsi.sweep.execution.context import TrialContext, check_node, sole_user
from ccsi.sweep.execution.failures import WORKER_DIED, GivenUpError, RetryCounter, memory_advice, reason
from ccsi.sweep.execution.trainable import run_trial
from ccsi.sweep.train import sole_driver

STANDIN = {"_target_": "standin.run", "_partial_": True, "evaluate_test": False}


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials report to Tune."""
    reports: list[dict[str, Any]] = []
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.setattr(tune, "report", reports.append)
    return reports


def trial(folder: Path, max_failures: int = 1, **changes: Any) -> None:
    """A trial of one run of the stand-in, as Tune calls it."""
    config = STANDIN | {"run_dir": str(folder), "seed": 0, "tasks": 2} | changes
    context = TrialContext(1, 1.0, 0.0, max_failures, call="the driver")
    run_trial({"name": "p1-c00", "runs": json.dumps([config])}, context, "val_average_incremental")


def started(run: Path, crash: str = "", call: str = "") -> str | None:
    """Start an attempt of at most 3, which is killed, or crashes; the reason, if the counter gives the run up."""
    retries = RetryCounter(run, TrialContext(1, 1.0, 0.0, 2, call=call))
    try:
        if not crash:
            retries.attempt().__enter__()
            return None
        with contextlib.suppress(ValueError), retries.attempt():
            raise ValueError(crash)
    except GivenUpError as error:
        return reason(str(error))
    return None


def test_only_attempts_that_get_no_further_are_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert [started(run) for _ in range(4)] == [None, None, None, WORKER_DIED]
    run.mkdir()
    for step in range(5):  # each time it crashes it has got further
        (run / "checkpoint.pt").write_text(f"{step}")
        assert [started(run), started(run, "boom")] == [None, None]
    shutil.copytree(run, tmp_path / "copy")  # another machine, from a storage: the same bytes, at another time
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "copy", run, copy_function=shutil.copyfile)
    assert [started(run), started(run)] == [None, "ValueError: boom"]
    assert started(run, call="the next call of the driver") is None
    assert not (run / ".run.attempts").exists()  # a run's folder holds no other files


def test_what_befalls_a_trial_counts_against_none_of_its_runs_that_are_through(
    tmp_path: Path, reports: list[dict[str, Any]]
) -> None:
    context = TrialContext(1, 1.0, 0.0, 1)
    for number in range(5):  # started again in its second run, and each time it got further
        runs = [
            STANDIN | {"run_dir": str(tmp_path / run), "seed": 0, "tasks": 2}
            for run in ("p1-c00-s0", f"p1-c00-s{number + 1}")
        ]
        run_trial({"name": "p1-c00", "runs": json.dumps(runs)}, context, "val_average_incremental")
    assert not [one for one in reports if "error" in one]
    assert not list(tmp_path.glob(".*.attempts"))


def test_a_run_that_breaks_off_at_the_same_place_is_given_up_with_its_reason(
    tmp_path: Path, reports: list[dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="boom"):  # Tune starts it again
        trial(tmp_path / "p1-c00-s0", fault="crash")
    assert reports == []
    trial(tmp_path / "p1-c00-s0", fault="crash")
    assert reports[0]["error"] == "ValueError: boom"
    assert "Traceback" in reports[0]["traceback"]


def test_a_folder_the_node_does_not_have_is_told_at_once(tmp_path: Path, reports: list[dict[str, Any]]) -> None:
    trial(tmp_path / "elsewhere/runs/p1-c00-s0")
    assert "sweep.dir must be a folder all nodes share" in reports[0]["error"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_machine_that_sees_another_disk_is_refused(tmp_path: Path) -> None:
    def refusal(runs: Path, storage: str | None) -> str:
        with pytest.raises(UserError) as refused:
            check_node(str(runs), storage)
        return str(refused.value)

    runs = tmp_path / "s/runs"
    assert "No such file or directory; sweep.dir must be a folder all nodes share" in refusal(runs, None)
    runs.mkdir(parents=True)
    assert "another folder of this name" in refusal(runs, None)
    (tmp_path / "s/sweep.yaml").touch()
    check_node(str(runs), None)
    check_node(str(runs), f"file://{tmp_path}/kept")
    assert "cannot be written" in refusal(runs, "file:///proc/nothing")
    assert list(runs.iterdir()) == []


def test_the_runs_of_a_storage_are_readable_for_their_owner_alone(tmp_path: Path) -> None:
    context = TrialContext(1, 1.0, 0.0, 0, storage="s3://bucket/s")
    context.check_folder(tmp_path / "ccsi-0/abc")
    assert stat.S_IMODE((tmp_path / "ccsi-0").stat().st_mode) == 0o700


def test_a_lock_refused_inside_is_not_taken_for_the_runs_own(tmp_path: Path) -> None:
    for sole in (sole_user, sole_driver):
        with pytest.raises(InUseError, match="another"), sole(tmp_path / "run"):
            raise InUseError("another lock")


def test_out_of_memory_is_not_tried_again_and_names_the_share(
    tmp_path: Path, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    class Card:
        total_memory = 16 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    text = memory_advice(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …"), 0.25)
    assert text is not None and "resources.gpu=0.25 allows 4.0 of 16.0 GiB" in text
    assert memory_advice(ValueError("boom"), 0.25) is None
    assert memory_advice(OutOfMemoryError("the node ran low on memory"), 0.25) is None  # Ray's: not the card's

    def greedy(**changes: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(sys.modules.get("standin") or __import__("standin"), "run", greedy)
    trial(tmp_path / "p1-c00-s0", max_failures=4)
    assert reports[0]["error"].startswith("MemoryError: the trial needs more memory")
