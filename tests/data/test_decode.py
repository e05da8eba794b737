"""Depth, orientation and formats of picture files, against numpy and an encoder of the test's own."""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccsi.data import Dataset, Folder
from ccsi.data.decode import PILLOW, header_of, read_pixels
from ccsi.data.depth import full_range
from ccsi.errors import UserError

DRAW = np.random.default_rng(0)


def png_16(path: Path, values: npt.NDArray[Any], extra: bytes = b"") -> None:
    """A 16-bit PNG: [H, W] grey, or [H, W, 2, 3 or 4] for grey with alpha, RGB, RGBA."""
    height, width, bands = (*values.shape, 1)[:3]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def written(root: Path, scale: float, suffix: str, dtype: type, shift: float = 0, top: int = 256) -> Dataset:
    """Two classes of 4×4 images of random levels below `top`, times `scale`, in files of a type; val is darker."""
    draw = np.random.default_rng(3)
    for split, n in {"train": 4, "val": 2, "test": 2}.items():
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                levels = draw.integers(0, top if split == "train" else top // 2, (4, 4))
                levels[0, 0], levels[0, 1] = (0, top - 1) if split == "train" else (1, 2)
                image = Image.fromarray((levels * scale + shift).astype(dtype))
                image.save(root / split / name / f"{i}.{suffix}")
    return Folder(path=str(root), size=4).load()


@pytest.mark.parametrize(
    ("suffix", "dtype", "scale", "shift", "top", "depth"),
    [
        ("png", np.uint16, 1, 0, 256, "16 bit, 0 to 255 scaled to 0 to 255"),
        ("png", np.uint16, 257, 0, 256, "16 bit, 0 to 65535 scaled to 0 to 255"),
        ("tif", np.uint16, 1, 0, 256, "16 bit, 0 to 255 scaled to 0 to 255"),
        ("tif", np.int32, 1, 0, 256, "32 bit, 0 to 255 scaled to 0 to 255"),
        ("tif", np.int32, 1, -1000, 256, "32 bit, -1000 to -745 scaled to 0 to 255"),
        ("tif", np.uint16, 1, 30000, 256, "16 bit, 30000 to 30255 scaled to 0 to 255"),
        ("tif", np.float32, 1, 0, 256, "floating point, 0 to 255 scaled to 0 to 255"),
        ("tif", np.float32, 1 / 255, 0, 256, "floating point, 0 to 1 scaled to 0 to 255"),
    ],
)
def test_deep_images_are_those_of_8_bits(
    tmp_path: Path, suffix: str, dtype: type, scale: float, shift: float, top: int, depth: str
) -> None:
    plain = written(tmp_path / "plain", 1, "png", np.uint8)
    deep = written(tmp_path / "deep", scale, suffix, dtype, shift)
    assert deep.checksum == plain.checksum and deep.origin.depth == depth and plain.origin.depth == "8 bit"


def test_12_bits_keep_256_levels_and_all_splits_have_the_range_of_train(tmp_path: Path) -> None:
    data = written(tmp_path, 1, "png", np.uint16, top=4096)
    assert data.origin.depth == "16 bit, 0 to 4095 scaled to 0 to 255"
    assert data.origin.ranges == {"16 bit": (0.0, 4095.0)} and data.origin.warnings == ()
    assert len(np.unique(data.train.images)) > 70 and int(data.val.images.max()) <= 128
    values = np.asarray(Image.open(tmp_path / "val/ant/0.png"), dtype=float)
    assert np.array_equal(data.val.images[0, 0].numpy(), np.rint(values * (255 / 4095)))


def test_a_range_of_ones_own(tmp_path: Path) -> None:
    written(tmp_path, 1, "png", np.uint16, top=4096)
    data = Folder(path=str(tmp_path), size=4, range=[1000, 3000]).load()
    values = np.asarray(Image.open(tmp_path / "train/bee/1.png"), dtype=float)
    assert np.array_equal(data.train.images[5, 0].numpy(), np.clip(np.rint((values - 1000) * (255 / 2000)), 0, 255))
    assert data.origin.depth == "16 bit, 1000 to 3000 (dataset.range) scaled to 0 to 255"
    for wrong in ([3000, 1000], [1], [1, 1], [1, 2, 3]):
        with pytest.raises(UserError, match=r"^dataset\.range=.*expected \[low, high\]"):
            Folder(path=str(tmp_path), size=4, range=wrong).load()
    written(tmp_path / "plain", 1, "png", np.uint8)
    with pytest.raises(UserError, match=r"^dataset\.range=.* all images have 8 bits"):
        Folder(path=str(tmp_path / "plain"), size=4, range=[0, 99]).load()


def test_values_outside_of_the_range_of_train_are_said(tmp_path: Path) -> None:
    written(tmp_path, 1, "png", np.uint16)
    png_16(tmp_path / "test/bee/1.png", np.array([[300, 5], [1, 2]]))
    (warning,) = Folder(path=str(tmp_path), size=4).load().origin.warnings
    assert warning == "1 image of test has values outside of the range of train, which are clipped: test/bee/1.png."
    said = Folder(path=str(tmp_path), size=4, range=[0, 299]).load().origin.warnings
    assert said == ("1 image of test has values outside of dataset.range, which are clipped: test/bee/1.png.",)


def test_deep_images_in_test_alone_have_no_range(tmp_path: Path) -> None:
    written(tmp_path, 1, "png", np.uint8)
    png_16(tmp_path / "test/bee/1.png", np.array([[300, 5], [1, 2]]))
    with pytest.raises(
        UserError,
        match=r"^test/bee/1\.png \(16 bit\) is in val or test, but train has no .*dataset\.range=\[low, high\]",
    ):
        Folder(path=str(tmp_path), size=4).load()


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_16_bits_a_band_are_not_cut_to_8(tmp_path: Path, bands: int) -> None:
    values = DRAW.integers(0, 256, (5, 7, bands))
    alpha = np.full((5, 7), 65535)
    alpha[0] = 0
    if bands in (2, 4):
        values[..., -1] = alpha
    png_16(tmp_path / "a.png", values)
    pixels = read_pixels(tmp_path / "a.png")
    expected = values[..., :3] if bands > 2 else values[..., 0]
    if bands in (2, 4):
        expected = np.where(alpha.reshape(alpha.shape + (1,) * (expected.ndim - 2)) > 0, expected, 0)
    assert pixels.kind == "16 bit" and np.array_equal(pixels.values, expected)
    assert header_of(tmp_path / "a.png").colour == (bands > 2)


STORED = {
    "png": ("L", "RGB", "P", "LA", "RGBA", "1", "I;16"),
    "tif": ("L", "RGB", "P", "LA", "RGBA", "1", "I;16", "F"),
    "jpg": ("L", "RGB"),
    "webp": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in STORED.items() for mode in modes])
def test_every_orientation_is_turned_back(tmp_path: Path, suffix: str, mode: str) -> None:
    """A picture as the camera stores it with each of the eight orientations is the picture itself."""
    image = Image.fromarray(np.kron(np.array([[10, 90, 200], [60, 140, 250]], np.uint8), np.ones((16, 16), np.uint8)))
    image = Image.fromarray(np.asarray(image).astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    T = Image.Transpose  # noqa: N806
    stored = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
              7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip
    options: dict[str, Any] = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    read = []
    for orientation, change in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        (image if change is None else image.transpose(change)).save(path, exif=exif, **options)
        read.append(read_pixels(path).values.astype(int))
    assert all(one.shape[:2] == (32, 48) and np.abs(one - read[0]).max() <= 3 for one in read)
    assert np.ptp(read[0]) > 100


@pytest.mark.parametrize("suffix", [suffix for suffixes in PILLOW.values() for suffix in suffixes])
def test_only_documented_formats_are_opened(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives an EPS to Ghostscript, whatever its suffix: a gs in PATH would leave a file."""
    left = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {left}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    file = tmp_path / f"a{suffix}"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"cannot be read as an image \(its format is unknown\)"):
        read_pixels(file)
    assert not left.exists()


def test_a_small_file_that_claims_many_pixels_is_refused(tmp_path: Path) -> None:
    png_16(tmp_path / "bomb.png", np.zeros((1, 1), np.uint16))
    content = (tmp_path / "bomb.png").read_bytes()
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(content[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + content[33:])
    for read in (header_of, read_pixels):
        with pytest.raises(
            UserError, match=r"bomb\.png cannot be read as an image \(it has more than 178,956,970 pixels"
        ):
            read(tmp_path / "bomb.png")


def test_a_pipe_in_place_of_a_picture_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image \(.*a named pipe"):
        read_pixels(tmp_path / "a.png")


def test_damaged_exif_data_does_not_damage_the_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    image.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data
        assert (read_pixels(tmp_path / "a.png").values == [1, 2, 3]).all()


def tiff(path: Path, bands: npt.NDArray[Any], photometric: int, compressed: bool = False, **tags: int) -> Path:
    """A TIFF file of one strip a plane: [H, W], [H, W, C], or with `planar` [C, H, W]."""
    planar = tags.get("planar", 1)
    planes = [plane.astype("<" + bands.dtype.str[1:]).tobytes() for plane in (bands if planar == 2 else bands[None])]
    planes = [zlib.compress(plane) for plane in planes] if compressed else planes
    height, width = bands.shape[1:] if planar == 2 else bands.shape[:2]
    samples = 1 if bands.ndim == 2 else bands.shape[0 if planar == 2 else 2]
    content, offsets = b"", []
    for plane in planes:
        offsets.append(8 + len(content))
        content += plane + bytes(len(plane) % 2)
    entries = []

    def entry(number: int, kind: int, values: list[int]) -> None:
        nonlocal content
        data = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(data) > 4:
            at, content = 8 + len(content), content + data + bytes(len(data) % 2)
            data = struct.pack("<I", at)
        entries.append(struct.pack("<HHI", number, kind, len(values)) + data.ljust(4, b"\0"))

    form = {"u": 1, "i": 2, "f": 3}[bands.dtype.kind]
    entry(256, 3, [width])
    entry(257, 3, [height])
    entry(258, 3, [8 * bands.itemsize] * samples)
    entry(259, 3, [8 if compressed else 1])
    entry(262, 3, [photometric])
    entry(273, 4, offsets)
    entry(277, 3, [samples])
    entry(278, 3, [height])
    entry(279, 4, list(map(len, planes)))
    entry(284, 3, [planar])
    if "alpha" in tags:
        entry(338, 3, [tags["alpha"]])
    entry(339, 3, [form] * samples)
    at = 8 + len(content)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", at) + content + directory)
    return path


WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_white_is_zero_an_image_is_inverted(tmp_path: Path, dtype: type, compressed: bool) -> None:
    values = DRAW.integers(0, 256, (5, 7)).astype(dtype)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            tiff(tmp_path / split / name / "0.tif", values, WHITE_IS_ZERO, compressed)
    images = Folder(path=str(tmp_path), size=7, fit="pad", range=[0, 255] if dtype == np.uint16 else None).load().train
    assert np.array_equal(images.images[0, 0, 1:6], 255 - values)
    plain = read_pixels(tiff(tmp_path / "plain.tif", values, BLACK_IS_ZERO, compressed))
    assert np.array_equal(plain.values, values) and not plain.inverted


@pytest.mark.parametrize("compressed", [False, True])
def test_colour_of_16_bits_that_pillow_gives_in_part_is_refused(tmp_path: Path, compressed: bool) -> None:
    values = DRAW.integers(0, 4096, (3, 5, 7)).astype(np.uint16)
    planes = tiff(tmp_path / "planes.tif", values, RGB, compressed, planar=2)
    multiplied = tiff(tmp_path / "alpha.tif", np.moveaxis(values[[0, 1, 2, 2]], 0, -1), RGB, compressed, alpha=1)
    for path in (planes, multiplied):
        with pytest.raises(UserError, match=r"tif cannot be .* with 16 bits a band, .* is not supported; save it as"):
            read_pixels(path)
    whole = tiff(tmp_path / "rgb.tif", np.moveaxis(values, 0, -1), RGB, compressed)
    assert np.array_equal(read_pixels(whole).values, np.moveaxis(values, 0, -1))


@pytest.mark.parametrize(("magic", "top"), [(b"P6", 65535), (b"P6", 256), (b"P3", 4095)])
def test_colour_of_more_than_8_bits_in_ppm_is_refused(tmp_path: Path, magic: bytes, top: int) -> None:
    pixels = b"1 2 3 4 5 6" if magic == b"P3" else bytes(12)
    (tmp_path / "a.ppm").write_bytes(magic + b"\n2 1\n%d\n" % top + pixels)
    for read in (header_of, read_pixels):
        with pytest.raises(UserError, match=r"a\.ppm .*colour of more than 8 bits .* save it as PNG or TIFF"):
            read(tmp_path / "a.ppm")
    for magic in (b"P6", b"P3"):
        pixels = b"1 2 3 4 5 6" if magic == b"P3" else bytes([1, 2, 3, 4, 5, 6])
        (tmp_path / "a.ppm").write_bytes(magic + b"\n2 1\n255\n" + pixels)
        assert read_pixels(tmp_path / "a.ppm").values.ravel().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(DRAW.integers(0, 256, (5, 7), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=rf"a\.{suffix} .*it has 3 frames; save each as a file of its own"):
        header_of(tmp_path / f"a.{suffix}")
    frames[0].save(tmp_path / f"b.{suffix}")
    header_of(tmp_path / f"b.{suffix}")


def test_a_photo_with_a_preview_has_one_frame(tmp_path: Path) -> None:
    views = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    views[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views[1:])
    assert header_of(tmp_path / "a.jpg").colour and read_pixels(tmp_path / "a.jpg").values[9, 9, 0] > 200


def test_what_cannot_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    for dtype in (np.float64, np.float16):
        path = tiff(tmp_path / "a.tif", np.ones((5, 7), dtype), BLACK_IS_ZERO)
        with pytest.raises(UserError, match=r"kind of TIFF is not supported; save it as uint8, uint16 or float32\)"):
            header_of(path)
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.png is empty; expected a whole picture file\.$"):
        header_of(tmp_path / "a.png")


def test_what_libraries_warn_of_is_said_of_the_data(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    written(tmp_path, 1, "png", np.uint8)
    image = Image.fromarray(DRAW.integers(0, 256, (4, 4), dtype=np.uint8))
    for name in ("train/ant/0.png", "train/bee/0.png"):
        image.save(tmp_path / name, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    (warning,) = Folder(path=str(tmp_path), size=4).load().origin.warnings
    assert warning.startswith("2 images of train can be read, but with a warning: train/ant/0.png (Corrupt EXIF data")
    assert "train/bee/0.png (" in warning and not len(recwarn)


@given(st.integers(-(2**31), 2**31), st.integers(0, 2**31))
def test_ranges(low: int, span: int) -> None:
    bottom, top = full_range(low, low + span, whole_numbers=True)
    assert bottom <= low and low + span <= top and bottom < top
    assert top - bottom <= max(1, 2 * span) or span == 0  # at most one bit of contrast is lost
    if bottom == 0 and low > 0:
        assert int(top + 1).bit_count() == 1
