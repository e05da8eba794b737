"""The card and the figures of a model, against scikit-learn and the learner's own counts."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from small_models import extended, fitted

from ccsi.cli import main
from ccsi.evaluation.calibration import expected_calibration_error
from ccsi.model import Model

Images = Callable[..., Path]


def test_evaluate_is_what_scikit_learn_says(old: Model, images: Images) -> None:
    model = extended(old, images("new", {"cat": 8, "dog": 8}))
    folder = images("labelled", {"ant": 6, "bee": 5, "cat": 4, "dog": 7})
    found, evaluation = model.predict(folder), model.evaluate(folder)
    truth = [name.partition("/")[0] for name in found.names]
    overall, names = evaluation.overall, list(model.class_names)
    assert overall.accuracy == pytest.approx(accuracy_score(truth, found.classes))
    assert overall.macro_recall == pytest.approx(recall_score(truth, found.classes, average="macro"))
    assert overall.confusion == confusion_matrix(truth, found.classes, labels=names).tolist()
    for task, classes in zip(evaluation.tasks, (names[:2], names[2:]), strict=True):
        keep = [i for i, name in enumerate(truth) if name in classes]
        assert task is not None and task.images == len(keep)
        assert task.accuracy == pytest.approx(np.mean([found.classes[i] == truth[i] for i in keep]))
    labels = torch.tensor([names.index(name) for name in truth])
    error = expected_calibration_error(torch.from_numpy(found.probabilities), labels)
    assert evaluation.calibration_error == pytest.approx(error)


def test_a_split_of_a_folder(old: Model, images: Images, tmp_path: Path) -> None:
    for split, n in (("train", 3), ("val", 4), ("test", 5)):
        images(f"all/{split}", {"ant": n, "bee": n})
    assert [old.evaluate(tmp_path / "all", split=one).overall.images for one in ("val", "test", "all")] == [8, 10, 24]
    assert old.evaluate(tmp_path / "all").split == "test" and old.evaluate(tmp_path / "all/val").split == "all"


def test_what_is_kept_is_counted_to_the_byte(images: Images, tmp_path: Path) -> None:
    """Every tensor beside the network is in the card's table, or part of the model that is no data."""
    for learner, parts in (("ncm", ()), ("er", ("learner.budget.per_class=3",)), ("lwf", ())):
        model = fitted(images("first", {"ant": 8, "bee": 8}), f"learner={learner}", *parts)
        model = model.extend(images("second", {"cat": 8}), overrides=["report=false", "tracking.console.quiet=true"])
        model.save(tmp_path / learner)
        memory = load_file(tmp_path / learner / "memory.safetensors")
        reference = load_file(tmp_path / learner / "familiarity.safetensors")
        kept = sum(value.nbytes for value in memory.values())
        assert kept == sum(item.bytes for item in model.record.tasks[-1].stored)
        own = sum(value.nbytes for name, value in reference.items() if ".backbone." not in name)
        assert own == sum(item.bytes for item in model.record.reference)
        is_copied = any(".backbone." in name for name in reference)
        assert is_copied == (learner != "ncm")  # its backbone is still that of the first task


def test_the_first_line_says_how_many_real_images_travel(images: Images, tmp_path: Path) -> None:
    first = images("first", {"ant": 8, "bee": 8})
    with_images = fitted(first, "learner=er", "learner.budget.per_class=3")
    line = with_images.card().splitlines()[2]
    assert line == "**6 real training images travel with this model** (384 bytes, in memory.safetensors)."
    assert with_images.record.data_free is False
    without = fitted(first)
    assert without.card().splitlines()[2].startswith("No real image is in this folder")
    assert without.record.data_free is True


def test_the_card_is_the_same_in_the_folder_the_terminal_and_python(
    model_folder: Path, old: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(model_folder)]) == 0
    shown = capsys.readouterr().out
    assert shown == (model_folder / "MODEL_CARD.md").read_text() == old.card()
    record = json.loads((model_folder / "model.json").read_text())
    for value in (record["tasks"][0]["weights_sha256"], record["tasks"][0]["data_sha256"], record["tasks"][0]["date"]):
        assert value in shown
    for head in (
        "What it is",
        "What it may and may not do",
        "How it was evaluated",
        "What of real data it still holds",
    ):
        assert f"## {head}" in shown


def test_names_cannot_break_the_card(images: Images) -> None:
    model = fitted(images("first", {"a|b": 5, "[x](y) *z* <i>": 5, "new\nline": 5}))
    rows = [line for line in model.card().splitlines() if line.startswith("| 1 |")]
    assert r"a\|b" in rows[0] and r"\[x\](y) \*z\* \<i\>" in rows[0] and "new\\\\nline" in rows[0]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert all(cell in (5, 6, 9, 10) for cell in cells)


def test_forgetting_that_was_not_measured_is_said(old: Model, images: Images) -> None:
    text = extended(old, images("new", {"cat": 6})).card()
    assert "**Forgetting was not measured** in task 2" in text and "kept statistics" in text


def test_one_temperature_makes_probabilities_truer(images: Images) -> None:
    model = fitted(images("first", {"ant": 40, "bee": 40}), "training.first_epochs=20", "training.lr=0.1")
    (one,) = model.record.tasks[-1].calibration
    assert one.measured_on == "val" and one.before is not None and one.after is not None
    assert one.after < one.before and model.record.temperature != 1
