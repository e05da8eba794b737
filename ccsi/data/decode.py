"""One picture file to pixels: what its header says, and its first frame the right way up."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ccsi.data import dicom
from ccsi.data.depth import EIGHT_BIT, StoredPixels
from ccsi.errors import UserError
from ccsi.io.files import open_regular
from ccsi.io.text import printable

DECODER = 1
"""Raised whenever the pixels of some file are read otherwise than before: shared copies are made anew."""
PILLOW = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The formats that Pillow may open, whatever a file's suffix says (others start programs, as EPS does)."""
SUFFIXES = tuple(sorted([suffix for suffixes in PILLOW.values() for suffix in suffixes] + [*dicom.SUFFIXES]))
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339
"""TIFF tags."""
UNREAD_TIFF = "it is damaged, or this kind of TIFF is not supported; save it as uint8, uint16 or float32"
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 178_956_970
"""Of one image; Pillow's own limit, above which a small file may fill the memory."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded: whether it is in colour, and the kind of its pixels."""

    colour: bool
    kind: str


def header_of(path: Path) -> Header:
    """The header of an image file; UserError, naming the file, if it is unreadable, damaged, or not supported."""
    with naming(path):
        if path.suffix.lower() in dicom.SUFFIXES:
            with open_regular(path) as file:
                return Header(*dicom.header(file, MOST_PIXELS))
        with open_image(path) as image:
            header = Header(is_colour(image), kind_of(image))
            check_frames(image)
            return header


def read_pixels(path: Path) -> StoredPixels:
    """The pixels of an image file, turned as its EXIF orientation says; transparent parts are black."""
    with naming(path):
        return decoded(path, one_frame=False)


def decoded(path: Path, one_frame: bool) -> StoredPixels:
    """See `read_pixels`; a file of 8 bits is opened once. What decoders raise is not changed: see `problem`.

    one_frame: what `header_of` refuses is refused here, too: several frames, and DICOM files of too many pixels.
    """
    if path.suffix.lower() in dicom.SUFFIXES:
        dicom.check_installed()
        with open_regular(path) as file:
            if one_frame:
                dicom.header(file, MOST_PIXELS)
                file.seek(0)
            return finite(dicom.read(file))
    with open_image(path) as image:
        if one_frame:
            check_frames(image)
        kind = kind_of(image)
        if kind == EIGHT_BIT:
            return StoredPixels(eight_bit(image), kind)
        if image.mode.startswith(("I", "F")):
            # Pillow itself inverts images of 8 bits
            inverted = image.format == "TIFF" and tag(image, PHOTOMETRIC, 1)[0] == 0
            return finite(StoredPixels(deep_grey(image), kind, inverted))
    return StoredPixels(deep_bands(path), kind)


def check_frames(image: ImageFile.ImageFile) -> None:
    """Raise ValueError if an image has several frames; a JPEG with a second view or a preview (MPO) has one."""
    n_frames = getattr(image, "n_frames", 1)
    if n_frames > 1 and image.format != "MPO":
        raise ValueError(f"it has {n_frames} frames; save each as a file of its own")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What goes wrong with a file, as a UserError that names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders raise almost anything on broken files
        raise UserError(f"{printable(path)} {problem(path, error)}") from error


def problem(path: Path, error: Exception) -> str:
    """What an exception says of an image file: a sentence that lacks the file's name at its beginning."""
    if isinstance(error, UserError):
        return f"cannot be read: {error}"
    if isinstance(error, PermissionError):
        return f"is unreadable ({error.strerror}); expected a file that may be read."
    if os.path.isfile(path) and not os.path.getsize(path):
        return "is empty; expected a whole picture file."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0].rstrip(".")
    if isinstance(error, OSError) and error.strerror:  # without the path
        reason = error.strerror
    if isinstance(error, UnidentifiedImageError):
        reason = "its format is unknown"
        with suppress(OSError), open_regular(path) as file:
            reason = UNREAD_TIFF if file.read(4) in TIFF_BEGINS else reason
    return f"cannot be read as an image ({printable(reason)}); expected a whole picture file."


@contextmanager
def noted(name: str, notes: dict[str, str]) -> Iterator[None]:
    """What libraries warn of while an image is read, for `notes` by the image's name; nothing is printed."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    for warning in found:
        notes.setdefault(name, " ".join(str(warning.message).split()).rstrip("."))


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image whose header alone is read."""
    with open_regular(path) as file:
        try:
            image = Image.open(file, formats=list(PILLOW))
        except Image.DecompressionBombError:
            raise ValueError(f"it has more than {MOST_PIXELS:,} pixels") from None
        with image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            yield image


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How Pillow unpacks the file's samples: "RGB;16B" has two bytes for each, of which it keeps one."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def max_value(image: ImageFile.ImageFile) -> int:
    """The value of white in a PPM file."""
    arguments = image.tile[0].args if image.tile else ()
    return int(arguments[1]) if isinstance(arguments, tuple) and isinstance(arguments[1], int) else 255


def is_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image becomes RGB: a palette does, and grey with transparency does not."""
    return not (image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I") or raw_mode(image) == "LA;16B")


def kind_of(image: ImageFile.ImageFile) -> str:
    """The kind of an image's pixels; see `StoredPixels`."""
    if image.mode == "F":
        return "floating point"
    if image.format == "PPM" and image.mode == "RGB" and max_value(image) > 255:
        raise ValueError("colour of more than 8 bits in a PPM file is not supported; save it as PNG or TIFF")
    if image.mode == "I" and image.format == "TIFF":
        return f"{tag(image, BITS_PER_SAMPLE, 32)[0]} bit"
    deep = image.format == "TIFF" and max(tag(image, BITS_PER_SAMPLE, 1)) > 8
    if image.mode.startswith("I") or deep or (";16" in raw_mode(image) and image.format == "PNG"):
        return "16 bit"
    if image.format == "TIFF" and set(tag(image, SAMPLE_FORMAT, 1)) == {2}:
        return "8 bit with sign"
    return EIGHT_BIT


def tag(image: Image.Image, number: int, default: int) -> tuple[int, ...]:
    """A tag of a TIFF file."""
    value = image.tag_v2.get(number, default)  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) else (value,)


def turn(image: Image.Image) -> None:
    """Load an image, and turn or mirror it as its EXIF orientation says (Pillow itself does so with TIFF)."""
    image.load()
    with suppress(SyntaxError, ValueError, TypeError, KeyError, OverflowError, OSError):  # of damaged EXIF data
        ImageOps.exif_transpose(image, in_place=True)


def eight_bit(image: ImageFile.ImageFile) -> npt.NDArray[np.uint8]:
    """Uint8 [H, W] if an image is grey, else [H, W, 3]."""
    turn(image)
    mode = "RGB" if is_colour(image) else "L"
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.array(image.convert(mode))
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(black, image.convert("RGBA")).convert(mode))


def deep_grey(image: ImageFile.ImageFile) -> npt.NDArray[np.generic]:
    """[H, W] of whole or floating-point numbers."""
    unsigned = image.format == "TIFF" and tag(image, SAMPLE_FORMAT, 1)[0] == 1
    turn(image)
    values: npt.NDArray[np.generic] = np.array(image)
    return values.view(np.uint32) if values.dtype == np.int32 and unsigned else values


def deep_bands(path: Path) -> npt.NDArray[np.generic]:
    """[H, W] or [H, W, 3] of an image whose bands have 16 bits, of which Pillow gives 8: read twice, and joined."""
    with open_image(path) as image:
        mode, raw = image.mode, raw_mode(image)
        if raw == "LA;16B":  # four bytes a pixel
            four = with_raw_mode(image, "RGBA").astype(np.float64)
            grey, alpha = four[..., 0] * 256 + four[..., 1], four[..., 2] * 256 + four[..., 3]
            return np.rint(grey * (alpha / 65535))
        if image.mode == "L":
            turn(image)
            return np.array(image).view(np.int8)
        planar = image.format == "TIFF" and tag(image, PLANAR_CONFIGURATION, 1)[0] == 2
        # of planes, and of colours multiplied by alpha ("RGBa"), Pillow gives no low byte
        if planar or mode not in ("RGB", "RGBA") or raw.startswith("RGBa") or raw[-4:-1] != ";16":
            stored = f"stored as {raw}{' in planes' * planar}"
            raise ValueError(f"mode {mode} with 16 bits a band, {stored}, is not supported; save it as plain RGB")
        high = with_raw_mode(image, raw)
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    with open_image(path) as image:
        low = with_raw_mode(image, raw[:-1] + other)
    both = high.astype(np.uint16) * 256 + low
    if mode == "RGB":
        return both
    return np.rint(both[..., :3] * (both[..., 3:] / 65535))


def with_raw_mode(image: ImageFile.ImageFile, raw: str) -> npt.NDArray[np.uint8]:
    """The bands of an image that Pillow unpacks in another way."""
    tiles = []
    for tile in image.tile:
        arguments = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
        tiles.append(tile._replace(args=arguments))
    image.tile = tiles
    turn(image)
    return np.array(image)


def finite(pixels: StoredPixels) -> StoredPixels:
    """`pixels`; ValueError if some of them are no numbers."""
    if not np.isfinite(pixels.values).all():
        raise ValueError("it has pixels that are no finite numbers")
    return pixels
