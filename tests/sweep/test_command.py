"""The command as it is typed, where no Ray is needed (and none is imported)."""

import errno
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import sweep as main
from driver import finish
from rich.console import Console

import ccsi.config
import ccsi.sweep.progress
from ccsi.errors import UserError
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.counts import time_left
from ccsi.sweep.driver import describe_data, validate, write_tables
from ccsi.sweep.events import JobId, RunId
from ccsi.sweep.execution.failures import reason
from ccsi.sweep.progress import ProgressPrinter, progress_line, standings, standings_table
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder
from ccsi.sweep.runs import OpenRun, finished_runs
from ccsi.sweep.tables.leaderboard import leaderboard, write_leaderboard
from ccsi.sweep.tables.rows import collect_results, run_rows, write_rows

STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
SPACE = "sweep.space={quality: {grid: [0.3, 0.6, 0.9, 0.1]}}"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


def test_help_names_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for key in (
        "sweep.space",
        "sweep.top_k",
        "sweep.scheduler",
        "sweep.warm_start",
        "resources.gpu",
        "ray.address",
        "resume=",
        "learner ",
    ):
        assert key in shown


def test_debug_runs_one_trial_here_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(sys.modules)
    assert main([*STANDIN, "sweep.debug=true", f"sweep.dir={tmp_path / 's'}", "sweep.search=grid", SPACE]) == 0
    assert "ray" not in set(sys.modules) - before
    result = json.loads((tmp_path / "s/runs/p1-c00-s100/result.json").read_text())
    assert result["val"]["average_incremental"] == pytest.approx(0.4)
    assert result["test"]["macro_over_tasks"] is None  # phase 1 has no test
    assert (tmp_path / "s/runs/p1-c00-s100/starts.txt").read_text().startswith(str(os.getpid()))


def test_debug_lets_exceptions_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        main([*STANDIN, "fault=crash", "sweep.debug=true", f"sweep.dir={tmp_path / 's'}", "sweep.space={}"])


def test_the_runs_of_a_sweep_share_their_data_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that went wrong; and in a place of the user's own, nothing is removed."""
    seen: list[list[Path]] = []

    def look(config: Any, on_task_end: Any) -> Any:
        shared = Path(config["share_data"])
        seen.append(list(shared.glob("*/train.npy")))
        assert shared.parent == tmp_path
        raise UserError("so much for that")

    monkeypatch.setattr("ccsi.sweep.driver.execute", look)
    digits = ["dataset.size=8", "sweep.debug=true", "sweep.space={}"]
    assert main([*digits, "sweep.dir=."]) == 2
    assert len(seen[0]) == 1 and not (tmp_path / ".data").exists()
    assert main([*digits, "sweep.dir=other", f"share_data={tmp_path / 'mine'}"]) == 2
    assert len(seen[1]) == 1 and seen[1][0].exists()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("ccsi: ")
    return said


def test_a_folder_that_is_taken_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/mine.txt").write_text("mine")
    assert "exists already" in refused([f"sweep.dir={tmp_path / 's'}"], capsys)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine.txt"]


def test_hidden_files_do_not_take_a_folder(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/.lock").touch()
    assert main([*STANDIN, "sweep.debug=true", "sweep.dir=s", "sweep.space={}"]) == 0


def test_names_the_file_system_refuses_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("sweep.dir", "sweep.name"):
        assert "File name too long" in refused([f"{key}={'x' * 300}"], capsys)
    assert "cannot be read" in refused([f"resume={'x' * 300}"], capsys)


def test_sweeps_without_a_name_do_not_share_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert main([*STANDIN, "sweep.debug=true", "sweep.space={}"]) == 0
    assert len(list((tmp_path / "sweeps").iterdir())) == 2


def test_each_data_set_of_a_sweep_is_described_once(tmp_path: Path) -> None:
    draw, arrays = np.random.default_rng(0), dict[str, Any]()
    for split in ("train", "val", "test"):
        arrays |= {
            f"{split}_images": draw.integers(0, 256, (20, 8, 8), np.uint8),
            f"{split}_labels": np.arange(20) % 10,
        }
    np.savez(tmp_path / "own.npz", **(arrays | {"test_images": arrays["train_images"]}))
    learners = "sweep.space={learner: {choice: [finetune, er]}}"
    digits = compose([learners, "dataset.max_per_class=3", "dataset.size=8"])
    own = compose(["sweep.space={}", "dataset=npz", f"dataset.path={tmp_path / 'own.npz'}", "dataset.size=8"])
    assert len(digits.bases) == 2
    definition = with_folder(replace(digits, bases={**digits.bases, "own": own.bases[""]}), tmp_path / "s")
    (tmp_path / "s").mkdir()
    text = io.StringIO()
    describe_data(definition, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert sum(line.startswith("data: ") for line in lines) == 2
    assert sum(line.startswith("warning: 20 of 20 images of test are also in train") for line in lines) == 1
    images = [len((tmp_path / "s" / name).read_text().splitlines()) - 1 for name in ("split.csv", "split-2.csv")]
    assert images == [30 + 359 + 359, 60]
    assert {path.name for path in (tmp_path / "s").glob("summary*")} == {"summary.txt", "summary-2.txt"}


def test_a_sweep_goes_on_where_it_was_typed_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    definition = with_folder(compose([*STANDIN, "sweep.space={}"]), tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    validate(definition)
    assert Path.cwd() == tmp_path / "here"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rmdir()
    (tmp_path / "s").mkdir()
    (tmp_path / "s/sweep.yaml").write_text(definition.dump())
    assert f"{tmp_path / 'here'}, where this sweep was started" in refused([f"resume={tmp_path / 's'}"], capsys)
    assert (tmp_path / "s/sweep.yaml").exists()


def test_bad_input_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bad in (
        "sweep.warm_start=[nowhere]",
        "sweep.top_k=0",
        "sweep.tpo_k=1",
        "learner.w_idc=-1",
        "ray.address=nowhere",
        "resume=nowhere",
    ):
        assert bad.split("=")[0] in refused([bad, "sweep.dir=s"], capsys)
        assert not (tmp_path / "s").exists()


def test_an_address_nobody_answers_fails_soon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    said = refused(["ray.address=127.0.0.1:9", "sweep.dir=s"], capsys)
    assert "ray.address=127.0.0.1:9: no answer" in said
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(["sweep.dir=file/s"], capsys)

    def full(path: Path, durable: bool) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ccsi.sweep.folder.replacing", full)  # a full disk cannot be had without root
    assert "No space left" in refused(["sweep.dir=s"], capsys)
    assert not (tmp_path / "s").exists()


def test_a_sweep_in_use_is_not_entered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    definition = with_folder(compose([]), tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/sweep.yaml").write_text(definition.dump())
    with (tmp_path / "s/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use" in refused([f"resume={tmp_path / 's'}"], capsys)


# A sweep filled by hand: what the tables say must follow from its files alone.


def filled(folder: Path, **more: Any) -> SweepRecorder:
    """Four trials on two tuning seeds; c01 pruned, c03 failed; phase 2 of c02 and c00 on two seeds."""
    overrides = [*STANDIN, SPACE, "sweep.search=grid", "sweep.seeds.tuning=[10,11]", "sweep.seeds.reporting=[0,1]"]
    definition = with_folder(compose([*overrides, "sweep.top_k=2"]), folder)
    (folder / "runs").mkdir(parents=True)
    for run, val, test in [
        ("p1-c00-s10", 0.30, None), ("p1-c00-s11", 0.50, None), ("p1-c02-s10", 0.60, None), ("p1-c02-s11", 0.70, None),
        ("p1-c01-s10", 0.99, None), ("p2-c00-s0", 0.80, 0.1), ("p2-c00-s1", 0.90, 0.3), ("p2-c02-s0", 0.5, 0.9),
        ("p2-c02-s1", 0.7, 0.9),
    ]:  # fmt: skip
        if run not in more.get("without", ()):
            finish(folder / "runs" / run, val, test=test)
    journal = [{"trial": "p1-c01", "report": {"run": "p1-c01-s11", "task": 1, "tasks_done": 3, "value": 0.9}}]
    journal += [{"trial": "p1-c01", "end": "pruned", "error": ""}]
    (folder / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in journal) + '{"trial": "p1-c0')
    recorder = SweepRecorder(definition)
    assert recorder.journal.n_skipped == 1
    recorder.start(finished_runs(definition))
    text = "Traceback (most recent call last):\n  File …\nValueError: boom\n"
    recorder.end_job(JobId(1, 3), reason(text), text)
    return recorder


def test_only_complete_groups_are_picked_and_the_best_on_val_is_best(tmp_path: Path) -> None:
    recorder = filled(tmp_path / "s")
    state = recorder.state
    assert [state.trial_status(1, n) for n in range(4)] == ["done", "pruned", "done", "failed"]
    assert selection.best_trials(state) == [2, 0]  # c01's one seed had 0.99
    assert state.score(1, 0) == pytest.approx(0.4)
    rows = leaderboard(collect_results(recorder))
    ranks = [(row["rank"], row["trial"], row["n"]) for row in rows]
    assert ranks == [(1, "c00", 2), (2, "c02", 2)]  # on val, not test
    assert rows[0]["val_average_incremental_mean"] == pytest.approx(0.85)
    assert rows[0]["test_macro_over_tasks_mean"] == pytest.approx(0.2)
    assert rows[0]["test_macro_over_tasks_std"] == pytest.approx(np.std([0.1, 0.3], ddof=1))


def test_the_files_hold_every_run_and_read_back(tmp_path: Path) -> None:
    sweep = collect_results(filled(tmp_path / "s"))
    write_rows(sweep)
    write_leaderboard(sweep, Console(quiet=True))
    table, same = pd.read_csv(tmp_path / "s/runs.csv"), pd.read_parquet(tmp_path / "s/runs.parquet")
    assert len(table) == 4 * 2 + 2 * 2
    assert list(table["run"]) == list(same["run"])
    by_name = table.set_index("run")
    assert by_name.loc["p1-c01-s11", "status"] == "pruned"
    assert by_name.loc["p1-c01-s11", "tasks_done"] == 1
    assert by_name.loc["p1-c03-s10", "error"] == "ValueError: boom"
    assert by_name.loc["p1-c00-s10", "config/quality"] == 0.3
    assert by_name.loc["p2-c02-s1", "test_macro_over_tasks"] == 0.9
    assert np.isnan(by_name.loc["p1-c00-s10", "test_macro_over_tasks"])
    assert by_name.loc["p2-c02-s1", "protocol"] == "data-free"
    trials = pd.read_csv(tmp_path / "s/trials.csv").set_index("trial")
    assert list(trials["status"]) == ["done", "pruned", "done", "failed"]
    # the journal has no report of c00, as if a kill had lost them
    assert trials.loc["c00", "tasks_done"] == by_name.loc[["p1-c00-s10", "p1-c00-s11"], "tasks_done"].sum() > 0
    assert list(trials["finalist"]) == [True, False, True, False]
    assert trials.loc["c00", "score"] == pytest.approx(0.4)
    assert trials.loc["c02", "phase_2_score"] == pytest.approx(0.6)
    assert trials.loc["c01", "pruned"] == "after task 1 of seed 11" and trials.loc["c03", "error"] == "ValueError: boom"
    assert list(pd.read_csv(tmp_path / "s/leaderboard.csv")["protocol"]) == ["data-free"] * 2
    text = (tmp_path / "s/leaderboard.md").read_text()
    assert "| 1 | c00 | data-free | 0.3 | 2 |" in text
    assert "Phase 1: 4 trials" in text
    assert "1 pruned (1 after task 1 of seed 11); 1 failed" in text
    assert "20.0 ± 14.1 [-107.1, 147.1]" in text
    best = yaml.safe_load((tmp_path / "s/best.yaml").read_text())
    assert (best["quality"], best["seed"], best["run_dir"], best["evaluate_test"]) == (0.3, 0, None, True)
    assert best["device"] == "cpu"  # as in the trials, not auto
    ccsi.config.check(ccsi.config.from_arguments([str(tmp_path / "s/best.yaml")]))


def test_text_that_is_not_utf_8_is_escaped_in_all_tables(tmp_path: Path) -> None:
    recorder = filled(folder := tmp_path / os.fsdecode(b"s\xe9"))  # moved there: `sweep.dir` takes no such name
    recorder.end_job(JobId(1, 3), "/data/caf\udce9 is damaged", "Traceback …\n/data/caf\udce9 is damaged\n")
    assert (folder / "runs/p1-c03.error.txt").read_text("utf-8").splitlines()[1] == r"/data/caf\udce9 is damaged"
    assert SweepRecorder(recorder.definition).state.ends[JobId(1, 3)].status == "failed"
    assert write_tables(recorder, Console(quiet=True)) == 0
    table = pd.read_csv(folder / "runs.csv", encoding="utf-8").set_index("run")
    assert table.loc["p1-c03-s10", "error"] == r"/data/caf\xe9 is damaged"
    assert table.loc["p1-c03-s10", "run_dir"] == f"{tmp_path}/s\\xe9/runs/p1-c03-s10"
    text = (folder / "leaderboard.md").read_text("utf-8")
    assert text.startswith("# s\\xe9\n\nPhase 1: ") and r"failed: p1-c03: /data/caf\xe9 is damaged" in text
    assert (folder / "best.yaml").read_text("utf-8").startswith(r"# The best trial (c00) of s\xe9, on val")


def test_no_value_adds_a_column_or_html_to_markdown(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    definition = with_folder(compose([*STANDIN, "sweep.space={fault: {grid: ['a|b', '<img src=x>']}}"]), folder)
    for trial in range(2):
        for run in SweepRecorder(definition).state.runs(2, trial) + SweepRecorder(definition).state.runs(1, trial):
            finish(folder / "runs" / str(run), 0.5, test=0.5)
    recorder = SweepRecorder(definition)
    recorder.start(finished_runs(definition))
    write_leaderboard(collect_results(recorder), Console(quiet=True))
    text = (folder / "leaderboard.md").read_text()
    head, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.split(r"(?<!\\)\|", line)) for line in (rule, *rows)] == [len(head.split("|"))] * 3
    assert r"| a\|b |" in text and "| &lt;img src=x> |" in text and "<img" not in text


@pytest.mark.parametrize("is_new", [False, True])
def test_a_folder_whose_name_is_not_utf_8_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    folder = tmp_path / os.fsdecode(b"s\xe9")
    folder.mkdir()
    (folder / "sweep.yaml").write_text(compose([*STANDIN, SPACE]).dump())
    monkeypatch.chdir(folder)
    assert main([*STANDIN, SPACE, "sweep.name=x"] if is_new else ["resume=."]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"ccsi: sweep.dir={tmp_path}/s\\xe9") and "in UTF-8" in said
    assert [path.name for path in folder.iterdir()] == ["sweep.yaml"]


def test_the_end_names_what_failed_and_its_traceback(tmp_path: Path) -> None:
    recorder, folder = filled(tmp_path / "s"), tmp_path / "s"
    console = Console(record=True, width=80, file=io.StringIO())
    assert write_tables(recorder, console) == 0  # what is reported is complete
    text, line = console.export_text(), f"failed: p1-c03: ValueError: boom (traceback: {folder}/runs/p1-c03.error.txt)"
    assert f"{line}\n1 failed; to try again: ccsi sweep resume={folder}\n" in text
    assert f"- {line}\n" in (folder / "leaderboard.md").read_text()
    progress = ProgressPrinter(recorder, console)
    progress.job_ended(JobId(1, 3))
    progress.job_ended(JobId(1, 0))
    assert console.export_text() == f"{line}\n"


def test_an_incomplete_group_is_named_and_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = filled(tmp_path / "s", without=["p2-c00-s1"])
    rows = leaderboard(collect_results(recorder))
    ranks = [(row["rank"], row["trial"], row["status"]) for row in rows]
    assert ranks == [(1, "c02", "done"), (None, "c00", "incomplete")]
    assert not any(key.endswith("_mean") for key in rows[1])
    assert write_tables(recorder, Console(quiet=True)) == 1
    assert "c00 lack reporting seeds" in capsys.readouterr().err
    assert "1 of 2, incomplete" in (tmp_path / "s/leaderboard.md").read_text()


def test_a_failed_trial_is_tried_again_by_a_resumed_sweep_and_a_pruned_one_is_not(tmp_path: Path) -> None:
    again = SweepRecorder(filled(tmp_path / "s").definition)
    assert again.state.trial_status(1, 3) == "failed"
    again.start(finished_runs(again.definition))
    assert [again.state.trial_status(1, n) for n in range(4)] == ["done", "pruned", "done", "incomplete"]
    assert not selection.is_search_finished(again.state)
    values = list(again.state.pruner.values[3])
    again.state.pruner.observe(JobId(1, 1), 3, 0.9)
    assert again.state.pruner.values[3] == values  # others are still compared with it
    second = [
        row["run"] for row in run_rows(collect_results(again)) if row["phase"] == 2
    ]  # finished ones stay in the table
    assert second == ["p2-c02-s0", "p2-c02-s1", "p2-c00-s0", "p2-c00-s1"]  # c02 is a finalist whatever c03 does


def test_that_the_first_trial_runs_is_told_at_once_and_the_rest_every_ten_seconds(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    recorder = SweepRecorder(with_folder(compose([*STANDIN, SPACE, "sweep.search=grid"]), tmp_path))
    progress = ProgressPrinter(recorder, console)
    progress.start_phase(1, 4)
    for trial in (0, 1):
        recorder.running.add(JobId(1, trial))
        progress.job_started()
        progress.tick()
    lines = console.export_text().splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["0 of 4 done, 0 running", "0 of 4 done, 1 running"]


def test_the_line_ends_with_the_time_that_the_whole_sweep_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, console = filled(tmp_path / "s", without=["p2-c00-s1"]), Console(record=True, file=io.StringIO())
    monkeypatch.setattr(ccsi.sweep.progress, "open_runs", lambda _: [OpenRun(RunId(2, 0, 1), None, "", "", 0.0)])
    for run, result in recorder.state.results.items():
        recorder.state.results[run] = replace(result, seconds=90.0)
    ProgressPrinter(recorder, console).start_phase(2, 4)
    assert console.export_text().endswith(", 1:30 left\n")  # one run is to come
    assert (time_left(recorder.state, [OpenRun(RunId(2, 0, 1), None, "", "", 0.0)] * 4, at_once=2)) == 180.0


def test_the_reason_of_a_failure_is_its_last_word() -> None:
    assert reason("Traceback (most recent call last):\n  x\ntorch.OutOfMemoryError: CUDA out of memory\n") == (
        "torch.OutOfMemoryError: CUDA out of memory"
    )
    assert "worker process died" in reason("The actor died unexpectedly before finishing this task.\n\tclass_name: X\n")


def test_tables_and_lines_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    recorder = filled(tmp_path / "s")
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    write_leaderboard(collect_results(recorder), console)
    console.print(standings_table(standings(recorder.state, ()), "val_average_incremental"))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert {"rank", "trial", "macro", "incremental", "forgetting"} <= set(" ".join(lines).replace("┃", " ").split())
    recorder.running |= {JobId(1, n) for n in range(100)}
    assert len("phase 1  9999:59  " + progress_line(recorder.state, recorder.running, 1, 1000)) <= 80
