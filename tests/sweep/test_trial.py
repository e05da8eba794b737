"""How often a trial is tried again, and what it says when it is given up; no Ray is started."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from ray import tune

from ccsi.sweep.trial import WORKER_DIED, Attempts, Place, out_of_memory, run_trial, unfit

STANDIN = {"_target_": "standin.run", "_partial_": True, "evaluate_test": False}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials report to Tune."""
    reports: list[dict[str, Any]] = []
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(tune, "report", reports.append)
    return reports


def trial(folder: Path, max_failures: int = 1, **settings: Any) -> None:
    """A trial of one run of the stand-in, as Tune calls it."""
    config = STANDIN | {"run_dir": str(folder), "seed": 0, "tasks": 2} | settings
    place = Place(1, 1.0, 0.0, max_failures, {}, os.getcwd())
    run_trial({"name": "p1-c00", "prunable": True, "runs": json.dumps([config])}, place, "val_average_incremental")


def test_only_attempts_that_get_no_further_are_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempts = Attempts(run)
    assert [attempts.begin(2) for _ in range(4)] == ["", "", "", WORKER_DIED]
    run.mkdir()
    for step in range(5):  # each time it dies it has got further
        (run / "checkpoint.pt").write_text(f"{step}")
        assert [attempts.begin(2), attempts.begin(2)] == ["", ""]
    assert attempts.broke(2, "boom", "") == ""
    shutil.copytree(run, tmp_path / "copy")  # another machine, from a storage: the same place, at another time
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "copy", run, copy_function=shutil.copyfile)
    assert attempts.begin(2) == ""
    assert attempts.begin(2) == "boom"
    assert Attempts(run, "the next call of the driver").begin(2) == ""
    assert not (run / ".run.attempts").exists()  # a run's folder holds nothing foreign


def test_what_befalls_a_trial_counts_against_none_of_its_runs_that_are_through(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    place = Place(1, 1.0, 0.0, 1, {}, os.getcwd())
    for number in range(5):  # started again in its second run, and each time it got further
        runs = [STANDIN | {"run_dir": str(tmp_path / run), "seed": 0, "tasks": 2} for run in ("a", f"b{number}")]
        run_trial({"name": "p1-c00", "prunable": True, "runs": json.dumps(runs)}, place, "val_average_incremental")
    assert not [one for one in told if "error" in one]
    assert not list(tmp_path.glob(".*.attempts"))


def test_a_run_that_breaks_off_at_the_same_place_is_given_up_with_its_reason(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match="boom"):  # Tune starts it again
        trial(tmp_path / "run", fault="crash")
    assert told == []
    trial(tmp_path / "run", fault="crash")
    assert told[0]["error"] == "ValueError: boom"
    assert "Traceback" in told[0]["text"]


def test_a_folder_the_node_does_not_have_is_told_at_once(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    trial(tmp_path / "elsewhere/runs/run")
    assert "sweep.dir must be a folder all nodes share" in told[0]["error"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_machine_that_sees_another_disk_is_unfit(tmp_path: Path) -> None:
    runs = tmp_path / "s/runs"
    assert "No such file or directory; sweep.dir must be a folder all nodes share" in unfit(str(runs), None)
    runs.mkdir(parents=True)
    assert "another folder of this name" in unfit(str(runs), None)
    (tmp_path / "s/sweep.yaml").touch()
    assert unfit(str(runs), None) == ""
    assert unfit(str(runs), f"file://{tmp_path}/kept") == ""
    assert "cannot be written" in unfit(str(runs), "file:///proc/nothing")
    assert list(runs.iterdir()) == []


def test_out_of_memory_is_not_tried_again_and_names_the_share(
    tmp_path: Path, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    class Card:
        total_memory = 16 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    text = out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …"), 0.25)
    assert "resources.gpu=0.25 allows 4.0 of 16.0 GiB" in text
    assert out_of_memory(ValueError("boom"), 0.25) == ""

    def greedy(**settings: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(sys.modules.get("standin") or __import__("standin"), "run", greedy)
    trial(tmp_path / "run", max_failures=4)
    assert told[0]["error"].startswith("MemoryError: the trial needs more memory")
