"""A model's folder is all that a model needs: copied, read-only, as another user; and it names nothing of its maker."""

import getpass
import os
import re
import shutil
import socket
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_models import QUIET, TINY, write_images

from ccsi.cli import main
from ccsi.errors import UserError
from ccsi.model import fit, load
from ccsi.model.folder import MEMORY, MODEL_JSON, REFERENCE, WEIGHTS

NOBODY = 65534


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="ccsi-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def copy(model_folder: Path, public: Path) -> Iterator[Path]:
    """A copy of a model of ant and bee in a folder that is for reading only."""
    folder = Path(shutil.copytree(model_folder, public / "elsewhere" / "copy"))
    for path in (*folder.rglob("*"), folder, folder.parent):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder.parent, folder):
        path.chmod(0o755)


def in_child(work: object) -> str:
    """What goes wrong in a child, which has another user's rights if this process is root's; "" if nothing does."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            if os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()  # type: ignore[operator]
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_copy_that_is_read_only(copy: Path, model_folder: Path, public: Path) -> None:
    images, new = write_images(public / "images", {"ant": 3, "bee": 3}), write_images(public / "new", {"cat": 6})
    place, before = public / "place", {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    place.mkdir()
    place.chmod(0o777)
    expected = load(model_folder).predict(images)
    # Python itself may lie where another user may not read: all modules are imported by now
    assert main(["predict", str(model_folder), str(images), f"out={public / 'x.csv'}", "threads=1"]) == 0
    load(model_folder).extend(new, out=public / "own", overrides=QUIET)

    def work() -> None:
        os.chdir(place)
        model = load(copy)
        assert np.array_equal(model.predict(images).probabilities, expected.probabilities)
        with pytest.raises(UserError, match=r"is no folder that may be written to"):
            model.extend(new, out=copy.parent / "next", overrides=QUIET)
        assert main(["show", str(copy)]) == 0
        assert main(["predict", str(copy), str(images), "out=x.csv", "threads=1"]) == 0
        model.extend(new, out="next", overrides=QUIET)
        assert load("next").class_names == ("ant", "bee", "cat")

    assert in_child(work) == ""
    assert sorted(path.name for path in place.iterdir()) == ["next", "x.csv"]
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert load(place / "next").predict(images).class_names == ("ant", "bee", "cat")


def test_what_may_not_be_read(model_folder: Path, public: Path) -> None:
    """Each file, and the folder itself, in a child that is not root: root may read everything."""
    folder = Path(shutil.copytree(model_folder, public / "copy"))
    for path in (*(folder / name for name in (MODEL_JSON, WEIGHTS, MEMORY, REFERENCE)), folder):
        mode = path.stat().st_mode
        path.chmod(0)

        def work() -> None:
            with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
                load(folder)

        assert in_child(work) == "", path
        path.chmod(mode)


def test_nothing_names_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No path, user or host is in any file, whatever was typed: a table of groups, a path, tests of old images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCSI_CANARY_OF_THE_ENVIRONMENT", "canary-of-the-environment")
    images, new = write_images(tmp_path / "images", {"ant": 8, "bee": 8}), write_images(tmp_path / "new", {"cat": 8})
    lines = [f"{path.relative_to(images)},{path.stem}" for path in sorted(images.rglob("*.png"))]
    (tmp_path / "patients.csv").write_text("\n".join(["file,group", *lines]))
    typed = [*TINY, "report=true", "tracking.console.quiet=true", f"dataset.groups={tmp_path / 'patients.csv'}"]
    fit(str(images), out=tmp_path / "first", overrides=typed)
    more = ["report=true", QUIET[0], f"evaluate.data={images}"]
    load("first").extend(new, out="second", overrides=more)
    traces = {str(Path.home()), str(tmp_path), os.getcwd(), str(tmp_path.parent), tempfile.gettempdir(), "patients.csv"}
    traces |= {str(Path(__file__).parents[2]), "canary-of-the-environment", "000.png", "/images"}
    names = {one for one in (getpass.getuser(), socket.gethostname(), os.environ.get("USER", "")) if one}
    for path in sorted([*(tmp_path / "first").rglob("*"), *(tmp_path / "second").rglob("*")]):
        content = path.read_bytes()
        found = {one for one in traces if one.encode() in content}
        text = content[8 : 8 + int.from_bytes(content[:8], "little")] if path.suffix == ".safetensors" else content
        if path.suffix != ".png":  # a short name stands in pixels or numbers by chance
            found |= {one for one in names if re.search(rb"(?<!\w)%s(?!\w)" % re.escape(one.encode()), text)}
        assert not found, (path.name, found)
