"""A stored image becomes the input that `Source.load` makes of it, bit for bit; what cannot is said in one sentence."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_decode import BLACK_IS_ZERO, WHITE_IS_ZERO, png_16, tiff
from test_dicom import write as write_dicom

from ccsi.data import Dataset, Folder
from ccsi.data.decode import read_pixels
from ccsi.data.depth import StoredPixels
from ccsi.data.input import CLIPPED, GREY_TO_RGB, RGB_TO_GREY, InputFormat
from ccsi.data.stream import open_images
from ccsi.errors import UserError

Fit = Literal["pad", "resize"]
Channels = Literal[1, 3]


def draw(seed: int, *shape: int, top: int = 256) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).integers(0, top, shape)


def zoo(folder: Path) -> None:
    """One file of every kind that is read, of 9×11 pixels."""
    folder.mkdir(parents=True)
    grey, rgb = (Image.fromarray(draw(0, 9, 11, *bands).astype(np.uint8)) for bands in ((), (3,)))
    rgba = Image.fromarray(draw(1, 9, 11, 4).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        (rgba if mode[-1] == "A" else rgb).convert(mode).save(folder / f"{mode}.png")
        (rgba if mode[-1] == "A" else rgb).convert(mode).save(folder / f"{mode}.tif")
    for name in ("gif", "bmp", "ppm", "webp", "jpg"):
        rgb.save(folder / f"rgb.{name}")
        grey.save(folder / f"grey.{name}")
    grey.save(folder / "grey.pgm")
    rgb.convert("P").save(folder / "transparent.gif", transparency=7)
    rgb.convert("P").save(folder / "transparent.png", transparency=bytes(range(256)))
    rgba.save(folder / "rgba.webp", lossless=True)
    rgb.save(folder / "turned.jpg", exif=exif)
    rgb.save(folder / "turned.png", exif=exif)
    rgb.save(folder / "turned.tif", exif=exif)
    rgb.save(folder / "preview.jpg", format="MPO", save_all=True, append_images=[grey.convert("RGB")])
    for bands in (1, 2, 3, 4):
        png_16(folder / f"deep{bands}.png", draw(2, 9, 11, *((bands,) if bands > 1 else ())))
    Image.fromarray(draw(3, 9, 11, top=4096).astype(np.uint16)).save(folder / "deep.tif")
    Image.fromarray(draw(3, 9, 11).astype(np.float32) / 99).save(folder / "float.tif")
    Image.fromarray((draw(3, 9, 11) - 99).astype(np.int32)).save(folder / "32.tif")
    for dtype, photometric in ((np.uint8, WHITE_IS_ZERO), (np.uint16, WHITE_IS_ZERO), (np.int8, BLACK_IS_ZERO)):
        tiff(folder / f"{np.dtype(dtype).name}.tif", draw(4, 9, 11, top=120).astype(dtype), photometric, True)
    values = draw(5, 9, 11, top=4096).astype(np.uint16)
    write_dicom(folder / "window.dcm", values, WindowCenter=2000, WindowWidth=3000)
    write_dicom(folder / "plain.dcm", values, photometric="MONOCHROME1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo is train; val and test have one image."""
    root = tmp_path_factory.mktemp("zoo")
    zoo(root / "train" / "a")
    for split in ("val", "test"):
        (root / split / "a").mkdir(parents=True)
        Image.fromarray(np.zeros((9, 11), np.uint8)).save(root / split / "a" / "0.png")
    return root


def form_of(data: Dataset, fit: Fit) -> InputFormat:
    channels: Any = data.train.images.shape[1]
    return InputFormat(data.train.images.shape[-1], fit, channels, data.origin.ranges)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("fit", "size"), [("pad", 12), ("resize", 5), ("resize", 11), ("resize", 20)])
def test_files_have_the_bits_of_the_data_set(root: Path, fit: Fit, size: int, channels: Channels) -> None:
    data = Folder(path=str(root), fit=fit, size=size, channels=channels).load()
    form, names = form_of(data, fit), data.origin.files["train"]
    assert len(names) > 35 and sorted(data.origin.ranges) == [
        "16 bit", "32 bit", "8 bit with sign", "DICOM without a window", "floating point",
    ]  # fmt: skip
    streamed = dict[str, torch.Tensor]()
    for batch in open_images(root / "train", form, batch=7):
        assert not batch.errors and CLIPPED not in batch.converted
        streamed |= dict(zip(batch.names, batch.images, strict=True))
    assert len(streamed) == len(names)
    for name, expected in zip(names, data.train.images, strict=True):
        assert torch.equal(streamed[name.removeprefix("train/")], expected), name
        assert torch.equal(form.convert(read_pixels(root / name), name), expected), name


def test_what_was_changed_is_counted(root: Path) -> None:
    data = Folder(path=str(root), fit="pad", size=12).load()
    (batch,) = open_images(root / "train", form_of(data, "pad"))
    (grey,) = open_images(root / "train", InputFormat(12, "pad", 1, data.origin.ranges))
    assert batch.converted[GREY_TO_RGB] + grey.converted[RGB_TO_GREY] == len(batch.names)
    assert {*batch.converted} == {GREY_TO_RGB} and {*grey.converted} == {RGB_TO_GREY}
    narrow = InputFormat(12, "pad", 3, {**data.origin.ranges, "16 bit": (0, 10)})
    (clipped,) = open_images(root / "train", narrow)
    assert clipped.converted[CLIPPED] == 4  # deep1.png, deep3.png, deep.tif, uint16.tif


@given(
    st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,)]), st.sampled_from([1, 3]),
    st.sampled_from(["pad", "resize"]), st.integers(1, 40),
)  # fmt: skip
def test_many_arrays_are_as_each_alone(
    n: int, height: int, width: int, bands: tuple[int, ...], channels: Channels, fit: Fit, size: int
) -> None:
    images = draw(n, n, height, width, *bands).astype(np.uint8)
    form = InputFormat(size if fit == "resize" else max(height, width, size), fit, channels, {})
    converted = form.convert_arrays(images, "own")
    assert converted.shape == (n, channels, form.size, form.size) and converted.dtype == torch.uint8
    for image, one in zip(images, converted, strict=True):
        assert torch.equal(form.convert(StoredPixels(image, "8 bit"), "one"), one)


@pytest.mark.parametrize(
    ("kind", "shape", "ranges", "message"),
    [
        ("16 bit", (4, 4), {}, "a.png has 16 bit pixels, but the model knows no range for these; expected 8 bit."),
        ("floating point", (4, 4), {"32 bit": (0, 1), "16 bit": (0, 1)},
         "a.png has floating point pixels, but the model knows no range for these; expected 8 bit or 16 bit or 32 "
         "bit."),
        ("DICOM without a window", (4, 4), {"16 bit": (0, 1)},
         "a.png is DICOM without a window, but the model knows no range for these; expected 8 bit or 16 bit."),
        ("8 bit", (4, 9), {},
         "a.png has 4x9 pixels, but the model pads images (dataset.fit=pad); expected at most 8x8."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_sentence(
    kind: str, shape: tuple[int, int], ranges: dict[str, tuple[float, float]], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        InputFormat(8, "pad", 1, ranges).convert(StoredPixels(np.zeros(shape, np.uint16), kind), "a.png")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 4)), r"^own is float64; expected uint8"),
        (np.zeros((4, 4), np.uint8), r"^own has images of shape \(4,\); expected \(H, W\) or \(H, W, 3\)\.$"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"^own has images of shape \(4, 4, 4\)"),
        (np.zeros((2, 0, 4), np.uint8), r"^own has images of shape \(0, 4\)"),
        (np.zeros((0, 4, 9), np.uint8), r"^own has 4x9 pixels, but the model pads"),
    ],
)
def test_wrong_arrays(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputFormat(8, "pad", 1, {}).convert_arrays(images, "own")
