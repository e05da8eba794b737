"""No training image is in the folder of a model that says it is data-free, neither as it is nor nearly so.

A mean of many images is near to a typical one among them, whether or not that one was trained on: 0.95 and more where
all images of a class are alike, as digits are. So the images here differ: each is a pattern of its class under three
times as much of its own. Whatever resembles one of them by 0.95 holds that image, or a mean of very few.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_models import QUIET, TINY
from tiny_run import FEW, composed

import ccsi.config
from ccsi.learners import all_learners
from ccsi.learners.replay import ReplayLearner
from ccsi.model import Model, fit, load

Pixels = npt.NDArray[np.float64]
DATA_FREE = sorted(
    {"ci", *(name for name, kind in all_learners().items() if not issubclass(kind, ReplayLearner))} - {"joint"}
)
SIDE, MANY, ALIKE = 8, 20, 0.95


def write(folder: Path, names: str, draw: np.random.Generator) -> Pixels:
    """Write images of each class, a letter; returns all of them, [N, S * S]."""
    rows = []
    for name in names:
        base = draw.normal(0, 20, (SIDE, SIDE))
        for number in range(MANY * 5 // 3):  # a fifth is for val, another for test
            pixels = np.clip(128 + base + draw.normal(0, 60, (SIDE, SIDE)), 0, 255).astype(np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
            rows.append(pixels)
    return np.stack(rows).reshape(len(rows), -1).astype(np.float64)


def centred(rows: Pixels) -> Pixels:
    """Rows of mean 0 and length 1; one without any variation is 0."""
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def highest(values: Pixels, images: Pixels) -> float:
    """The highest correlation of an image with a stretch of so many numbers, which begin at multiples of its size."""
    d = images.shape[1]
    if len(values) < d:
        return 0.0
    rows = values[: len(values) // d * d].reshape(-1, d)
    return float(np.abs(centred(rows) @ centred(images).T).max())  # of a negative, too


def vectors(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """All tensors of a folder as rows of numbers, as they are and with the first dimension last."""
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in safetensors.torch.load(path.read_bytes()).items():
            numbers = torch.nan_to_num(value.double(), 0, 0, 0)
            yield f"{path.name}: {name}", numbers.reshape(-1).numpy()
            if value.ndim > 1:
                yield f"{path.name}: {name}, turned", numbers.movedim(0, -1).reshape(-1).numpy()


def check_no_bytes(folder: Path, images: Pixels) -> None:
    """No file has the bytes of an image, as uint8 or as scaled floating-point numbers of either order."""
    content = b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    for image in images:
        forms = [image.astype(np.uint8)]
        for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2"):
            forms += [image.astype(dtype), (image / 255).astype(dtype), (image / 127.5 - 1).astype(dtype)]
            forms.append((image.astype("f4") / np.float32(255)).astype(dtype))
        assert not [form.dtype for form in forms if form.tobytes() in content]


def settings(learner: str) -> list[str]:
    """What makes a learner fast."""
    known = ccsi.config.flat(composed(f"learner={learner}"))
    return [*TINY, f"learner={learner}", *(f"learner.{k}={v}" for k, v in FEW.items() if f"learner.{k}" in known)]


def images_of(model: Model) -> int:
    """How many images of the first class were trained on."""
    return model.record.tasks[0].images["train"][0]


@pytest.mark.parametrize("learner", DATA_FREE)
def test_no_image_is_in_the_folder(tmp_path: Path, learner: str) -> None:
    draw = np.random.default_rng(0)
    old, new = write(tmp_path / "first", "ab", draw), write(tmp_path / "second", "cd", draw)
    first = fit(tmp_path / "first", out=tmp_path / "m1", overrides=settings(learner))
    last = load(tmp_path / "m1").extend(tmp_path / "second", out=tmp_path / "m2", overrides=QUIET)
    assert first.record.data_free and images_of(first) >= MANY - 1
    for folder in (tmp_path / "m1", tmp_path / "m2"):
        check_no_bytes(folder, np.concatenate([old, new]))
        found = {name: highest(values, old) for name, values in vectors(folder)}
        assert found and max(found.values()) < ALIKE, max(found, key=lambda name: found[name])
    made = getattr(last.learner, "impressions", None)  # a picture of them is beside the model
    assert made is None or highest(made.images.double().flatten().numpy(), old) < ALIKE


def test_the_check_finds_what_is_there(tmp_path: Path) -> None:
    """Exemplars, as bytes and in a tensor; and an image that is noisy, inside a larger tensor."""
    draw = np.random.default_rng(0)
    images = write(tmp_path / "first", "ab", draw)
    fit(tmp_path / "first", out=tmp_path / "m1", overrides=settings("er"))
    with pytest.raises(AssertionError):
        check_no_bytes(tmp_path / "m1", images)
    assert max(highest(values, images) for _, values in vectors(tmp_path / "m1")) > 0.999
    noisy = images[3] / 255 + draw.normal(0, 0.03, images.shape[1])
    values = np.concatenate([draw.normal(0, 1, 5 * noisy.size), noisy, draw.normal(0, 1, 10)])
    assert highest(values, images) > ALIKE > highest(values[: 5 * noisy.size], images)


@pytest.mark.parametrize(("n", "holds"), [(1, True), (2, False), (20, False)])
def test_a_mean_of_few_images_shows_them(n: int, holds: bool) -> None:
    """A mean of two of these images is like neither by 0.95; of two real ones, which differ less, it may be."""
    draw = np.random.default_rng(0)
    base = draw.normal(0, 20, SIDE * SIDE)
    images = 128 + base + draw.normal(0, 60, (n, SIDE * SIDE))
    assert (highest(images.mean(0), images) >= ALIKE) is holds


def test_the_card_says_how_many_images_a_mean_is_of(tmp_path: Path) -> None:
    """Each class's number of training images is in the record, so a mean of few can be found."""
    write(tmp_path / "first", "ab", np.random.default_rng(0))
    model = fit(tmp_path / "first", out=tmp_path / "m", overrides=settings("ccsi"))
    assert model.record.tasks[0].images["train"] == [images_of(model)] * 2
    assert re.search(r"Of a class with very few images, a mean shows", (tmp_path / "m" / "MODEL_CARD.md").read_text())
