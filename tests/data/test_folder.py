"""Own images in folders: layouts, modes, splits, and every way they can be wrong."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ccsi.data import Folder
from ccsi.data.decode import read_pixels
from ccsi.data.depth import full_range, to_8_bit
from ccsi.errors import UserError

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, value: int, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), value if mode == "L" else (value, value, value)).save(path)


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    """train/val/test with classes ant and bee; a train image's level is 10·class + its number."""
    for split, n in {"train": 3, "val": 2, "test": 1}.items():
        for label, name in enumerate(["ant", "bee"]):
            for i in range(n):
                save(tmp_path / split / name / f"{i}.png", 10 * label + i)
    return tmp_path


@pytest.fixture
def flat_folder(tmp_path: Path) -> Path:
    """ant (20 images) and bee (10), each with a level of its own."""
    for label, (name, n) in enumerate({"ant": 20, "bee": 10}.items()):
        for i in range(n):
            save(tmp_path / "flat" / name / f"{i:02}.png", 100 * label + i)
    return tmp_path / "flat"


def source(path: Path, **fields: Any) -> Folder:
    return Folder(path=str(path), **{"size": 4, **fields})


def read_image(path: Path) -> np.ndarray[Any, Any]:
    """One image as a data set of its own has it."""
    pixels = read_pixels(path)
    low, high = float(pixels.values.min()), float(pixels.values.max())
    return to_8_bit(pixels, {pixels.kind: full_range(low, high, whole_numbers=True)})[0]


def test_given_splits(split_folder: Path) -> None:
    (split_folder / "train" / "ant" / "notes.txt").write_text("no image")
    (split_folder / "train" / "ant" / ".hidden.png").write_text("no image")
    (split_folder / "train" / ".cache").mkdir()
    data = source(split_folder).load()
    assert data.class_names == ("ant", "bee")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (len(data.val), len(data.test)) == (4, 2)
    assert data.train.images.shape == (6, 1, 4, 4)


def test_seeded_split(flat_folder: Path) -> None:
    data = source(flat_folder, val_share=0.2, test_share=0.3).load()
    levels = [part.images[:, 0, 0, 0].tolist() for part in (data.train, data.val, data.test)]
    assert sorted(level for part in levels for level in part) == [*range(20), *range(100, 110)]  # disjoint and complete
    assert [[sum(x < 100 for x in part), sum(x >= 100 for x in part)] for part in levels] == [[10, 5], [4, 2], [6, 3]]
    for part in (data.train, data.val, data.test):
        assert (part.images[:, 0, 0, 0] >= 100).long().tolist() == part.labels.tolist()
    assert source(flat_folder, val_share=0.2, test_share=0.3).load().checksum == data.checksum
    assert source(flat_folder, val_share=0.2, test_share=0.3, split_seed=1).load().checksum != data.checksum


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.fromarray(GREY), "png", GREY),
        (Image.fromarray(COLOUR), "PNG", COLOUR),
        (Image.fromarray(COLOUR), "tiff", COLOUR),
        (Image.fromarray(GREY > 99), "png", np.where(GREY > 99, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "png", np.rint((GREY * 256.0 + 77) / 257)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "tif", np.rint((GREY * 256.0 + 77) / 257)),
        (Image.fromarray(np.dstack([COLOUR, np.where(GREY > 99, 255, 0).astype(np.uint8)])), "png",
         COLOUR * (GREY > 99)[..., None]),
        (Image.fromarray(np.dstack([GREY, np.where(GREY > 99, 255, 0).astype(np.uint8)])), "png", GREY * (GREY > 99)),
    ],
    ids=["grey", "rgb", "rgb-tiff", "black-white", "16-bit-png", "16-bit-tiff", "rgba", "grey-alpha"],
)  # fmt: skip
def test_modes(tmp_path: Path, image: Image.Image, suffix: str, expected: np.ndarray[Any, Any]) -> None:
    image.save(tmp_path / f"image.{suffix}")
    read = read_image(tmp_path / f"image.{suffix}")
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)


def test_palette(tmp_path: Path) -> None:
    numbers = DRAW.integers(0, 3, (5, 7), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 9, 0], [1, 2, 3]], dtype=np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette(colours.tobytes())
    assert image.mode == "P"
    image.save(tmp_path / "palette.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    assert np.array_equal(read_image(tmp_path / "palette.png"), colours[numbers])
    assert np.array_equal(read_image(tmp_path / "transparent.png"), colours[numbers] * (numbers != 0)[..., None])


@pytest.mark.parametrize("layout", ["flat", "split"])
def test_one_colour_image_makes_all_rgb(split_folder: Path, flat_folder: Path, layout: str) -> None:
    folder = flat_folder if layout == "flat" else split_folder
    odd = flat_folder / "bee" / "09.png" if layout == "flat" else split_folder / "test" / "bee" / "0.png"
    before = source(folder, channels=3).load()
    save(odd, 109 if layout == "flat" else 10, "RGB")
    assert source(folder).load().checksum == before.checksum
    assert before.train.images.shape[1] == 3
    assert source(folder, channels=1).load().train.images.shape[1] == 1


def test_sizes(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label, name in enumerate(["ant", "bee"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("L", (3 + label, 9), 50 + label).save(folder / "0.bmp")
    resized = source(tmp_path, size=6).load()
    assert (resized.test.images[0] == 50).all() and (resized.test.images[1] == 51).all()
    padded = source(tmp_path, size=10, fit="pad").load()
    assert int((padded.test.images[1] == 51).sum()) == 4 * 9 and int((padded.test.images[1] == 0).sum()) == 100 - 36
    with pytest.raises(UserError, match=r"0\.bmp.*9x3.*dataset\.size=6"):
        source(tmp_path, size=6, fit="pad").load()


def broken(kind: str, path: Path) -> None:
    whole = path.with_suffix(".whole")
    Image.fromarray(DRAW.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        whole, path.suffix[1:].replace("jpg", "jpeg")
    )
    content = whole.read_bytes()
    whole.unlink()
    path.write_bytes(
        {"text": b"no image", "empty": b"", "cut": content[:-500], "zeros": content[:50] + bytes(500)}[kind]
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tiff", ".bmp"])
@pytest.mark.parametrize("kind", ["text", "empty", "cut", "zeros"])
def test_broken_image(split_folder: Path, kind: str, suffix: str) -> None:
    file = split_folder / "val" / "bee" / f"broken{suffix}"
    broken(kind, file)
    with pytest.raises(UserError) as caught:
        source(split_folder).load()
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_unusable_pixels(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        Image.fromarray(np.full((4, 4), value, dtype=np.float32)).save(tmp_path / "float.tiff")
        with pytest.raises(UserError, match=r"float\.tiff .*no finite numbers"):
            read_image(tmp_path / "float.tiff")


def test_wrong_layouts(split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        source(tmp_path / "nowhere").load()
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="bare has no sub-folders"):
        source(tmp_path / "bare").load()
    (split_folder / "train" / "cow").mkdir()
    with pytest.raises(UserError, match="train and val do not have the same classes: cow"):
        source(split_folder).load()
    for split in ("val", "test"):
        (split_folder / split / "cow").mkdir()
    with pytest.raises(UserError, match=r"train/cow has no image"):
        source(split_folder).load()
    os.rename(split_folder / "test", split_folder / "tset")
    with pytest.raises(UserError, match="not all of train, val and test"):
        source(split_folder).load()


def test_shares_that_leave_nothing(flat_folder: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.val_share=0\.5 and dataset\.test_share=0\.5"):
        source(flat_folder, val_share=0.5, test_share=0.5).load()
