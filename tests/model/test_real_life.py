"""What goes wrong in real life: one sentence, and nothing is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import QUIET, extended, fitted, write_images

from ccsi.errors import UserError
from ccsi.model import Model

Images = Callable[..., Path]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"bee": 5, "cat": 5}, r"^new: the model knows bee already; expected new classes only, or new_images=ignore"),
        ({"ant": 5, "bee": 5}, r"the model knows ant, bee already"),
        ({"Bee": 5, "cat": 5}, r"the classes 'bee' and 'Bee' have names that differ by case or space"),
        ({" bee ": 5}, r"the classes 'bee' and ' bee ' have names that differ"),
        ({"cat": 5, "CAT": 5}, r"the classes 'CAT' and 'cat' have names that differ"),
        ({"cat": 5, "dog": 1}, r"class dog has 1 image; expected at least two, one to train on and one for val"),
    ],
)
def test_classes_that_do_not_fit(
    old: Model, images: Images, tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    folder = images("new", counts)
    with pytest.raises(UserError, match=message) as caught:
        extended(old, folder, out=tmp_path / "out")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("out*"))


def test_known_classes_can_be_left_out(old: Model, images: Images) -> None:
    new = extended(old, images("new", {"bee": 5, "cat": 5}), "new_images=ignore")
    assert new.class_names == ("ant", "bee", "cat")
    with pytest.raises(UserError, match=r"^two has no new class; expected at least one"):
        extended(new, images("two", {"bee": 5, "cat": 5}), "new_images=ignore")


def test_some_classes_of_a_folder(old: Model, images: Images) -> None:
    folder = images("new", {"cat": 5, "dog": 5, "elk": 5})
    assert extended(old, folder, "classes=[elk,0]").class_names == ("ant", "bee", "elk", "cat")
    with pytest.raises(UserError, match=r"^classes: cot: there is no class of this name; did you mean cat\?"):
        extended(old, folder, "classes=[cot]")
    with pytest.raises(UserError, match=r"^classes=\[7\]: expected some of the classes 0 to 2"):
        extended(old, folder, "classes=[7]")


def test_a_first_model_needs_two_classes_and_an_extension_one(old: Model, images: Images) -> None:
    folder = images("new", {"cat": 5})
    with pytest.raises(UserError, match=r"^new has one class \(cat\); a first model needs at least two"):
        fitted(folder)
    assert extended(old, folder).class_names == ("ant", "bee", "cat")


def test_two_images_of_a_class_are_enough(old: Model, images: Images) -> None:
    new = extended(old, images("new", {"cat": 2, "dog": 3}))
    assert new.record.tasks[-1].images == {"train": [1, 1], "val": [1, 1], "test": [0, 1]}


def test_colour_becomes_grey_and_it_is_said(old: Model, images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    new = extended(old, images("new", {"cat": 5}, colour=True))
    assert "warning: The model's input is grey: RGB images become grey (luma)." in capsys.readouterr().err
    assert new.record.input.channels == 1
    colourful = fitted(images("first", {"fox": 5, "gnu": 5}, colour=True))
    extended(colourful, images("second", {"hen": 5}))
    assert "warning: The model's input is RGB: grey images become RGB" in capsys.readouterr().err


def test_ranges_of_deep_pixels_are_kept(tmp_path: Path, images: Images) -> None:
    def deepened(folder: Path, high: int) -> Path:
        for file in folder.rglob("*.png"):
            values = np.asarray(Image.open(file)).astype(np.uint16) * (high // 255)
            Image.fromarray(values).save(file)
        return folder

    first = fitted(deepened(images("first", {"ant": 6, "bee": 6}), 4095))
    assert first.record.input.ranges == {"16 bit": (0.0, 4095.0)}
    second = extended(first, deepened(images("second", {"cat": 6}), 1023))
    assert second.record.input.ranges == {"16 bit": (0.0, 4095.0)}  # not its own 0 to 1023
    third = extended(second, images("third", {"dog": 6}))
    assert third.record.input.ranges == {"16 bit": (0.0, 4095.0)}
    with pytest.raises(UserError, match=r"dataset\.range=\[0, 9\]: the old model has ranges already"):
        extended(first, tmp_path / "second", "dataset.range=[0,9]")


def test_out_that_exists(old: Model, images: Images, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=r"^out=.*there exists already; a model is never changed: choose another name"):
        extended(old, images("new", {"cat": 5}), out=tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner=acil"], "learner=acil: the old model has learner=ncm, which an extension keeps"),
        (["model=resnet18"], "the old model has a network of its own, which an extension keeps"),
        (["model.norm=batch"], "which an extension keeps"),
        (["seed=1"], "seed=1: the old model has seed=0, which an extension keeps"),
        (["dataset.size=16"], r"dataset\.size=16: the old model's input has size=8; expected the same"),
        (["training.lrr=1"], r"training\.lrr is not a setting; did you mean training\.lr\?"),
        (["training.lr=fast"], r"training\.lr=fast: expected a number"),
        (["scenario.classes_per_task=2"], "scenario"),
    ],
)
def test_what_an_extension_cannot_change(
    old: Model, images: Images, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        extended(old, images("new", {"cat": 5}), *overrides, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_what_an_extension_changes_is_on_record(old: Model, images: Images) -> None:
    new = extended(old, images("new", {"cat": 5}), "training.lr=0.5", "learner.normalize=false")
    assert new.record.tasks[-1].changes == {"training.lr": 0.5, "learner.normalize": False}
    assert new.record.config["training"]["lr"] == 0.5 and old.record.config["training"]["lr"] != 0.5


def test_learners_that_need_old_images(images: Images) -> None:
    folder = images("new", {"cat": 5, "dog": 5})
    with pytest.raises(UserError, match=r"^learner=joint trains on the images of all tasks again"):
        fitted(folder, "learner=joint")
    with pytest.raises(UserError, match=r"^learner=ccsi uses unlabeled_pool of all classes.*idc\.target=new_train"):
        fitted(folder, "learner=ccsi", "learner.idc.target=unlabeled_pool")


def test_per_task_lists_may_be_longer_than_the_tasks_so_far(images: Images) -> None:
    few = ["learner.synthesis.iterations=2", "learner.synthesis.warmup=1", "learner.synthesis.per_class=4"]
    model = fitted(images("first", {"ant": 6, "bee": 6}), "learner=ccsi", *few, "learner.idc.rho=[0.9,0.99]")
    for name in ("cat", "dog"):
        model = extended(model, images(name, {name: 6}))
    with pytest.raises(UserError, match=r"learner\.idc\.rho=\[0\.9, 0\.99\] has 2 values; expected one number, or one"):
        extended(model, images("elk", {"elk": 6}))


def test_shown_images_are_scored_before_and_after(old: Model, images: Images, tmp_path: Path) -> None:
    labelled = write_images(tmp_path / "labelled", {"ant": 4, "bee": 4, "cat": 4}, seed=1)
    new = extended(old, images("new", {"cat": 8}), f"evaluate.data={labelled}")
    shown, after = new.record.tasks[-1].shown, new.evaluate(labelled)
    assert shown is not None and shown.images == after.overall.images == 12 and len(after.tasks) == 2
    assert after.tasks[0] is not None and shown.old_after == after.tasks[0].accuracy
    assert after.tasks[1] is not None and shown.new_after == after.tasks[1].accuracy
    shutil.rmtree(labelled / "cat")
    assert shown.old_before == old.evaluate(labelled).overall.accuracy
    assert "Forgetting was not measured" not in new.card() and "evaluate.data" in new.card()
    with pytest.raises(UserError, match=r"^labelled: the model does not know ant"):
        extended(fitted(images("x", {"fox": 5, "gnu": 5})), images("y", {"hen": 5}), f"evaluate.data={labelled}")


def test_a_setting_that_does_not_fit_what_was_learned(images: Images) -> None:
    model = fitted(images("first", {"ant": 6, "bee": 6}), "learner=acil", "learner.expansion=16")
    with pytest.raises(UserError, match=r"learner\.expansion=32 does not fit what the old model has learned"):
        extended(model, images("new", {"cat": 6}), "learner.expansion=32")
    assert extended(model, images("new", {"cat": 6}), "learner.ridge=3").record.config["learner"]["ridge"] == 3


def test_images_to_show_that_are_trained_on_are_left_out(
    old: Model, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help's own example: a folder with old and new classes is both what is learned and what is shown."""
    folder = images("all", {"ant": 5, "bee": 5, "cat": 10})
    new = extended(old, folder, "new_images=ignore", f"evaluate.data={folder}")
    shown = new.record.tasks[-1].shown
    assert shown is not None and shown.images == 20 - 6
    assert "6 of its images are among those to train on, and are not scored" in capsys.readouterr().err


def test_a_folder_that_was_trained_on_is_evaluated_on_its_test_part(images: Images) -> None:
    folder = images("first", {"ant": 10, "bee": 10})
    found = fitted(folder).evaluate(folder)
    assert found.overall.images == 4 and found.split == "test"
    assert found.notes == ("The model was trained on a part of these images: those of its test split are scored.",)


def test_a_mean_image_is_not_an_image(images: Images) -> None:
    folder = images("first", {"ant": 6, "bee": 2})
    with pytest.raises(UserError, match=r"class bee has one image to train on, and learner=ccsi keeps the mean image"):
        fitted(folder, "learner=ccsi")
    assert fitted(folder).record.tasks[0].images["train"] == [4, 1]


def test_arrays_and_what_is_typed_beside_folders(old: Model, images: Images) -> None:
    folder, pictures = images("new", {"cat": 5}), np.zeros((6, 8, 8), np.uint8)
    pictures[3:] = 255
    assert old.extend(pictures, [2, 2, 2, 3, 3, 3], overrides=QUIET).class_names == ("ant", "bee", "2", "3")
    for call, message in (
        (lambda: old.extend(pictures, [2] * 5), "there are 6 images but 5 labels; expected as many"),
        (lambda: old.evaluate(pictures, ["ant"] * 5), "there are 6 images but 5 labels"),
        (lambda: old.evaluate(pictures, ["ant"] * 6, split="val"), "split=val: images in memory have no splits"),
        (lambda: old.evaluate(folder, ["ant"] * 5), "labels: expected none beside a folder"),
        (lambda: old.extend(folder, [1] * 5), "labels, class_names: expected none beside a folder"),
        (lambda: old.extend(folder, overrides=["out=x"]), "overrides: out=x: expected the argument out"),
        (lambda: old.extend(folder, overrides=["resources.gpu=1"]), "resources.gpu=1 is set, but workers=1"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_deep_images_for_a_model_of_8_bits_are_refused_by_both(old: Model, images: Images) -> None:
    folder = images("deep", {"ant": 3})
    for file in folder.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(file)).astype(np.uint16) * 16).save(file)
    with pytest.raises(UserError, match=r"deep has 16 bit pixels, but the model knows no range for these"):
        old.evaluate(folder)
    assert len(old.predict(folder).errors) == 3


def test_a_model_of_a_larger_machine(old: Model, images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    old.record.config["threads"], old.record.config["device"] = 512, "mps"
    new = extended(old, images("new", {"cat": 5}))
    said = capsys.readouterr().err
    assert "the old model was learned with threads=512; this machine has" in said and "device=mps" in said
    assert new.record.config["device"] == "auto"
