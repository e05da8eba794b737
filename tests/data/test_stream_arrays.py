"""Batches of images from .npz files, arrays and tensors."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_stream import GREY, is_quiet, names_of

from ccsi.data import Npz
from ccsi.data.input import GREY_TO_RGB, RGB_TO_GREY, InputFormat
from ccsi.data.stream import ImageStream, open_images
from ccsi.errors import UserError

SPLITS = {"train": 9, "val": 4, "test": 5}


def images_of(stream: ImageStream) -> torch.Tensor:
    batches = list(stream)
    assert not any(batch.errors for batch in batches)
    return torch.cat([batch.images for batch in batches])


def npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    draw, arrays = np.random.default_rng(0), dict[str, npt.NDArray[Any]]()
    for split, n in SPLITS.items():
        arrays[f"{split}_images"] = draw.integers(0, 256, (n, 5, 7, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 2
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("size", [7, 4])
def test_npz_files_have_the_bits_of_the_data_set(tmp_path: Path, size: int) -> None:
    npz(tmp_path / "a.npz")
    data = Npz(name="a", path=str(tmp_path / "a.npz"), size=size, fit="resize").load()
    form = InputFormat(size, "resize", 3, {})
    expected = {split: getattr(data, split).images for split in SPLITS}
    stream = open_images(tmp_path / "a.npz", form, batch=4)
    assert torch.equal(images_of(stream), torch.cat([*expected.values()])) and stream.total == 18
    assert names_of(stream) == [f"{split}[{i}]" for split, n in SPLITS.items() for i in range(n)]
    for split, images in expected.items():
        assert torch.equal(images_of(open_images(tmp_path / "a.npz", form, split=split)), images)
    with pytest.raises(UserError, match=r"^split=all: expected one of train, val, test\.$"):
        open_images(tmp_path / "a.npz", form, split="all")
    with pytest.raises(UserError, match=r"^split=val: only an \.npz file has splits\.$"):
        open_images(tmp_path, form, split="val")


@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_files_with_only_some_arrays(tmp_path: Path, order: Any) -> None:
    arrays = npz(tmp_path / "a.npz")
    images = np.asarray(arrays["val_images"], order=order)
    np.savez_compressed(tmp_path / "plain.npz", images=images)
    np.savez(tmp_path / "two.npz", test_images=arrays["test_images"], val_images=images)
    form = InputFormat(7, "pad", 3, {})
    plain = open_images(tmp_path / "plain.npz", form)
    assert names_of(plain) == ["0", "1", "2", "3"]
    assert torch.equal(images_of(plain)[:, :, 1:6], torch.from_numpy(arrays["val_images"]).permute(0, 3, 1, 2))
    assert names_of(open_images(tmp_path / "two.npz", form))[3:5] == ["val[3]", "test[0]"]
    with pytest.raises(UserError, match=r"two\.npz has no array train_images; expected"):
        open_images(tmp_path / "two.npz", form, split="train")


def test_a_damaged_npz_file_is_an_error_of_the_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 20, 20), np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[10_000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    stream = open_images(tmp_path / "a.npz", GREY)
    with pytest.raises(UserError, match=r"a\.npz is damaged: images cannot be read"):
        list(stream)
    assert is_quiet()


@given(
    st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([1, 3]),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
)  # fmt: skip
def test_arrays_and_tensors_are_the_same_images(
    n: int, height: int, width: int, bands: int, channels: Any, dtype: torch.dtype
) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, height, width, bands), dtype=np.uint8)
    images.flags.writeable = False
    form = InputFormat(6, "resize", channels, {})
    expected = form.convert_arrays(np.array(images[..., 0] if bands == 1 else images), "own")
    tensor = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    floating = (tensor.double() / 255).to(dtype).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's, of arrays that are read-only
        for source in (images, images[::-1][::-1], tensor, tensor.contiguous(), floating):
            stream = open_images(source, form, batch=4)
            assert torch.equal(images_of(stream), expected) and stream.total == n
            changed = sum((Counter(batch.converted) for batch in stream), Counter[str]())
            assert changed == ({} if bands == channels else {GREY_TO_RGB if bands == 1 else RGB_TO_GREY: n})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 4, 4)), r"^the array is float64; expected uint8"),
        (np.zeros((2, 4, 4, 2), np.uint8), r"^the array has images of shape \(4, 4, 2\); expected \(H, W\) or"),
        (np.zeros((0, 4, 4), np.uint8), r"^the array has no image"),
        (torch.zeros(2, 4, 4), r"^the tensor is float32 of shape \(2, 4, 4\); expected uint8, or floating point in"),
        (torch.zeros(2, 3, 4, 4).long(), r"^the tensor is int64 of shape"),
        (torch.zeros(2, 4, 4, 3), r"^the tensor is float32 of shape \(2, 4, 4, 3\)"),
        (torch.zeros(0, 3, 4, 4), r"^the tensor has no image"),
        (torch.zeros(2, 3, 0, 4), r"^the tensor has images of shape \(0, 4, 3\)"),
        (torch.tensor([0, 0.5, 1.5]).view(3, 1, 1, 1), r"^the tensor has values that are not in \[0, 1\] in image 2;"),
        (torch.tensor([0, float("nan"), 1]).view(3, 1, 1, 1), r"that are not in \[0, 1\] in image 1;"),
        (torch.tensor([0, 0.5, -1]).view(3, 1, 1, 1), r"that are not in \[0, 1\] in image 2;"),
    ],
)
def test_arrays_that_are_refused(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_images(source, GREY)
    with pytest.raises(UserError, match=r"^batch=0: expected"):
        open_images(np.zeros((2, 4, 4), np.uint8), GREY, batch=0)
