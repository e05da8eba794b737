"""`ccsi report`: pictures once more, from files; the folders of sweeps are in tests/sweep."""

import os
import sys
from pathlib import Path

import pytest

import ccsi.report.run
from ccsi.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from finished import make_run


def test_runs_are_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [make_run(tmp_path / name, impressions=False) for name in ("a", "b")]
    assert main(["report", *map(str, folders)]) == 0
    assert capsys.readouterr().out == "".join(f"pictures: {folder / 'plots'}\n" for folder in folders)
    assert all((folder / "plots/confusion.png").exists() for folder in folders)


def test_a_folder_that_cannot_be_drawn_costs_the_next_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make_run(tmp_path / "good", impressions=False)
    bad = make_run(tmp_path / "bad", impressions=False, val=None)
    assert main(["report", str(bad), str(tmp_path), str(good)]) == 2
    out, err = capsys.readouterr()
    assert out == f"pictures: {good / 'plots'}\n"
    damaged, none = err.splitlines()
    assert damaged.startswith(f"ccsi: {bad}/result.json is damaged (val: ")
    assert none == f"ccsi: {tmp_path} holds no result.json; expected the folder of a finished run."

    monkeypatch.setattr(ccsi.report.run, "draw_confusion", lambda *_: 1 / 0)
    assert main(["report", str(good)]) == 1
    assert "(ZeroDivisionError: division by zero)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["class_means.npz", "impressions/task10.npz"])
def test_a_named_pipe_is_not_waited_for(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert main(["report", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "a named pipe, not a regular file" in said and name in said


def test_a_folder_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "expected folders of runs or sweeps" in capsys.readouterr().err
