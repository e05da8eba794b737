"""Runs that are kept at an address: what is copied when, and that a run goes on from there on another machine."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
from commands import sweep as main
from tiny_run import TINY, run_tiny

import ccsi.config
from ccsi.errors import UserError
from ccsi.sweep import driver, remote
from ccsi.sweep.events import ConfigSuggested
from ccsi.sweep.execution.context import execute
from ccsi.sweep.remote import CLAIM, Remote


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_changed_is_copied_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, kept = tmp_path / "run", Remote(f"file://{tmp_path}/kept")
    (run / "impressions").mkdir(parents=True)
    for name in ("result.json", "checkpoint.pt", "config.yaml", "impressions/task2.npz"):
        (run / name).write_text(name)
    (run / ".lock").touch()
    put, order = Remote._put, list[str]()

    def noted(self: Remote, path: str, data: bytes) -> None:
        order.append(path.removeprefix(f"{tmp_path}/kept/runs/a/"))
        put(self, path, data)

    monkeypatch.setattr(Remote, "_put", noted)
    kept.push(run, "runs/a")
    assert order[-2:] == ["checkpoint.pt", "result.json"]  # they make the rest valid
    assert sorted(order) == ["checkpoint.pt", "config.yaml", "impressions/task2.npz", "result.json"]
    (run / "checkpoint.pt").write_text("newer")
    order.clear()
    kept.push(run, "runs/a")
    assert order == ["checkpoint.pt"]
    there = Remote(f"file://{tmp_path}/kept")
    there.pull("runs/a", tmp_path / "other")
    (run / ".lock").unlink()
    assert files(tmp_path / "other") == files(run)
    order.clear()
    there.push(tmp_path / "other", "runs/a")
    assert order == []
    there.pull("runs/b", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert there.results() == {"a"}
    assert Remote(f"file://{tmp_path}/empty").results() == set()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("weird://bucket/a", "cannot be used"),
        ("no-address", "expected an address all machines can write to"),
        ("memory://a", "expected an address all machines can write to"),
        ("file:///proc/nothing", "cannot be written (FileNotFoundError: ["),
        ("http://127.0.0.1:9/a", "cannot be written (NotImplementedError)"),
    ],
)
def test_an_address_that_will_not_do_is_told(url: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Remote(url).check()
    assert f"sweep.storage={url}" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_password_is_written_down() -> None:
    with pytest.raises(UserError, match="without name and password") as caught:
        Remote("s3://KEY:SECRET@bucket/a")
    assert "SECRET" not in str(caught.value)


def test_one_driver_at_a_time_works_on_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = (Remote(f"file://{tmp_path}/kept") for _ in range(2))
    mine.claim()
    with pytest.raises(UserError, match=r"is in use: process \d+ on .* worked on it 0 s ago; if it is gone, try"):
        other.claim()
    mine.release()
    other.claim()
    later = time.time() + CLAIM + 1
    monkeypatch.setattr(remote.time, "time", lambda: later)
    mine.claim()  # the other has said nothing for a minute
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    owner = {"process": child.pid, "host": socket.gethostname(), "time": later}
    (tmp_path / "kept" / remote.OWNER).write_text(json.dumps(owner))
    other.claim()  # the one that was killed on this machine is known to be gone
    other.pull("sweep", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()  # who works on it does not come along


def test_another_sweeps_storage_is_refused_before_any_of_its_runs_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/kept"
    (tmp_path / "kept/sweep").mkdir(parents=True)
    (tmp_path / "kept/sweep/sweep.yaml").write_text("of another")
    assert main([*TINY, f"sweep.dir={tmp_path / 's'}", f"sweep.storage={url}"]) == 2
    assert f"sweep.storage={url} holds another sweep" in capsys.readouterr().err
    assert (tmp_path / "kept/sweep/sweep.yaml").read_text() == "of another"


def test_a_writable_place_is_left_empty(tmp_path: Path) -> None:
    Remote(f"file://{tmp_path}/new/place").check()
    assert files(tmp_path) == {}


def test_a_run_goes_on_elsewhere_from_its_last_copied_checkpoint(tmp_path: Path) -> None:
    whole = run_tiny(tmp_path / "whole", "checkpoint_every=0")
    url, config = f"file://{tmp_path}/kept", ccsi.config.load([*TINY, "checkpoint_every=0"])
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()

    class MachineDiesError(Exception):
        pass

    def second_task(event: Any) -> None:
        if event.task == 1:
            raise MachineDiesError

    with pytest.raises(MachineDiesError):
        execute(config | {"run_dir": str(tmp_path / "one/p1-c00-s0")}, second_task, storage=url)
    seen: list[int] = []
    elsewhere = config | {"run_dir": str(tmp_path / "two/p1-c00-s0")}
    result = execute(elsewhere, lambda event: seen.append(event.task), storage=url)
    assert seen == [1, 2]  # the first two tasks are not done again; the end of the second is told again
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert not (tmp_path / "two/p1-c00-s0").exists()  # nothing is left on the machine
    assert json.loads((tmp_path / "kept/runs/p1-c00-s0/result.json").read_text()) == result
    again = execute(elsewhere, lambda event: seen.append(event.task), storage=url)  # finished: only read
    assert again == result and seen == [1, 2]


def test_a_sweep_goes_on_from_its_storage_on_a_new_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, seen = f"file://{tmp_path}/kept/mine", list[Any]()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for machine in ("old", "new"):
        (tmp_path / machine).mkdir()
    monkeypatch.chdir(tmp_path / "old")

    def run_phases(recorder: Any, console: Any) -> None:
        seen.append((recorder.definition.cwd, list(recorder.state.configs), recorder.remote.results()))
        if not recorder.state.configs:
            recorder.record(ConfigSuggested({"quality": 0.5}))

    monkeypatch.setattr(driver, "run_phases", run_phases)
    sweep = ["_target_=standin.run", "+quality=0.5", "+tasks=2", "sweep.search=optuna", f"sweep.storage={url}"]
    main([*sweep, "sweep.space={quality: {uniform: [0, 1]}}", f"sweep.dir={tmp_path}/old/s"])
    (tmp_path / "run").mkdir()
    result = {"schema": 3, "val": {"average_incremental": 0.5}, "test": {}, "seconds": {"total": 1.0}}
    result |= {"scenario": {"classes_per_task": [2]}, "protocol": "data-free"}
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    Remote(url).push(tmp_path / "run", "runs/p1-c00-s100")
    (tmp_path / "old").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "new")
    capsys.readouterr()
    main([f"resume={url}"])
    assert seen[1] == (str(tmp_path / "new"), [{"quality": 0.5}], {"p1-c00-s100"})
    assert (tmp_path / "new/sweeps/mine/runs/p1-c00-s100/result.json").exists()
    assert main([f"resume={url}"]) == 2
    assert f"resume it with resume={tmp_path}/new/sweeps/mine" in capsys.readouterr().err
    assert main([f"resume=file://{tmp_path}/nothing"]) == 2
    assert "there is no sweep; expected the sweep.storage" in capsys.readouterr().err
