"""What a person sees: on a terminal, in a log file, and at the end."""

import functools
import io
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rich.console
from finished import figures, result

from ccsi.tracking import Console, Progress, RunStart, TaskEnd
from ccsi.tracking.console import clock, percent, show_metrics, show_result, size

DEMO = """
import sys, time
from pathlib import Path
from ccsi.evaluation.metrics import SCALARS
from ccsi.tracking import Console, Progress, RunStart, TaskEnd
tasks = int(sys.argv[1])
metrics = {"loss": 0.5, "loss_ce": 0.25, "val_accuracy": 0.625}
if tasks == 10:
    metrics |= {f"loss_{name}": 0.125 for name in ("distillation", "margin", "idc")} | {"lr": 0.0123456, "entropy": 0.1}
console = Console()
console.start(RunStart("demo", Path("/tmp/a [b]" * tasks), {}, (("cat", "dog"),) * tasks))
for task in (0, tasks - 1):
    for phase in ("synthesis", "training"):
        for step in (1, 9999, 10000):
            console.progress(Progress(task, phase, step, 10000, metrics))
            time.sleep(0.11)  # the live line is redrawn ten times a second
    accuracies = {f"{split}_{name}": 1.0 for split in ("val", "test") for name in SCALARS}
    console.task_end(TaskEnd(task, tasks, accuracies | {"seconds": 3725}, {}))
console.finish(None)
"""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_in_a_log_at_most_one_line_in_ten_seconds_of_a_phase(
    run: RunStart, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Clock()
    monkeypatch.setattr(time, "monotonic", now)
    console = Console()
    console.start(run)
    for step in range(1, 61):  # a step a second
        console.progress(Progress(0, "training", step, 120, {"loss": 2.0}))
        now.now += 1
    console.progress(Progress(1, "synthesis", 1, 10, {}))
    console.task_end(TaskEnd(1, 2, {"val_micro": 0.5, "test_micro": 0.25, "seconds": 65}, {}))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1 + 6 + 1 + 1
    assert lines[2] == "task 1/2  training   11/120  loss 2  1:49 left"  # 10 steps in 10 s, 109 to go
    assert lines[-2].startswith("task 2/2  synthesis")
    assert lines[-1] == "task 2/2 done after 1:05: micro val 50.0 %, test 25.0 %"
    assert "\x1b" not in err


@pytest.mark.parametrize("quiet", [False, True])
def test_the_data_are_described_before_the_first_step(
    quiet: bool, run: RunStart, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(quiet)
    summary = ("data: 9 [images]", "skipped: :smile:.png")
    console.start(replace(run, name=":cat:", summary=summary, warnings=(":dog: is train.",)))
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[0 if quiet else 1 :] == [
        *(() if quiet else summary),
        "warning: :dog: is train.",
    ]
    assert quiet or err.startswith(":cat: starts")
    console.finish(None)
    assert console.shows_time is not quiet


def test_the_time_left_of_the_whole_run(
    run: RunStart, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Clock()
    monkeypatch.setattr(time, "monotonic", now)
    console = Console()
    console.start(run)
    for task, guess in ((0, True), (1, False)):
        for step in (1, 11):
            console.progress(Progress(task, "training", step, 21, {"loss": 2.0}, 125.0, guess))
            now.now += 10
        figures = {"val_micro": 0.5, "seconds": 65}
        console.task_end(TaskEnd(task, 2, figures, {}, left=3725.0))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines == [
        "task 1/2  training   1/21  loss 2  run 2:05 left (first guess)",
        "task 1/2  training   11/21  loss 2  0:10 left, run 2:05 left (first guess)",
        "task 1/2 done after 1:05, about 1:02:05 left: micro val 50.0 %",
        "task 2/2  training   1/21  loss 2  run 2:05 left",
        "task 2/2  training   11/21  loss 2  0:10 left, run 2:05 left",
        "task 2/2 done after 1:05: micro val 50.0 %",
    ]


def on_a_terminal(tasks: int, columns: int) -> str:
    """What the demo shows, without control sequences."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    command = [sys.executable, "-c", DEMO, str(tasks)]
    with subprocess.Popen(command, stderr=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_on_a_terminal_one_line_a_phase_is_left_behind() -> None:
    text = on_a_terminal(2, 120)
    assert "demo starts: 4 classes in 2 tasks, folder /tmp/a [b]" in text
    for task in ("1/2", "2/2"):
        for phase in ("synthesis", "training "):
            line = f"task {task}  {phase}  10000/10000  loss 0.5 (ce 0.25)  val 62.5 %  in 0:00"
            assert text.count(line) == 1
    assert "0:00 left" in text
    assert " 0/100 " not in text  # a total that is rich's, not the phase's


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_while_a_phases_line_is_printed_is_not_hidden(
    error: type[BaseException], run: RunStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccsi.tracking.console.Terminal", functools.partial(rich.console.Console, force_terminal=True))
    console = Console()
    console.start(run)
    console.progress(Progress(0, "synthesis", 1, 10, {}))

    def interrupted(*parts: str) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(console, "_print", interrupted)
        with pytest.raises(error):
            console.progress(Progress(0, "training", 1, 10, {}))
    console.finish(None)


def test_no_line_is_longer_than_a_terminal_of_80_columns() -> None:
    lines = re.split(r"[\r\n]+", on_a_terminal(10, 80))
    assert lines[0] == "demo starts: 20 classes in 10 tasks"
    assert lines[1] == "folder " + "/tmp/a [b]" * 10  # to be copied
    assert max(map(len, lines[2:])) <= 80
    live = [line for line in lines if "left" in line]
    assert live and all("loss 0.5" in line and line.rstrip()[-1] in "%5" for line in live), live  # cut between words
    assert "task 10/10  synthesis  10000/10000  loss 0.5  val 62.5 %  lr 0.0123  in 0:00" in lines
    assert "task 10/10 done after 1:02:05: micro val 100.0 %, test 100.0 %" in lines


@pytest.mark.parametrize(("tasks", "per_task"), [(2, 2), (4, 4), (5, 3), (10, 10), (20, 5)])
def test_no_head_of_a_table_is_cut_at_80_columns(
    tasks: int, per_task: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"erythroblast {number}" for number in range(tasks * per_task)]
    matrix = [[1.0] * (row + 1) for row in range(tasks)]
    split = figures("test") | {"accuracy_matrix": matrix, "accuracy_after_task": [0.5] * tasks}
    changes: dict[str, Any] = {"dataset": {"name": "x", "class_names": names}, "test": split, "val": split}
    narrow = functools.partial(rich.console.Console, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("ccsi.tracking.console.Terminal", narrow)
    show_result(result(scenario={"classes_per_task": [per_task] * tasks}, **changes), None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    words = " ".join(lines).split()
    assert {"val", "test", "average_incremental", "micro"} <= {*words}
    heads = [line.split()[2:] for line in lines if line.strip().startswith("after task")]
    if tasks < 4:
        assert "erythroblast" in words
    else:
        shown = [word for head in heads for word in head if word not in ("all,", "micro")]
        assert shown == [str(number + 1) for number in range(tasks)]
    assert words.count("100.0") == tasks * (tasks + 1) // 2


def test_metrics_that_do_not_fit_are_left_out_from_the_end() -> None:
    metrics = {"loss": 1.5, "loss_ce": 0.5, "val_accuracy": 0.5, "lr": 0.1}
    whole = "loss 1.5 (ce 0.5)  val 50.0 %  lr 0.1"
    for room in range(-2, len(whole) + 2):
        assert len(show_metrics(metrics, room)) <= max(room, 0)
    assert show_metrics(metrics, len(whole)) == whole
    assert show_metrics(metrics, len(whole) - 1) == "loss 1.5  val 50.0 %  lr 0.1"
    assert show_metrics(metrics, 20) == "loss 1.5  val 50.0 %"


def test_quiet_prints_nothing(run: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.start(run)
    console.progress(Progress(0, "training", 1, 10, {"loss": 1.0}))
    console.task_end(TaskEnd(0, 2, {"val_micro": 0.5}, {}))
    console.finish(result())
    assert capsys.readouterr() == ("", "")


def cells(text: str, first: str) -> list[str]:
    """The columns of the table row that begins with `first`."""
    row = next(line for line in text.splitlines() if line.strip().startswith(first))
    return re.split(r"\s{2,}", row.strip())


def test_the_final_tables_go_to_stdout_with_val_beside_test(run: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.start(run)
    capsys.readouterr()
    console.finish(result())
    out, err = capsys.readouterr()
    assert err == ""
    assert "accuracy matrix, test (%)" in out
    assert cells(out, "1 ") == ["1", "90.0", "91.0"]
    assert cells(out, "2 ") == ["2", "25.0", "75.0", "51.0"]
    assert cells(out, "macro_over_classes")[:3] == ["macro_over_classes", "53.0", "53.0"]
    assert cells(out, "macro_over_tasks") == ["macro_over_tasks", "50.0", "50.0", "final accuracy, mean over tasks"]
    assert cells(out, "micro") == ["micro", "51.0", "51.0", "final accuracy over all images (ACC)"]
    assert cells(out, "forgetting")[:3] == ["forgetting", "45.0", "65.0"]
    assert cells(out, "auc")[1:3] == ["87.5", "87.5"]
    for words in ("basophil", "platelet", "8 class means 75.3 kB, 8 moments 9.2 kB", "permissions         none"):
        assert words in out
    assert "synthesis 1:01, training 1:40, total 1:02:05" in out
    assert f"folder              {run.folder}\n" in out  # in one line, however long


def test_without_test_figures_the_tables_say_val(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(result(evaluate_test=False), Path("x"))
    out = capsys.readouterr().out
    assert "accuracy matrix, val (%)" in out
    assert cells(out, "2 ") == ["2", "35.0", "65.0", "51.0"]
    assert cells(out, "forgetting")[:3] == ["forgetting", "45.0", "-"]


def test_many_classes_a_task_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{i}" for i in range(10)]
    changes: dict[str, Any] = {"dataset": {"name": "x", "class_names": names}, "scenario": {"classes_per_task": [5, 5]}}
    show_result(result(**changes), None)
    assert "2: 5 classes" in capsys.readouterr().out


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = [":smile:", "[red]", ":cat:", "[/]"]
    changes: dict[str, Any] = {
        "name": ":dog: [b]",
        "dataset": {"name": ":heart:", "class_names": names},
        "scenario": {"classes_per_task": [2, 2]},
    }
    show_result(result(**changes), Path(":bug:"))
    out = capsys.readouterr().out
    assert all(name in out for name in [*names, ":dog: [b]", ":heart:", ":bug:"])


def test_percent_has_no_negative_zero() -> None:
    assert [percent(x) for x in (-1e-9, -0.0, -0.0051, 0.8125, None)] == ["0.0", "0.0", "-0.5", "81.2", "-"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (7 * 10**12, "7000.0 GB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_metrics_in_a_line() -> None:
    metrics = {"loss": 1.234567, "loss_ce": 0.5, "loss_idc": 0.25, "lr": 0.05, "val_accuracy": 0.8125}
    assert show_metrics(metrics) == "loss 1.23 (ce 0.5, idc 0.25)  lr 0.05  val 81.2 %"
    assert show_metrics({}) == ""


def test_the_tables_on_a_terminal_that_has_only_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")  # as `ccsi.cli.main` sets it
    monkeypatch.setattr(sys, "stdout", stream)
    show_result(result(dataset={"name": "Blüten", "class_names": ["é", "b", "c", "d"]}), tmp_path / "ö")
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert "Bl\\xfcten" in shown and "\\xe9, b" in shown and "accuracy matrix" in shown and "\\xf6" in shown
