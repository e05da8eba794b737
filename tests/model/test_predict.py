"""The table of predictions, against the model's own scores, one image at a time."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import extended

from ccsi.cli import main
from ccsi.errors import UserError
from ccsi.evaluation.familiarity import familiarity, reference_quantiles
from ccsi.model import Model, load
from ccsi.model.predict import ENOUGH, UNFAMILIAR

Images = Callable[..., Path]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_image(old: Model, model_folder: Path, images: Images, tmp_path: Path) -> None:
    folder = images("new/deep", {"ant": 5, "bee": 4}).parent
    (folder / "deep" / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("passed over")
    out = tmp_path / "out.csv"
    assert main(["predict", str(model_folder), str(folder), f"out={out}", "batch=2", "threads=1"]) == 0
    lines = table(out)
    assert list(lines[0]) == ["file", "class", "probability", "familiarity", "class_2", "probability_2", "error"]
    assert sorted(line["file"] for line in lines) == sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*.png")
    )
    for line in lines:
        if "broken" in line["file"]:
            assert line["error"].startswith("cannot be read as an image") and line["class"] == line["probability"] == ""
            continue
        pixels = torch.from_numpy(np.asarray(Image.open(folder / line["file"])).copy())[None, None]
        scores = old.learner.scores(pixels.float() / 255).double()
        probabilities = (scores / old.record.temperature).softmax(1)[0]
        best = int(probabilities.argmax())
        assert line["class"] == old.class_names[best] and line["class_2"] == old.class_names[1 - best]
        assert float(line["probability"]) == pytest.approx(float(probabilities[best]), abs=2e-6)
        assert 0 <= float(line["familiarity"]) <= 100 and line["error"] == ""


def test_the_table_agrees_with_evaluate(
    old: Model, model_folder: Path, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = images("labelled", {"ant": 9, "bee": 8}), tmp_path / "out.csv"
    assert main(["predict", str(model_folder), str(folder), f"out={out}"]) == 0
    right = [line["class"] == line["file"].partition("/")[0] for line in table(out)]
    assert np.mean(right) == old.evaluate(folder).overall.accuracy
    assert main(["evaluate", str(model_folder), str(folder)]) == 0
    assert f"{100 * np.mean(right):.1f}" in capsys.readouterr().out


def test_from_python(old: Model, images: Images) -> None:
    folder = images("new", {"ant": 3, "bee": 3})
    found = old.predict(folder)
    arrays = np.stack([np.asarray(Image.open(folder / name)) for name in found.names])
    for others in (old.predict(arrays), old.predict(arrays[..., None]), old.predict(torch.from_numpy(arrays)[:, None])):
        assert np.array_equal(others.probabilities, found.probabilities) and others.classes == found.classes
        assert np.array_equal(others.familiarity, found.familiarity)
    as_float = old.predict(torch.from_numpy(arrays)[:, None].float() / 255)
    assert np.array_equal(as_float.probabilities, found.probabilities)
    labels = [name.partition("/")[0] for name in found.names]
    assert old.evaluate(arrays, labels).overall == old.evaluate(folder).overall
    numbers = [old.class_names.index(name) for name in labels]
    assert old.evaluate(arrays, numbers).overall == old.evaluate(folder).overall
    with pytest.raises(UserError, match="labels: cow is not among the classes ant, bee"):
        old.evaluate(arrays, ["cow"] * 6)


def test_all_images_broken(old: Model, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    found = old.predict(tmp_path)
    assert found.classes == [None] and list(found.errors) == [0] and np.isnan(found.familiarity).all()


def test_what_is_refused(
    model_folder: Path, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = str(images("new", {"ant": 2})), str(model_folder)
    (tmp_path / "there.csv").write_text("kept")
    for typed, message in (
        (["predict", model, folder, f"out={tmp_path}/there.csv"], "there.csv exists already; choose another name"),
        (["predict", model, folder, f"out={tmp_path}/x.txt"], "expected a file that ends with .csv"),
        (["predict", model, folder, f"out={tmp_path}/no/x.csv"], "there is no folder"),
        (["predict", model, folder], "out is not set; expected text: give out=… on the command line"),
        (["predict", model], "FOLDER is missing; expected MODEL FOLDER and then key=value"),
        (["predict", model, folder, "more", "out=x.csv"], "more is one argument too many"),
        (["predict", model, f"{folder}/nothing", f"out={tmp_path}/x.csv"], "cannot be read"),
        (["predict", folder, folder, f"out={tmp_path}/x.csv"], "model.json is missing"),
        (["predict", model, folder, f"out={tmp_path}/x.csv", "top=0"], "top=0: expected a whole number >= 1"),
        (["evaluate", model, folder, "split=tests"], "split=tests: expected one of train, val, test, all"),
        (["evaluate", model, folder, f"out={tmp_path}/x.csv"], "expected a file that ends with .json"),
    ):
        assert main(typed) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert (tmp_path / "there.csv").read_text() == "kept" and not list(tmp_path.glob("x.*"))


def test_a_model_of_arrays(tmp_path: Path, images: Images, old: Model) -> None:
    import ccsi

    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    labels = np.repeat(["fox", "gnu", "hen"], 10)
    quick = ["learner=ncm", "dataset.size=8", "training.first_epochs=1", "report=false", "tracking.console.quiet=true"]
    model = ccsi.fit(pictures[:20], labels[:20], overrides=quick)
    assert model.class_names == ("fox", "gnu") and model.record.input.channels == 3
    model = model.extend(pictures[20:], labels[20:], overrides=quick[3:])
    model.save(tmp_path / "saved")
    again = ccsi.load(tmp_path / "saved")
    assert np.array_equal(again.predict(pictures).probabilities, model.predict(pictures).probabilities)
    assert isinstance(again, ccsi.Model) and "fox" in again.card()
    with pytest.raises(ccsi.UserError, match="exists already"):
        model.save(tmp_path / "saved")
    new = extended(old, images("grey", {"cat": 4}))
    assert new.record.tasks[0] == old.record.tasks[0]


def test_a_read_only_folder_is_not_written_to(model_folder: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in model_folder.iterdir()}
    load(model_folder).predict(np.zeros((2, 8, 8), np.uint8))
    assert {file.name: file.stat().st_mtime_ns for file in model_folder.iterdir()} == before


def test_enough_val_images_are_those_that_can_show_something_unfamiliar() -> None:
    def smallest(m: int) -> float:
        values = torch.arange(m).double()
        return float(familiarity(torch.tensor([[-1.0]]), reference_quantiles(values, torch.zeros(m).long(), range(1))))

    assert smallest(ENOUGH) < UNFAMILIAR <= smallest(ENOUGH - 1)
