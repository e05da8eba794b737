"""The journal: what is appended is read again, whatever a kill, a full disk or an earlier version left in the file."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.sweep import journal as module
from ccsi.sweep.events import (
    KINDS,
    ConfigSuggested,
    DriverStarted,
    DriverStopped,
    Event,
    GpuShareMeasured,
    JobEnded,
    JobId,
    RunFinished,
    RunId,
    RunLost,
    SearchEnded,
    Status,
    SweepExtended,
    TaskReported,
    TrialPromoted,
    TrialStarted,
    WarmStarted,
    from_record,
    to_record,
)
from ccsi.sweep.journal import Journal

EVENTS: list[Event] = [
    DriverStarted(),
    SweepExtended(40, 2, [0, 1, 2]),
    ConfigSuggested({"learner.w_idc": 0.5, "training.lr": [0.1, 0.2], "name": 'a "quoted" ü'}),
    SearchEnded(),
    WarmStarted(["sweeps/a"], [{"values": {"a": 1}, "score": 0.5, "seconds": None}]),
    GpuShareMeasured(0.25),
    TrialStarted(3),
    TrialPromoted(3, anyway=True),
    TaskReported(RunId(1, 3, 100), 1, 1, 0.75, 4, 0.75, 12.5),
    RunFinished(RunId(1, 3, 100), 4, {"macro_over_tasks": 0.5, "micro": 1 / 3}, 99.25),
    RunLost(RunId(1, 3, 100)),
    JobEnded(JobId(1, 3), Status.PRUNED, "by ASHA"),
    JobEnded(JobId(2, 3, 0), Status.DONE),
    DriverStopped(),
]


def test_every_kind_of_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert {type(event).__name__ for event in EVENTS} == set(KINDS)
    journal = Journal(tmp_path / "journal.jsonl")
    for n, event in enumerate(EVENTS):
        journal.append(event, n)
    again = Journal(journal.path)
    assert again.read() == [(event, float(n)) for n, event in enumerate(EVENTS)]
    assert again.n_skipped == 0


@given(
    phase=st.sampled_from([1, 2]), trial=st.integers(0, 10**6), seed=st.integers(0, 2**62),
    val=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)  # fmt: skip
def test_ids_and_figures_keep_their_bits(phase: int, trial: int, seed: int, val: dict[str, float]) -> None:
    run = RunId(phase, trial, seed)
    assert RunId.parse(str(run)) == run
    assert JobId.parse(str(run.job)) == run.job
    event = RunFinished(run, 2, val, 0.1)
    assert from_record(to_record(event)) == event


@pytest.mark.parametrize("name", ["", "p1-c00", "p3-c00-s1", "p1-c00-s1x", "p1-c-s1", "p1-c00-s1/../x"])
def test_other_names_are_no_runs(name: str) -> None:
    with pytest.raises(ValueError, match="is not a run's name"):
        RunId.parse(name)


def test_a_line_cut_anywhere_costs_that_line_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for event in EVENTS:
        journal.append(event, 1.0)
    whole = journal.path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        journal.path.write_bytes(whole[:cut])
        torn = Journal(journal.path)
        kept = [event for event, _ in torn.read()]
        assert kept == (EVENTS if cut == len(whole) - 1 else EVENTS[:-1])
        torn.append(TrialStarted(7), 2.0)
        again = Journal(journal.path)
        assert [event for event, _ in again.read()] == [*kept, TrialStarted(7)]
        assert again.n_skipped == (last < cut < len(whole) - 1)


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # the folder is synced once, for the new name
            synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(module.os, "fsync", fsync)
    journal = Journal(tmp_path / "journal.jsonl")
    for n in range(3):
        journal.append(TrialStarted(n), 0.0)
        assert synced[-1] == journal.path.stat().st_size and len(synced) == n + 1


def test_after_a_full_disk_the_next_event_has_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(TrialStarted(0), 0.0)

    def full(descriptor: int) -> None:
        os.truncate(journal.path, journal.path.stat().st_size - 5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(TrialStarted(1), 0.0)
    journal.append(TrialStarted(2), 0.0)
    assert [event for event, _ in Journal(journal.path).read()] == [TrialStarted(0), TrialStarted(2)]


OLD: list[tuple[dict[str, Any], Event]] = [
    ({"setting": {"a": 1}, "clock": 1.0}, ConfigSuggested({"a": 1})),
    ({"searched": True, "clock": 1.0}, SearchEnded()),
    ({"gpu": 0.5, "clock": 1.0}, GpuShareMeasured(0.5)),
    ({"earlier": {"folders": ["a"], "tried": []}, "clock": 1.0}, WarmStarted(["a"], [])),
    ({"begun": 3, "clock": 1.0}, TrialStarted(3)),
    ({"recalled": 3, "spared": False, "clock": 1.0}, TrialPromoted(3, False)),
    (
        {"trial": "p1-c03", "report": {"run": "p1-c03-s9", "task": 1, "tasks": 2, "score": 0.5, "seconds": 1.5,
                                       "tasks_done": 3, "value": 0.6}},
        TaskReported(RunId(1, 3, 9), 1, 3, 0.6, 2, 0.5, 1.5),
    ),
    ({"trial": "p2-c03-s0", "end": "failed", "error": "boom"}, JobEnded(JobId(2, 3, 0), Status.FAILED, "boom")),
    ({"clock": 1.0}, DriverStopped()),
]  # fmt: skip


@pytest.mark.parametrize(("record", "event"), OLD)
def test_the_journals_of_november_2026_are_read(record: dict[str, Any], event: Event) -> None:
    assert from_record(record) == event
