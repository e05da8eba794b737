"""DICOM files through pydicom, which is an extra: one frame to grey levels or RGB."""

from importlib import metadata
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ccsi.data.depth import AS_THE_FILE_SAYS, EIGHT_BIT, StoredPixels
from ccsi.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset as Tags

SUFFIXES = (".dcm", ".dicom")
DECODERS = "to read it: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
WITHOUT_WINDOW = "DICOM without a window"
GREY = ("MONOCHROME1", "MONOCHROME2")


def version() -> str:
    """That of pydicom; "" without it."""
    try:
        return metadata.version("pydicom")
    except metadata.PackageNotFoundError:
        return ""


def check_installed() -> None:
    """Raise UserError unless pydicom can be imported."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            "DICOM files (.dcm) are read by pydicom, which is not installed: pip install 'ccsi[dicom]'."
        ) from error


def header(file: BinaryIO, limit: int) -> tuple[bool, str]:
    """Whether an image is in colour, and the kind of its pixels (see `StoredPixels`), from what is before them.

    Raises:
        ValueError: several frames, no image, or more than `limit` pixels.
    """
    from pydicom import dcmread

    tags = dcmread(file, stop_before_pixels=True)
    if "Rows" not in tags or "Columns" not in tags or "PhotometricInterpretation" not in tags:
        raise ValueError("it has no image")
    if int(tags.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"it has {tags.NumberOfFrames} frames; save each as a file of its own")
    if tags.Rows * tags.Columns > limit:
        raise ValueError(f"{tags.Rows}x{tags.Columns} pixels are more than {limit:,}")
    return tags.PhotometricInterpretation not in GREY, kind_of(tags)


def kind_of(tags: "Tags") -> str:
    """The kind of an image's pixels; a window, table or palette in the file says what is black and what is white."""
    grey = tags.PhotometricInterpretation in GREY
    if tags.PhotometricInterpretation == "PALETTE COLOR" or (grey and has_window(tags)):
        return AS_THE_FILE_SAYS
    rescaled = float(tags.get("RescaleSlope") or 1) != 1 or float(tags.get("RescaleIntercept") or 0) != 0
    unchanged = tags.PixelRepresentation == 0 and not rescaled and "ModalityLUTSequence" not in tags
    if tags.BitsStored == 8 and (unchanged or not grey):
        return EIGHT_BIT
    return WITHOUT_WINDOW


def has_window(tags: "Tags") -> bool:
    """Whether a file has a VOI LUT or a window that is not empty."""
    return bool(tags.get("VOILUTSequence")) or (
        tags.get("WindowCenter") is not None and tags.get("WindowWidth") is not None
    )


def read(file: BinaryIO) -> StoredPixels:
    """The image: modality rescale and the first VOI window or table applied; RGB, YBR and palettes as RGB."""
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_voi_lut

    tags = dcmread(file)
    kind, photometric = kind_of(tags), tags.PhotometricInterpretation
    try:
        values: Any = tags.pixel_array  # YBR is RGB already
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise
        raise ValueError(f"it is compressed as {tags.file_meta.TransferSyntaxUID.name}; {DECODERS}") from error
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, tags)[..., :3]
        scaled = values if values.dtype == np.uint8 else np.rint(values / 257)  # entries are of the full range
        return StoredPixels(scaled.astype(np.uint8), kind)
    if photometric not in GREY:
        if values.shape[2:] != (3,):
            raise ValueError(f"photometric interpretation {photometric} is not supported")
        return StoredPixels(values, kind)
    values = apply_rescale(values, tags)
    if kind == AS_THE_FILE_SAYS:
        with np.errstate(over="ignore"):  # of a sigmoid, far from its centre
            low, high = output_range(tags)
            windowed = (apply_voi_lut(values, tags).astype(np.float64) - low) * (255 / (high - low))
        values = np.clip(np.rint(windowed), 0, 255).astype(np.uint8)
    return StoredPixels(values, kind, inverted=photometric == "MONOCHROME1")


def output_range(tags: "Tags") -> tuple[float, float]:
    """What pydicom's `apply_voi_lut` maps black and white to."""
    from pydicom.pixels.processing import apply_windowing

    if tags.get("VOILUTSequence"):
        return 0.0, 2.0 ** tags.VOILUTSequence[0].LUTDescriptor[2] - 1
    ends = apply_windowing(np.array([-1e9, 1e9]), tags)  # far outside of any window
    return float(ends[0]), float(ends[1])
