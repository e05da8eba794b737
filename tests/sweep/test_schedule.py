"""How Tune's events and decisions are handled; no Ray is started."""

import contextlib
import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("ray")
from ccsi.sweep import main as command
from ccsi.sweep import schedule
from ccsi.sweep.book import Book
from ccsi.sweep.definition import compose, placed
from ccsi.sweep.pruning import Halving
from ccsi.sweep.schedule import Events, Supply

STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
NOBODY: Any = None


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):  # set by the command; put back afterwards
        monkeypatch.setenv(name, os.environ.get(name, "disabled"))


def decisions(scheduler: Halving, name: str, values: dict[int, float]) -> list[str]:
    """What a trial is told that reports `values` by tasks done."""
    trial: Any = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(NOBODY, trial)
    told = [
        scheduler.on_trial_result(NOBODY, trial, {"tasks_done": n, "compared": v, "value": v})
        for n, v in values.items()
    ]
    scheduler.on_trial_complete(NOBODY, trial, {"tasks_done": max(values), "compared": values[max(values)]})
    return told


def test_a_resumed_trial_is_compared_only_where_it_reports() -> None:
    scheduler = Halving()
    for number, value in enumerate((0.90, 0.80)):
        decisions(scheduler, f"first{number}", dict.fromkeys(range(1, 9), value))
    # Its first run (five tasks) is finished and tells its end alone: not to be held against others after four tasks.
    assert decisions(scheduler, "resumed", {5: 0.5, 6: 0.5, 7: 0.5}) == ["CONTINUE"] * 3
    # At rung 8 it is, and neither saying so twice nor ending there puts it into a lower rung.
    assert decisions(scheduler, "again", {8: 0.89}) == ["CONTINUE"]
    assert decisions(scheduler, "again", {8: 0.89}) == ["CONTINUE"]
    rungs = dict(scheduler._brackets[0]._rungs)
    assert set(rungs[4]) == {"first0", "first1"}
    assert set(rungs[8]) == {"first0", "first1", "again"}
    assert decisions(scheduler, "worse", {1: 0.1}) == ["STOP"]


def test_a_trial_that_tune_gave_up_silently_is_booked_and_makes_room(tmp_path: Path) -> None:
    (tmp_path / "s/runs").mkdir(parents=True)
    space = "sweep.space={quality: {grid: [0.3]}}"
    book = Book(placed(compose([*STANDIN, space, "sweep.search=grid"]), tmp_path / "s"), Console(quiet=True))
    supply = Supply(iter([{"name": "p1-c00"}]), 1)
    supply.suggest("id")
    events = Events(book, supply)
    trial = SimpleNamespace(status="ERROR", trial_id="id", config={"name": "p1-c00"}, error_file=None)
    assert not book.searched()
    for _ in range(2):  # told once
        events.on_step_end(1, [trial])
    assert book.searched()
    assert book.group(1, 0) == "failed"
    assert supply.live == set()
    assert (tmp_path / "s/journal.jsonl").read_text().count("failed") == 1


def test_a_trial_given_to_an_idle_worker_that_died_is_offered_once_more(tmp_path: Path) -> None:
    (tmp_path / "s/runs").mkdir(parents=True)
    (tmp_path / "error.txt").write_text("The actor died unexpectedly before finishing this task.\n")
    space = "sweep.space={quality: {grid: [0.3]}}"
    book = Book(placed(compose([*STANDIN, space, "sweep.search=grid"]), tmp_path / "s"), Console(quiet=True))
    supply = Supply(iter([{"name": "p1-c00"}]), 1)
    events = Events(book, supply)
    for number, ends in enumerate(("incomplete", "failed")):
        offered = supply.suggest(str(number))
        assert offered == {"name": "p1-c00"}
        supply.on_trial_complete(str(number), error=True)
        trial = SimpleNamespace(status="ERROR", trial_id=str(number), config=offered, error_file=tmp_path / "error.txt")
        events.on_trial_error(1, [trial], trial)
        assert book.group(1, 0) == ends
    assert supply.suggest("2") == "FINISHED"


def test_the_supply_stays_open_while_a_trial_may_come_back() -> None:
    supply = Supply(iter([{"name": "p1-c00"}]), 2)
    supply.suggest("0")
    assert supply.suggest("1") is None
    supply.on_trial_complete("0")
    assert supply.suggest("1") == "FINISHED"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (schedule.tune.TuneError("Traceback …\n  File …\nValueError: boom"), "ValueError: boom"),
    ],
)
def test_a_sweep_that_breaks_off_says_so_in_a_sentence_and_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fit(self: Any) -> None:
        raise error

    monkeypatch.setattr(schedule.tune.Tuner, "__init__", lambda self, *a, **k: None)
    monkeypatch.setattr(schedule.tune.Tuner, "fit", fit)
    monkeypatch.setattr(schedule, "cluster", lambda settings, dashboard: contextlib.nullcontext())
    monkeypatch.setattr(schedule, "capacity", lambda *wanted: 1)
    assert command.main([*STANDIN, f"sweep.dir={tmp_path / 's'}"]) == 1
    said = capsys.readouterr().err.strip()
    assert told in said
    assert f"resume={tmp_path / 's'}" in said
    assert "\n" not in said
    assert command.main([f"resume={tmp_path / 's'}"]) == 1  # it gets as far as before


def test_a_sweep_without_ray_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ccsi.sweep.schedule")
    assert command.main([*STANDIN, f"sweep.dir={tmp_path / 's'}"]) == 2
    assert "needs the package ray: pip install 'ccsi[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
