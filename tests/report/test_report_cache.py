"""Matplotlib's folder is the user's own, and no file of settings changes how a picture looks."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from finished import make_run

from ccsi.report.cache import private_folder

HOSTILE = """
text.usetex: True
text.latex.preamble: \\input{/etc/passwd}
axes.facecolor: red
figure.facecolor: red
savefig.facecolor: red
savefig.dpi: 3000
savefig.bbox: tight
image.cmap: jet
font.size: 40
xtick.labelsize: 40
pdf.compression: 0
"""
PROGRAM = """
import os, sys
from pathlib import Path
import ccsi.report
ccsi.report.draw_run(Path(sys.argv[1]))
print(os.environ["MPLCONFIGDIR"])
import matplotlib
print(matplotlib.rcParams["text.usetex"])
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_a_folder_of_ones_own_is_used_again(temporary: Path) -> None:
    first = private_folder("ccsi-test")
    assert Path(first).parent == temporary and mode(first) == 0o700
    assert private_folder("ccsi-test") == first


def test_a_folder_that_others_can_write_or_that_is_a_link_is_not_used(temporary: Path, tmp_path: Path) -> None:
    predictable = temporary / f"ccsi-test-{os.getuid()}"
    (tmp_path / "theirs").mkdir(mode=0o700)
    predictable.symlink_to(tmp_path / "theirs")
    assert Path(private_folder("ccsi-test")).resolve().parent == temporary
    predictable.unlink()
    predictable.mkdir()
    predictable.chmod(0o777)
    other = private_folder("ccsi-test")
    assert Path(other) != predictable and mode(other) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(temporary: Path) -> None:
    predictable = temporary / f"ccsi-test-{os.getuid()}"
    predictable.mkdir(mode=0o700)
    os.chown(predictable, 12345, 12345)
    assert Path(private_folder("ccsi-test")) != predictable


def test_hostile_settings_are_not_obeyed(tmp_path: Path) -> None:
    """In the working folder, and in the folder of the temporary one that was trusted before."""
    folder, temporary = make_run(tmp_path / "run", impressions=False), tmp_path / "tmp"
    theirs = temporary / f"ccsi-matplotlib-{os.getuid()}"
    theirs.mkdir(parents=True)
    theirs.chmod(0o777)
    for place in (theirs, tmp_path):
        (place / "matplotlibrc").write_text(HOSTILE)
    environment = {key: v for key, v in os.environ.items() if not key.startswith(("MPL", "XDG", "HOME"))}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    place, usetex = done.stdout.split()
    assert usetex == "True"  # it was read, from the working folder
    assert Path(place).parent == temporary and Path(place) != theirs
    assert [path.name for path in temporary.iterdir()] == [theirs.name]  # the other one is removed at the exit

    import ccsi.report

    ccsi.report.draw_run(make_run(tmp_path / "as_it_is", impressions=False))
    for name in ("accuracy_matrix.png", "confusion.png", "accuracy_over_tasks.png"):
        assert (folder / "plots" / name).read_bytes() == (tmp_path / "as_it_is" / "plots" / name).read_bytes()
