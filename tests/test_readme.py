"""README is short, its links lead somewhere, and each of its commands runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from readme import COMMANDS, FEW_IMPRESSIONS, INSTALL, MAKE, ON_RAY, README, ROOT, RUNS, SHORT, SMALL_SWEEP, STORY

from ccsi import cli


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.encode()) <= 8000
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) > 10 and [target for target in targets if not (ROOT / target).exists()] == []


def test_no_command_is_left_out() -> None:
    kinds = (RUNS, ON_RAY, MAKE, STORY, INSTALL)
    assert sum(map(len, kinds)) == len(COMMANDS) and min(map(len, kinds[:-1])) >= 2 and len(INSTALL) == 1


@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_each_run_runs(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    for number in range(40):  # my_images
        folder = tmp_path / "my_images" / f"class {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"{number}.png")
    shorter = ["scenario.classes_per_task=5"] if "experiment=quick/digits" in arguments else []
    shorter += [
        *SHORT,
        *([] if any(a.startswith(("learner=", "experiment=own")) for a in arguments) else FEW_IMPRESSIONS),
        "report=false",
    ]
    assert cli.main(["run", *arguments, *([] if "--help" in arguments else shorter)]) == 0
    assert capsys.readouterr().out
    if "--help" not in arguments:
        assert len(list(tmp_path.glob("runs/*/result.json"))) == 1


def test_the_first_screen_is_the_life_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any table, and each command works in its order; the whole of it: `test_installed_package.py`."""
    assert README.index("ccsi fit") < README.index("|---|") and INSTALL == [["pip", "install", ".[onnx]"]]
    assert [command for command, *_ in STORY] == ["fit", "predict", "extend", "predict", "evaluate", "show", "export"]
    monkeypatch.chdir(tmp_path)
    for command, *arguments in STORY:
        shorter = ["training.first_epochs=2", "learner.expansion=64"] if command == "fit" else []
        assert cli.main([command, *arguments, *shorter]) == 0, (command, capsys.readouterr().err)
        assert capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "model_2025",
        "model_2026",
        "before.csv",
        "after.csv",
        "model.onnx",
    }


def make(*arguments: str) -> str:
    """What `make` prints in this checkout, with the environment that runs the tests and without setting it up."""
    environment = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.ready"]
    done = subprocess.run(["make", *environment, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("target", MAKE)
def test_make_has_the_target(target: str) -> None:
    assert ("pytest" if target == "test" else "sweep") in make("--dry-run", target)


@pytest.mark.slow
def test_make_sweep_runs(tmp_path: Path) -> None:
    text = make("sweep", f"ARGS=sweep.dir={tmp_path / 'made'} {shlex.join(SMALL_SWEEP)}")
    assert "rank" in text and (tmp_path / "made" / "leaderboard.md").is_file()
