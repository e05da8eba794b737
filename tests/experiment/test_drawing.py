"""What drawing may cost a run: a warning. Its figures are on disk before, whatever its classes are called."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import run_tiny

import ccsi.report.run
from ccsi.cli import main
from ccsi.errors import UserError

RUN = ["learner=finetune", "report=true"]


@pytest.mark.parametrize("error", [ValueError("no\nfont"), MemoryError(), UserError("no room"), ImportError("x")])
def test_a_failure_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    folder = tmp_path / "run"

    def fails(*_: object) -> None:
        assert (folder / "result.json").exists()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ccsi.report.run, "draw_accuracy_matrix", fails)
        figures = run_tiny(folder, *RUN)
    (line,) = capsys.readouterr().err.splitlines()
    name = type(error).__name__
    assert line.startswith(f"ccsi: {folder}: not all pictures were drawn ({name}")
    assert line.endswith(f"; draw them with ccsi report {folder}")
    assert json.loads((folder / "result.json").read_text()) == figures
    if name == "ValueError":
        assert main(["report", str(folder)]) == 0
        assert len(list((folder / "plots").glob("*.png"))) == 3


def test_ctrl_c_while_drawing_leaves_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ccsi.report.run, "draw_accuracy_matrix", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path / "run", *RUN)
    assert (tmp_path / "run/result.json").exists()


@pytest.fixture
def odd_names(tmp_path: Path) -> Path:
    """A folder of images in which every name is a trap: mathtext, and bytes that are not UTF-8."""
    top = os.fsencode(tmp_path) + "/café $a_$b".encode()
    for number, name in enumerate((b"$5_$10", b"caf\xe9", b"\\frac{1}", b"a\nb")):
        try:
            os.makedirs(top + b"/" + name)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        for image in range(6):
            pixels = np.random.default_rng(image).integers(0, 60, (8, 8), dtype=np.uint8)
            pixels[2 * number : 2 * number + 2] += 180
            with open(top + b"/%s/caf\xe9%d.png" % (name, image), "wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
    return Path(os.fsdecode(top))


@pytest.mark.parametrize("share", [False, True])
def test_names_that_are_not_utf8_and_mathtext(
    odd_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: bool
) -> None:
    folder = tmp_path / "run"
    typed = ["dataset=folder", f"dataset.path='{odd_names}'", "dataset.size=8", "learner=finetune", "device=cpu"]
    typed += ["training.epochs=1", "training.batch_size=8", f"run_dir={folder}"]
    assert main(["run", *typed, *([f"share_data={tmp_path / 'shared'}"] if share else [])]) == 0
    out, err = capsys.readouterr()
    assert r"caf\xe9" in out and "not all pictures" not in err
    assert len(list((folder / "plots").glob("*.png"))) == 3
    names = json.loads((folder / "result.json").read_bytes().decode())["dataset"]["class_names"]
    assert names == ["$5_$10", r"\frac{1}", r"a\nb", r"caf\xe9"]
