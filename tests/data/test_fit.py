"""Pad, resize and channels against numpy and Pillow."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from ccsi.data.fit import channels_of, fit_into
from ccsi.errors import UserError

grey = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=12))
rgb = array_shapes(min_dims=3, max_dims=3, max_side=12).flatmap(lambda shape: arrays(np.uint8, (*shape, 3)))


def fitted_to(images: npt.NDArray[np.uint8], size: int, fit: Any, channels: int | None) -> torch.Tensor:
    fitted = torch.empty(len(images), channels or channels_of(images), size, size, dtype=torch.uint8)
    fit_into(fitted, np.ascontiguousarray(images), fit, "own")
    return fitted


@given(images=grey | rgb, extra=st.integers(0, 5))
def test_pad(images: npt.NDArray[np.uint8], extra: int) -> None:
    height, width = images.shape[1:3]
    size = max(height, width) + extra
    down, right = size - height, size - width
    margins = [(0, 0), (down // 2, down - down // 2), (right // 2, right - right // 2)] + [(0, 0)] * (images.ndim - 3)
    expected = np.pad(images, margins)
    expected = expected[:, None] if images.ndim == 3 else np.moveaxis(expected, 3, 1)
    fitted = fitted_to(images, size, "pad", None)
    assert fitted.dtype == torch.uint8 and fitted.is_contiguous()
    assert np.array_equal(fitted.numpy(), expected)
    with pytest.raises(UserError, match=f"own: images of {height}x{width} pixels"):
        fitted_to(images, max(height, width) - 1, "pad", None)


@given(images=grey | rgb, size=st.integers(1, 20))
def test_resize(images: npt.NDArray[np.uint8], size: int) -> None:
    fitted = fitted_to(images, size, "resize", None).permute(0, 2, 3, 1).numpy().astype(int)
    for ours, image in zip(fitted, images, strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), dtype=int)
        assert np.abs(ours.reshape(theirs.shape) - theirs).max() <= 1  # Pillow computes with 8-bit weights


@given(images=rgb)
def test_rgb_to_grey(images: npt.NDArray[np.uint8]) -> None:
    size = max(images.shape[1:3])
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    fitted = fitted_to(images, size, "pad", 1)
    padded = fitted_to(expected, size, "pad", None)
    assert fitted.shape == padded.shape
    assert int((fitted.int() - padded.int()).abs().max()) <= 1


@given(images=grey, fit=st.sampled_from(["pad", "resize"]))
def test_grey_to_rgb(images: npt.NDArray[np.uint8], fit: Any) -> None:
    one, three = (fitted_to(images, 12, fit, channels) for channels in (1, 3))
    assert torch.equal(three, one.repeat(1, 3, 1, 1))


def test_the_right_size_is_left_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for fit in ("pad", "resize"):
        assert np.array_equal(fitted_to(images, 8, fit, 3).permute(0, 2, 3, 1).numpy(), images)


def test_many_images_are_fitted_as_one_is() -> None:
    """More than one chunk."""
    images = np.random.default_rng(0).integers(0, 256, (2500, 5, 6, 3), dtype=np.uint8)
    together = fitted_to(images, 4, "resize", 1)
    for i in (0, 1023, 1024, 2499):
        assert torch.equal(together[i], fitted_to(images[i : i + 1], 4, "resize", 1)[0])
