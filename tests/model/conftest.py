"""Small folders of images, and models of them."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from damage import Watch
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


LEARNERS = {
    "ncm": [], "acil": ["learner.expansion=16"], "er": ["learner.budget.per_class=2"], "fecam": [],
    "ccsi": ["learner.synthesis.iterations=2", "learner.synthesis.warmup=1", "learner.synthesis.per_class=4"],
    "ewc": ["learner.fisher_images=4"],
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two classes for each learner, and `ewc2` of three; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    images = write_images(folder / "images", {"ant": 6, "bee": 6})
    new = write_images(folder / "new", {"cat": 6})
    for learner, more in LEARNERS.items():
        fit(images, out=folder / learner, overrides=[*TINY, f"learner={learner}", *more])
    load(folder / "ewc").extend(new, out=folder / "ewc2", overrides=QUIET)
    return {path.name: path for path in folder.iterdir() if path.name not in ("images", "new")}


@pytest.fixture(scope="session")
def watch() -> Watch:
    return Watch()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module that leaves a trace when it is imported; what hangs is ended."""
    (tmp_path / "canary.py").write_text("open('imported', 'w')\ndef learner(**kwargs): open('called', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(120)
    yield tmp_path
    signal.alarm(0)
    assert not (tmp_path / "imported").exists() and not (tmp_path / "called").exists()
