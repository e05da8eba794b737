"""Files in .npz's place that are damaged or made to harm: one sentence each, and nothing allocated for a claim."""

import io
import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccsi.data import Npz
from ccsi.errors import UserError


def arrays() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for split, n in {"train": 6, "val": 4, "test": 2}.items():
        made[f"{split}_images"] = np.random.default_rng(n).integers(0, 256, (n, 4, 4), dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(n) % 2
    return made


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def write(path: Path, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, array in arrays().items():
            archive.writestr(f"{key}.npy", entries.get(key, npy(array)))
    return path


def refused(path: Path) -> str:
    """The message, which is one line; less than 8 MB are allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            Npz(name="own", path=str(path), size=4).load()
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def header(shape: tuple[int, ...], descr: str = "|u1", version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    if version == (1, 0):
        np.lib.format.write_array_header_1_0(buffer, fields)
    else:
        np.lib.format.write_array_header_2_0(buffer, fields)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_python_can_unpack_is_read(tmp_path: Path, compression: int) -> None:
    data = Npz(name="own", path=str(write(tmp_path / "a.npz", compression)), size=4).load()
    assert np.array_equal(data.train.images[:, 0].numpy(), arrays()["train_images"])


def test_orders_and_versions_of_arrays(tmp_path: Path) -> None:
    images = arrays()["train_images"]
    later = header(images.shape, version=(2, 0)) + images.tobytes()
    for entry in (npy(np.asfortranarray(images)), later):
        path = write(tmp_path / "a.npz", train_images=entry, train_labels=npy(np.arange(6)[:, None].astype(">i2") % 2))
        data = Npz(name="own", path=str(path), size=4).load()
        assert np.array_equal(data.train.images[:, 0].numpy(), images) and data.train.labels.tolist() == [0, 1] * 3


def test_an_unknown_compression(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the central directory, whose first entry is train_images
    content[entry + 10 : entry + 12] = struct.pack("<H", 99)
    path.write_bytes(content)
    assert refused(path).startswith(": train_images is compressed by method 99, which Python cannot read; expected")


def test_an_encrypted_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert refused(path) == ": train_images is encrypted; expected an .npz file without a password."


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"train_images", ": train_images is no array in NumPy's format; expected a .npy entry."),
        (b"", ": train_images is no array in NumPy's format; expected a .npy entry."),
        (header((2**36, 28, 33)), "is damaged: train_images claims 63,496,796,504,192 bytes, but has 128; expected"),
        (header((2**36, 28, 33))[:-64], "is damaged: train_images cannot be read"),
        (header((-6, 4, 4)) + bytes(96), ": train_images has shape (-6, 4, 4); expected (N, H, W)"),
        (
            header((6, 4, 4), "|O") + bytes(768),
            ": train_images holds pickled objects, which are never loaded; expected",
        ),
        (b"\x93NUMPY\x09\x00" + bytes(200), "is damaged: train_images cannot be read"),
        (header((6, 4, 4)) + bytes(95), "is damaged: train_images claims 224 bytes, but has 223"),
        (header((6, 4, 4)) + bytes(97), "is damaged: train_images claims 224 bytes, but has 225"),
    ],
)
def test_entries(tmp_path: Path, entry: bytes, message: str) -> None:
    assert refused(write(tmp_path / "a.npz", train_images=entry)).strip().startswith(message)


@pytest.mark.parametrize("labels", [False, True])
def test_a_header_and_a_directory_that_both_claim_58_tebibytes(tmp_path: Path, labels: bool) -> None:
    huge, n = 2**36, 28 * 33
    entries = {"train_images": header((huge, 28, 33)), "train_labels": header((huge * n, 1))}
    if labels:
        entries["train_images"] = header((huge * n, 1, 1))
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", entries.get(name, npy(array)))
        for name in ("train_images", "train_labels"):
            info = archive.getinfo(f"{name}.npy")
            info.file_size = len(entries[name]) + huge * n
    message = refused(path)
    assert (
        "train_labels: 59,136.0 GiB are needed" if labels else "68719476736 images but 63496796504064 labels"
    ) in message


def test_in_place_of_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    assert refused(tmp_path / "pipe.npz").startswith(" is not a readable .npz file (a named pipe")
    assert refused(Path("/dev/zero")).startswith(" is not a readable .npz file (a device")
    assert refused(tmp_path).startswith(" is not a readable .npz file (Is a directory)")
    (tmp_path / "empty.npz").touch()
    assert refused(tmp_path / "empty.npz").startswith(" is not a readable .npz file")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_cut_and_any_flipped_bytes(tmp_path: Path, compression: int) -> None:
    """Read as before, or refused in one sentence: never another error."""
    content = write(tmp_path / "whole.npz", compression).read_bytes()
    chance, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for number in range(300):
        damaged = bytearray(content[: chance.randrange(len(content))] if number % 3 == 0 else content)
        for _ in range(chance.randrange(1, 6) if number % 3 else 0):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged)
        try:
            Npz(name="own", path=str(path), size=4).load()
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200
