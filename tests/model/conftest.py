"""Fixtures: small folders of images, and models of them."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import Watch
from small_models import LEARNERS, QUIET, TINY, write_images

from ccsi.model import Model, fit, load


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
