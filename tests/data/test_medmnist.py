"""MedMNIST through the installed package's own table."""

import hashlib
import io
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, get_args

import numpy as np
import pytest

from ccsi.data import MedMNIST, medmnist
from ccsi.errors import UserError


def test_the_table_is_the_package_s_and_reading_it_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "medmnist"]:
        monkeypatch.delitem(sys.modules, name)
    medmnist.info.cache_clear()
    table = medmnist.info()
    assert list(tmp_path.iterdir()) == []
    spec = find_spec("medmnist")
    assert spec is not None and spec.origin is not None
    assert table == run_path(str(Path(spec.origin).with_name("info.py")))["INFO"]
    assert (tmp_path / ".medmnist").exists()  # so this is what running it would have done


def test_a_table_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def locate_file(self, name: str) -> Path:
            return tmp_path / Path(name).name

    (tmp_path / "info.py").write_text("TABLE = {}\n")
    monkeypatch.setattr(medmnist, "distribution", lambda name: Installed())
    medmnist.info.cache_clear()
    with pytest.raises(UserError, match="medmnist has no table INFO; expected version 3"):
        medmnist.info()


def test_all_flat_single_label_sets_are_offered() -> None:
    single = {"multi-class", "binary-class", "ordinal-regression"}
    flat = {flag for flag, about in medmnist.info().items() if about["task"] in single and "3d" not in flag}
    assert set(get_args(medmnist.Flag)) == flat
    for flag in flat:
        for suffix in ("", "_64", "_128", "_224"):
            assert medmnist.info()[flag][f"url{suffix}"].startswith("https://")
            assert len(medmnist.info()[flag][f"MD5{suffix}"]) == 32


@pytest.fixture
def stored() -> bytes:
    """A file as BreastMNIST's: grey, two classes."""
    arrays: dict[str, Any] = {}
    for split, n in {"train": 6, "val": 4, "test": 2}.items():
        arrays[f"{split}_images"] = np.random.default_rng(n).integers(0, 256, (n, 64, 64), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n, dtype=np.uint8) % 2)[:, None]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("own_root", [False, True])
def test_download_and_read(
    server: Any, stored: bytes, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path, own_root: bool
) -> None:
    server.files["/breastmnist_64.npz"] = stored
    table: dict[str, dict[str, Any]] = {
        "breastmnist": {
            "url_64": server.url("/breastmnist_64.npz?download=1"),
            "MD5_64": hashlib.md5(stored).hexdigest(),
            "label": {"0": "malignant", "1": "normal, benign"},
        }
    }
    monkeypatch.setattr(medmnist, "info", lambda: table)  # the real files are beyond a test's reach
    root = tmp_path / "own" if own_root else cache
    source = MedMNIST(
        name="BreastMNIST", flag="breastmnist", resolution=64, size=64, root=str(root) if own_root else None
    )
    data = source.load()
    assert data.class_names == ("malignant", "normal, benign")
    assert (root / "breastmnist_64.npz").read_bytes() == stored
    with np.load(io.BytesIO(stored)) as archive:
        assert np.array_equal(data.test.images[:, 0].numpy(), archive["test_images"])
    assert source.load().checksum == data.checksum
    assert server.requests == ["/breastmnist_64.npz"]


def test_no_network(no_network: None, cache: Path) -> None:
    with pytest.raises(UserError, match=r"https://zenodo\.org/.*/bloodmnist\.npz\?download=1 .*refused") as caught:
        MedMNIST(name="BloodMNIST", flag="bloodmnist").load()
    assert str(cache / "bloodmnist.npz") in str(caught.value)


def test_a_pipe_in_its_place(cache: Path) -> None:
    cache.mkdir()
    os.mkfifo(cache / "bloodmnist.npz")
    with pytest.raises(UserError, match=r"Cannot get bloodmnist\.npz from .* \(a named pipe"):
        MedMNIST(name="BloodMNIST", flag="bloodmnist").load()


def test_damaged_file(cache: Path) -> None:
    cache.mkdir()
    (cache / "bloodmnist_224.npz").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"bloodmnist_224\.npz is damaged .*expected b718ff6835fcbdb22ba9eacccd7b2601"):
        MedMNIST(name="BloodMNIST", flag="bloodmnist", resolution=224).load()
    assert (cache / "bloodmnist_224.npz").read_bytes() == b"half a file"
