"""Small folders of images, and models of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsi.model import Model, fit, load

QUIET = ["tracking.console.quiet=true", "report=false"]
TINY = ["learner=ncm", "dataset.size=8", "training.epochs=1", "training.first_epochs=1", "device=cpu", *QUIET]


def write_images(folder: Path, counts: dict[str, int], colour: bool = False, seed: int = 0) -> Path:
    """A folder with a sub-folder for each class; the images of a class are alike."""
    for name, count in counts.items():
        draw = np.random.default_rng([seed, *name.encode()])
        base = draw.integers(0, 256, (8, 8, 3) if colour else (8, 8))
        for number in range(count):
            noisy = np.clip(base + draw.integers(-30, 31, base.shape), 0, 255).astype(np.uint8)
            file = folder / name / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(file)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """`write_images` in a folder of this test."""

    def write(name: str, counts: dict[str, int], colour: bool = False) -> Path:
        return write_images(tmp_path / name, counts, colour)

    return write


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the classes ant and bee; not to be changed."""
    folder = tmp_path_factory.mktemp("model")
    fit(write_images(folder / "images", {"ant": 10, "bee": 10}), out=folder / "old", overrides=TINY)
    return folder / "old"


@pytest.fixture
def old(model_folder: Path) -> Model:
    return load(model_folder, "cpu")


def extended(old: Model, folder: Path, *overrides: str, out: Path | None = None) -> Model:
    return old.extend(folder, out=out, overrides=[*QUIET, *overrides])


def fitted(folder: Path, *overrides: str, out: Path | None = None, base: Sequence[str] = TINY) -> Model:
    return fit(folder, out=out, overrides=[*base, *overrides])
