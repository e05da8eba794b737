"""`pip install .` gives a command that can do all that the checkout can."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from readme import ON_RAY, ROOT, SMALL_SWEEP, SMALL_TRAINING, STORY

from ccsi.cli.help import WIDTH

FOR_THE_BUILD = ("ccsi", "configs", "tune", "pyproject.toml", "README.md", "LICENSE")


def files_below(folder: Path) -> Iterator[str]:
    """The relative paths of all files, those behind links too, that Python did not make."""
    for here, _, names in os.walk(folder, followlinks=True):
        if not here.endswith("__pycache__"):
            yield from (str(Path(here, name).relative_to(folder)) for name in names)


def expected() -> set[str]:
    """What a wheel must hold beside its metadata."""
    found = {f"ccsi/{path}" for path in files_below(ROOT / "ccsi")}
    found |= {f"ccsi/configs/{path}" for path in files_below(ROOT / "configs")}
    found |= {f"ccsi/cluster/{path}" for path in files_below(ROOT / "tune" / "cluster")}
    return found


def build(folder: Path) -> Path:
    """A wheel of a copy of the checkout: a build leaves files beside what it builds."""
    tree = folder / "tree"
    for name in FOR_THE_BUILD:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tree / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, tree],
        check=True,
        timeout=200,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """A fresh environment with the wheel, and with this one's packages but its `ccsi`; returns its bin folder.

    A .pth file adds this environment's site-packages to the path without the .pth files there, among them the one of an
    editable installation.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=100)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=100)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


@pytest.mark.slow
def test_an_installed_package_can_do_all(tmp_path: Path) -> None:
    wheel = build(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == expected()
    assert {"ccsi/py.typed", "ccsi/configs/config.yaml", "ccsi/cluster/slurm.sh"} <= inside

    programs, here = install(wheel, tmp_path / "fresh"), tmp_path / "here"
    here.mkdir()
    (tmp_path / "home").mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "RAY_", "CCSI_"))}
    env |= {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path / "mpl")}

    def typed(program: str, *arguments: str) -> str:
        """What a command prints, run in an empty folder outside the checkout; it must succeed."""
        done = subprocess.run(
            [str(programs / program), *arguments], cwd=here, env=env, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    code = "import ccsi; from ccsi import config; print(ccsi.__file__, config.config_dir(), *config.choices('learner'))"
    assert typed("python", "-c", code).count(str(tmp_path / "fresh")) == 2
    assert "ccsi COMMAND" in typed("ccsi", "--help") and typed("ccsi", "--version") == "ccsi 0.1.0\n"
    help_of_ewc = typed("ccsi", "run", "learner=ewc", "--help")
    assert "learner.penalty=5000.0" in help_of_ewc and max(map(len, help_of_ewc.splitlines())) <= WIDTH

    said = {command: typed("ccsi", command, *arguments) for command, *arguments in STORY}  # README's first page, whole
    assert "it may be time to extend it" not in said["predict"] and "No real image is in this folder" in said["show"]
    rows = [(here / f"{name}.csv").read_text().splitlines() for name in ("before", "after")]
    assert len(rows[0]) == len(rows[1]) == 360 and {line.split(",")[1] for line in rows[1]} >= {"8", "9"}
    files = [{path.name for path in (here / name).iterdir()} for name in ("model_2025", "model_2026")]
    assert files[0] == {*files[1], "training.png"} >= {"model.json", "MODEL_CARD.md"}  # the extension trains no network

    more = {"train": ["run_dir=pair", *SMALL_TRAINING], "sweep": SMALL_SWEEP, "status": [], "report": []}
    for command, *arguments in ON_RAY:  # README's, in its order; the resume finds the sweep finished
        resumed = arguments[0].startswith("resume=")
        said = typed("ccsi", command, *arguments, *([] if resumed else more[command]))
        assert ("│" in said) == (command in ("sweep", "report")), said
        assert ("phase 2" in said) == (command in ("sweep", "status")) or command == "report", said
    assert {"leaderboard.csv", "best.yaml", "plots"} <= {path.name for path in (here / "first").iterdir()}
    assert (here / "pair" / "result.json").is_file()
    assert list((tmp_path / "home").iterdir()) == [], "something was written into the home folder"
