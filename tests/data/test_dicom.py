"""DICOM files that the test writes with pydicom, against the formulas of the standard (PS3.3, C.11)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from ccsi.data import Folder
from ccsi.data.decode import header_of, read_pixels
from ccsi.errors import UserError

DRAW = np.random.default_rng(0)


def write(path: Path, pixels: npt.NDArray[Any], bits: int = 12, photometric: str = "MONOCHROME2", **tags: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    grey = photometric.startswith("MONO") or photometric.startswith("PAL")
    file.Rows, file.Columns = pixels.shape[-2:] if grey else pixels.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = (1 if grey else 3), photometric
    if not grey:
        file.PlanarConfiguration = 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 * pixels.itemsize, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for key, value in tags.items():
        setattr(file, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def window(values: npt.NDArray[Any], center: float, width: float) -> npt.NDArray[Any]:
    """C.11.2.1.2.1, to 0…255."""
    return np.rint(np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255))


def test_rescale_and_window(tmp_path: Path) -> None:
    stored = DRAW.integers(0, 4096, (6, 5), dtype=np.uint16)
    tags: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    path = write(tmp_path / "a.dcm", stored, **tags, WindowCenter=[400, 1], WindowWidth=[1500, 2])
    hounsfield = stored.astype(float) * 2 - 1024
    pixels = read_pixels(path)
    assert pixels.values.dtype == np.uint8 and np.abs(pixels.values - window(hounsfield, 400, 1500)).max() <= 1
    assert np.ptp(pixels.values) == 255
    without = read_pixels(write(tmp_path / "b.dcm", stored, **tags))
    assert np.array_equal(without.values, hounsfield) and without.kind == "DICOM without a window"


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(tmp_path: Path, function: str) -> None:
    stored = DRAW.integers(-2000, 2000, (6, 5)).astype(np.int16)
    path = write(tmp_path / "a.dcm", stored, 16, WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    x = (stored.astype(float) - 40) / 400
    expected = 255 * np.clip(x + 0.5, 0, 1) if function == "LINEAR_EXACT" else 255 / (1 + np.exp(-4 * x))
    assert np.abs(read_pixels(path).values - np.rint(expected)).max() <= 1


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = DRAW.integers(0, 256, (6, 5), dtype=np.uint8)
    for split in ("train", "val", "test"):
        write(tmp_path / split / "ant" / "a.dcm", stored, 8, "MONOCHROME1")
        write(tmp_path / split / "bee" / "a.dcm", stored, 8, "MONOCHROME2")
        write(tmp_path / split / "bee" / "b.DCM", stored, 8, "MONOCHROME1", WindowCenter=128, WindowWidth=256)
    data = Folder(path=str(tmp_path), size=6, fit="pad").load()
    images = data.train.images[:, 0, :, :5].numpy()
    assert np.array_equal(images[0], 255 - stored) and np.array_equal(images[1], stored)
    assert np.abs(images[2] - (255.0 - window(stored, 128, 256))).max() <= 1
    assert data.origin.depth == "8 bit (6 images); DICOM, as each file's window says (3 images)"


def test_a_scan_without_a_window_has_the_range_of_train(tmp_path: Path) -> None:
    for split, top in {"train": 4096, "val": 2000, "test": 2000}.items():
        for name in ("ant", "bee"):
            stored = DRAW.integers(0, top, (6, 6), dtype=np.uint16)
            stored[0, 0] = top - 1
            write(tmp_path / split / name / "a.dcm", stored)
    data = Folder(path=str(tmp_path), size=6).load()
    assert data.origin.depth == "DICOM without a window, 0 to 4095 scaled to 0 to 255"
    assert int(data.train.images.max()) == 255 and int(data.val.images.max()) == round(1999 * 255 / 4095)


def test_colours(tmp_path: Path) -> None:
    rgb = DRAW.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", rgb, 8, "RGB")
    assert np.array_equal(read_pixels(path).values, rgb) and header_of(path).colour
    full = pydicom.pixels.processing.convert_color_space(rgb, "RGB", "YBR_FULL")
    ybr = read_pixels(write(tmp_path / "b.dcm", full, 8, "YBR_FULL")).values
    assert np.abs(ybr.astype(int) - rgb).max() <= 3
    numbers, colours = DRAW.integers(0, 256, (6, 5), dtype=np.uint8), DRAW.integers(0, 65536, (3, 256), dtype=np.uint16)
    tags: dict[str, Any] = {}
    for name, own in zip(("Red", "Green", "Blue"), colours, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = own.tobytes()
    palette = read_pixels(write(tmp_path / "c.dcm", numbers, 8, "PALETTE COLOR", **tags)).values
    assert np.array_equal(palette, np.rint(colours.T[numbers] / 257))


def test_what_is_refused(tmp_path: Path) -> None:
    frames = DRAW.integers(0, 4096, (3, 6, 5), dtype=np.uint16)
    path = write(tmp_path / "many.dcm", frames, NumberOfFrames=3)
    with pytest.raises(UserError, match=r"many\.dcm cannot be read as an image \(it has 3 frames; save each"):
        header_of(path)
    path = write(tmp_path / "large.dcm", frames[0])
    tags = pydicom.dcmread(path)
    tags.Rows = tags.Columns = 65535
    tags.save_as(path)
    with pytest.raises(UserError, match=r"large\.dcm .*65535x65535 pixels are more than"):
        header_of(path)
    (tmp_path / "text.dcm").write_text("no image")
    with pytest.raises(UserError, match=r"text\.dcm cannot be read as an image"):
        header_of(tmp_path / "text.dcm")
    whole = write(tmp_path / "cut.dcm", frames[0]).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"cut\.dcm cannot be read as an image") as caught:
        read_pixels(tmp_path / "cut.dcm")
    assert "\n" not in str(caught.value)


def test_without_pydicom_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ant", "bee"):
        for i in range(5):
            write(tmp_path / name / f"{i}.dcm", DRAW.integers(0, 256, (6, 5), dtype=np.uint8), 8)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"read by pydicom, which is not installed: pip install 'ccsi\[dicom\]'\.$"):
        Folder(path=str(tmp_path), size=6).load()


def test_what_reads_a_compressed_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.zeros((6, 5), np.uint8), bits=8)
    tags = pydicom.dcmread(path)
    tags.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    tags.PixelData = pydicom.encaps.encapsulate([b"no decoder here"])
    tags.save_as(path)
    with pytest.raises(UserError, match=r"compressed as JPEG-LS Lossless .*: pip install pylibjpeg pylibjpeg-libjpeg "):
        read_pixels(path)


def test_what_pydicom_warns_of_is_said_of_the_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        for i in range(5):
            write(tmp_path / name / f"{i}.dcm", DRAW.integers(0, 256, (6, 5), dtype=np.uint8), bits=8)
    tags = pydicom.dcmread(tmp_path / "a" / "0.dcm")
    tags.PixelData += bytes(10)
    tags.save_as(tmp_path / "a" / "0.dcm")
    (warning,) = Folder(path=str(tmp_path), size=6).load().origin.warnings
    assert "1 image of " in warning and "a/0.dcm (The" in warning and capfd.readouterr().err == ""
