"""Where a sweep stands, from its files: made-up folders, damaged ones, and one whose driver lives."""

import errno
import fcntl
import functools
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import status as main
from rich.console import Console

from ccsi.sweep import progress
from ccsi.sweep.compose import compose
from ccsi.sweep.counts import time_left
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import JobId, RunFinished, RunId, TaskReported
from ccsi.sweep.folder import lock_sweep
from ccsi.sweep.progress import standings
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import read_definition, with_folder
from ccsi.sweep.status import print_status, read_status

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
SPACE = "sweep.space={quality: {grid: [0.1, 0.2, 0.3, 0.4]}}"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


@functools.cache
def definition() -> Definition:
    more = ["sweep.search=grid", "sweep.seeds.tuning=[10,11]", "sweep.seeds.reporting=[0,1,2]", "sweep.top_k=2"]
    return compose([*STANDIN, SPACE, *more])


def report(run: str, task: int, tasks_done: int, value: float) -> dict[str, Any]:
    trial = run.rpartition("-s")[0] if run.startswith("p1") else run
    return {"trial": trial, "report": {"run": run, "task": task, "tasks_done": tasks_done, "value": value}}


def finish(folder: Path, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    val = dict.fromkeys(["average_incremental", "macro_over_tasks", "macro_over_classes"], 0.5)
    result = {
        "schema": 3,
        "test": val,
        "scenario": {"classes_per_task": [2, 2]},
        "seconds": {"total": seconds},
        "val": val,
        "protocol": "x",
    }
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Phase 1 in the middle: c00 done, c01 pruned, c02 failed, c03 in its first of two seeds."""
    folder = tmp_path / "s"
    (folder / "runs").mkdir(parents=True)
    (folder / "sweep.yaml").write_text(with_folder(definition(), folder).dump())
    for seed in (10, 11):
        finish(folder / f"runs/p1-c00-s{seed}", 100.0)
    running = folder / "runs/p1-c03-s10"
    for run in ("p1-c01-s10", "p1-c02-s10", "p1-c03-s10"):
        (folder / "runs" / run).mkdir()
    lines = [{"task": 1, "phase": "training", "step": 9, "steps": 9, "loss": 1.0}]
    lines += [{"task": 1, "phase": "task_end", "val_micro": 0.9, "seconds": 40.0}]
    lines += [{"task": 2, "phase": "synthesis", "step": 50, "steps": 400, "loss_tv": 1.0}]
    text = "\x00damaged\n" + "".join(json.dumps(line) + "\n" for line in lines) + '{"task": 2, "phase": "syn'
    (running / "metrics.jsonl").write_text(text)
    (running / "checkpoint.pt").write_bytes(b"")
    now = time.time()
    os.utime(running / "metrics.jsonl", (now - 500, now - 500))
    os.utime(running / "checkpoint.pt", (now - 65, now - 65))
    os.utime(running, (now - 500, now - 500))
    events = [report("p1-c00-s10", 2, 2, 0.8), report("p1-c00-s11", 2, 4, 0.7), {"trial": "p1-c00", "end": "done"}]
    events += [report("p1-c01-s10", 1, 1, 0.2), {"trial": "p1-c01", "end": "pruned", "error": ""}]
    events += [{"trial": "p1-c02", "end": "failed", "error": "boom"}, report("p1-c03-s10", 1, 1, 0.9)]
    events[2]["error"] = ""
    journal = "".join(json.dumps(event) + "\n" for event in events) + '5\n{"trial": "p1"}\n[]\n\udcff\n{"trial": "p1-c'
    (folder / "journal.jsonl").write_bytes(journal.encode(errors="surrogateescape"))
    return folder


@pytest.fixture
def held(folder: Path) -> Iterator[None]:
    """A driver lives."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_ctime_ns) for path in [folder, *folder.rglob("*")]}


def cells(said: str, first: str) -> list[str]:
    return next(line.split() for line in said.splitlines() if line.split()[:1] == [first])


@pytest.mark.usefixtures("held")
def test_a_running_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert files(folder) == before
    lines = said.splitlines()
    assert lines[0].endswith(": phase 1, a driver works on it")
    assert lines[1] == "phase 1  runs: 2 done, 1 running, 2 pruned, 2 failed, 1 to do"
    assert lines[2] == "phase 2  runs: 0 done, 6 to do"  # as many as there may be
    # a run takes 100 s; one at a time: half of c03-s10, c03-s11, and six of phase 2
    assert lines[3] == "about 12:30 left"
    assert cells(said, "p1-c03-s10") == ["p1-c03-s10", "2", "synthesis", "50/400", "1:05", "ago"]
    assert lines[-1] == "journal.jsonl: 5 damaged lines skipped"
    board = [line.split() for line in lines if line.split()[0] == "1"]
    assert board == [
        ["1", "c00", "done", "2/2", "4", "0.500", "200"],  # as in result.json: its last reports are stale
        ["1", "c03", "running", "0/2", "1", "0.900", "40"],  # after one task, and not above one with four
        ["1", "c01", "pruned", "0/2", "1", "0.200", "0"],
    ]


def test_failed_trials_are_named_with_their_reason_and_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = SweepRecorder(read_definition(folder))
    recorder.end_job(JobId(1, 2), "ValueError: boom", "Traceback …\nValueError: boom\n")
    recorder.end_job(JobId(1, 3), "learner=ewc gives features that\nare no numbers after task 1.")
    for job in ("p2-c00-s0", "p2-c00-s1"):  # one and the same trial
        recorder.end_job(JobId.parse(job), "OSError: no")
    assert main([str(folder)]) == 0
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert failed == [
        f"failed: p1-c02: ValueError: boom (traceback: {folder}/runs/p1-c02.error.txt)",
        "failed: p1-c03: learner=ewc gives features that are no numbers after task 1.",
        "failed: p2-c00-s0: OSError: no",
        "failed: p2-c00-s1: OSError: no",
    ]
    assert (folder / "runs/p1-c02.error.txt").read_text().endswith("boom\n")
    recorder.end_job(JobId(1, 2), "another reason")  # a traceback of an earlier attempt is not this one's
    assert main([str(folder)]) == 0
    assert "failed: p1-c02: another reason\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sweep.yaml", "journal.jsonl"])
def test_a_named_pipe_in_place_of_a_file_is_named_and_not_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert name in said and "cannot be read (a named pipe, not a regular file)" in said and said.count("\n") == 1


def test_pipes_in_a_run_count_as_absent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p1-c00-s10/result.json", "p1-c03-s10/metrics.jsonl"):
        (folder / "runs" / name).unlink()
        os.mkfifo(folder / "runs" / name)
    assert main([str(folder)]) == 0
    assert "phase 1  runs: 1 done" in capsys.readouterr().out


def test_odd_values_of_a_run_are_shown_as_they_are_or_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = folder / "runs/p1-c03-s10/metrics.jsonl"
    odd = [{"task": 1, "seconds": 40.0}, {"task": 2, "phase": "[/x]", "step": 1, "steps": "[b]", "seconds": "x"}]
    odd += [{"task": 2, "phase": ":x:[b]", "seconds": seconds} for seconds in (None, [], {}, 10**400)]
    for n in range(2, len(odd) + 1):
        metrics.write_text("".join(json.dumps(one) + "\n" for one in odd[:n]))
        assert main([str(folder)]) == 0
        said = capsys.readouterr().out
        assert cells(said, "p1-c03-s10")[1:3] == ["2", odd[n - 1]["phase"]]
        assert cells(said, "1")[-1] == "200" and "0.900       40" in said  # the last seconds that are a number


def test_brackets_in_a_path_are_printed(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = folder.rename(tmp_path / "s [v1] [bold] :x:")
    assert main([str(moved)]) == 0
    assert f"Sweep {moved.name} in {moved}: phase 1" in capsys.readouterr().out
    progress.open_console().print(f"  ccsi sweep resume={moved}", soft_wrap=True)
    assert f"resume={moved}\n" in capsys.readouterr().out


def test_nothing_is_ended_where_there_is_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nowhere"):
        assert main([str(tmp_path / name), "--end"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and "holds no sweep.yaml" in said.err


def test_one_whose_driver_is_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lock_left in (False, True):
        if lock_left:
            (folder / ".lock").touch()
        assert main([str(folder)]) == 0
        said = capsys.readouterr().out
        assert "no driver: ccsi sweep resume=" in said
        assert "2 done, 1 interrupted" in said
        assert "left" not in said


def test_phase_2_and_the_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(folder / "runs/p1-c03-s10", 50.0)
    finish(folder / "runs/p1-c03-s11", 50.0)
    (folder / "runs/p2-c00-s0").mkdir()
    with (folder / "journal.jsonl").open("a") as journal:
        events = [{"trial": "p1-c03", "end": "done", "error": ""}, report("p2-c00-s0", 1, 1, 0.6)]
        journal.write("\n" + "".join(json.dumps(event) + "\n" for event in events))
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert ": phase 2, " in said
    assert "phase 2  runs: 0 done, 1 interrupted, 5 to do" in said
    assert cells(said, "2") == ["2", "c00", "incomplete", "0/3", "1", "0.600", "0"]
    for setting in (0, 3):
        for seed in range(3):
            finish(folder / f"runs/p2-c{setting:02d}-s{seed}", 50.0)
    assert main([str(folder), "--watch"]) == 0  # nothing to wait for
    said = capsys.readouterr().out
    assert ": done, no driver" in said.splitlines()[0]
    assert "phase 2  runs: 6 done" in said


def test_runs_at_an_address_are_not_seen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "sweep.yaml").read_text()
    assert text.count("storage: null") == 1
    (folder / "sweep.yaml").write_text(text.replace("storage: null", "storage: s3://bucket/x"))
    assert main([str(folder)]) == 0
    assert "runs are kept at s3://bucket/x: those at work are not seen from here" in capsys.readouterr().out


def test_what_is_half_written_counts_as_not_there(folder: Path) -> None:
    no_metric = '{"val": {}, "seconds": {"total": 1.0}, "scenario": {"classes_per_task": [2]}}'
    for text in ("", '{"val', "[]", "{}", '{"val": {}, "seconds": {"total": 1.0}, "scenario": {}}', no_metric):
        (folder / "runs/p1-c00-s10/result.json").write_text(text)
        file = io.StringIO()
        print_status(read_status(folder), Console(file=file, width=120))
        assert "phase 1  runs: 1 done, 2 interrupted" in file.getvalue()
        assert f"counted as not done: {folder}/runs/p1-c00-s10/result.json " in file.getvalue()


@pytest.mark.parametrize("name", ["runs", "runs/p1-c00-s10"])
def test_what_may_not_be_read_is_not_passed_over(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, listdir, opening = folder / name, os.listdir, os.open

    def refuse(path: Any, *rest: Any) -> Any:
        if str(path).startswith(str(closed)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opening(path, *rest) if rest else listdir(path)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    code, said = main([str(folder)]), "".join(capsys.readouterr())
    assert f"{closed}" in said and "cannot be read (Permission denied)" in said
    assert code == (2 if name == "runs" else 0)


def test_a_fresh_sweep_has_nothing_to_show_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "journal.jsonl").unlink()
    for path in (folder / "runs").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (folder / "runs").rmdir()
    assert main([str(folder)]) == 0
    assert "phase 1  runs: 0 done, 8 to do" in capsys.readouterr().out
    status = read_status(folder)
    assert time_left(status.state, status.open_runs) is None


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["a", "b"], ["--wacth"], ["."], ["damaged"], ["x" * 300]])
def test_bad_input_is_a_sentence(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/sweep.yaml").write_text("sweep: [1, 2")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("ccsi: ")
    assert said.count("\n") == 1


def test_asking_for_the_lock_neither_keeps_a_driver_out_nor_lets_one_in(folder: Path) -> None:
    assert not read_status(folder).has_driver
    with lock_sweep(folder):
        assert read_status(folder).has_driver
        assert read_status(folder).has_driver
    assert not read_status(folder).has_driver
    (folder / ".lock").touch()
    with (folder / ".lock").open() as probe:  # a driver that starts while we ask
        fcntl.flock(probe, fcntl.LOCK_EX)
        threading.Timer(0.2, lambda: fcntl.flock(probe, fcntl.LOCK_UN)).start()
        with lock_sweep(folder):
            assert read_status(folder).has_driver


def test_neither_torch_nor_ray_is_imported(folder: Path) -> None:
    code = f"import sys; from ccsi.cli import main; code = main(['status', {str(folder)!r}])\n"
    code += "assert not {'torch', 'ray', 'pandas', 'matplotlib'} & set(sys.modules); sys.exit(code)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    script = [sys.executable, str(ROOT / "tune/status.py"), str(folder)]
    assert b"phase 1" in subprocess.run(script, check=True, capture_output=True).stdout


def test_trials_are_compared_at_equal_tasks(folder: Path) -> None:
    (folder / "journal.jsonl").unlink()
    recorder = SweepRecorder(read_definition(folder))

    def report(run: RunId, task: int, tasks_done: int, score: float, others: float | None = None) -> None:
        value = score if others is None else (score + others) / 2
        recorder.report(TaskReported(run, task, tasks_done, value, 2, score, 1.0))

    def order() -> list[tuple[str, str, str]]:
        return [(one.trial, one.tasks, one.value) for one in standings(recorder.state, ())]

    report(RunId(1, 0, 10), 1, 1, 0.7)
    report(RunId(1, 0, 10), 2, 2, 0.3)
    report(RunId(1, 1, 10), 1, 1, 1.0)  # after one task nothing is forgotten
    assert order() == [("c00", "2", "0.300"), ("c01", "1", "1.000")]
    report(RunId(1, 1, 10), 2, 2, 0.4)
    assert order() == [("c01", "2", "0.400"), ("c00", "2", "0.300")]
    recorder.record(RunFinished(RunId(1, 0, 10), 2, {"average_incremental": 0.5}, 9.0))
    assert order()[0] == ("c00", "2", "0.500")  # its last report was stale
    report(RunId(1, 0, 11), 1, 3, 0.9, others=0.5)
    assert order()[0] == ("c00", "3", "0.700")
    # in phase 2 seeds run side by side: 2 + 0 tasks are not 1 + 1
    report(RunId(2, 3, 0), 1, 1, 0.2)
    assert order()[0][0] == "c00"  # phase 1 is not finished: other trials may be reported in the end
    for trial, score in enumerate((0.1, 0.2, 0.3, 0.4)):
        for seed in (10, 11):
            recorder.record(RunFinished(RunId(1, trial, seed), 2, {"average_incremental": score}, 9.0))
    report(RunId(2, 2, 0), 1, 1, 1.0)
    report(RunId(2, 2, 1), 1, 1, 1.0)
    report(RunId(2, 3, 0), 2, 2, 0.2)
    assert order() == [("c03", "2", "0.200"), ("c02", "2", "1.000")]


def test_the_line_names_the_best_by_its_final_value(folder: Path) -> None:
    (folder / "journal.jsonl").unlink()
    recorder = SweepRecorder(read_definition(folder))
    for trial, value in ((0, 0.5), (1, 0.6)):
        recorder.report(TaskReported(RunId(1, trial, 10), 1, 1, 1.0 - value, 2, 1.0 - value, 1.0))
        for seed in (10, 11):  # whose reports were lost
            recorder.record(RunFinished(RunId(1, trial, seed), 2, {"average_incremental": value}, 9.0))
        recorder.end_job(JobId(1, trial), None)
    assert "2 of 4 done, 0 running, best 0.600 (p1-c01)" in progress.progress_line(recorder.state, (), 1, 4)


def test_the_driver_prints_the_best_settings_every_thirty_seconds_if_there_is_news(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    (folder / "journal.jsonl").unlink()
    file = io.StringIO()
    recorder = SweepRecorder(read_definition(folder))
    printer = progress.ProgressPrinter(recorder, Console(file=file, width=120))
    printer.start_phase(1, 4)

    def tables() -> int:
        return file.getvalue().count("val average incremental")

    recorder.running.add(JobId(1, 3))
    Clock.now += 31
    printer.tick()
    assert tables() == 0  # nothing reported yet
    recorder.report(TaskReported(RunId(1, 3, 10), 1, 1, 0.9))
    Clock.now += 29
    printer.tick()
    assert tables() == 0
    Clock.now += 1
    printer.tick()
    assert tables() == 1
    assert cells(file.getvalue(), "1") == ["1", "c03", "running", "0/2", "1", "0.900", "40"]
    assert "\x1b" not in file.getvalue()
    Clock.now += 31
    printer.tick()
    assert tables() == 1  # no news
    for n in range(3):
        recorder.report(TaskReported(RunId(1, n, 10), 1, 1, n / 10))
    Clock.now += 31
    printer.tick()
    assert tables() == 2
    rows = [line.split()[1] for line in file.getvalue().splitlines() if line.split()[0] == "1"]
    assert rows == ["c03", "c03", "c02", "c01", "c00"]
