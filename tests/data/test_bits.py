"""8-bit images have the bits that they had at 4c57aa6: checksums taken there, and its conversion, written again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ccsi.data import Digits, Folder, Npz, fit

PADDED = {
    "grey folder": "394b179739d4f0eb92f0562188ca498371bf7afcf9d80f4d3919aa47b25869c2",
    "grey folder, split": "21ec4cb6d17ad3f5043f0bf319e42e6c20001235ab138ceefc900e0c498288a8",
    "RGB folder": "819db67542cb078d910c37bd5629d9bee233411bfef43a6df4a3ac015080b990",
    "RGB folder, split": "1e553b719d9f0ff1d44770f5d2f1addb720d54cc8e147bc1c90ec1d2117540bd",
    "grey npz": "4a7abc564929997c576e1e36272b38e6530eaf8e0b9a86ddd1669beda7f9a79a",
    "RGB npz": "e1ec63a01aac443124c7822a6196f2508ba9e8de7648bddc8954dbbb89f3f6b4",
}
CUT = {
    "RGB folder": "80838de6b32de692211be195437fa9c6d1752537eebb239ddbd1c4ca121fbbf4",
    "RGB npz": "61612ece8171a3bc3bb386c1ede68833d47b6de3de2a731f6af9fad55ad40eed",
}
"""With max_per_class: 2 in the folder, 7 in the file."""


def draw(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder(root: Path, colour: bool, splits: tuple[str, ...]) -> Folder:
    seed = 0
    for split in splits:
        for name in ("ant", "bee"):
            (root / split / name / "more").mkdir(parents=True)
            for i in range(7):
                seed += 1
                shape = (9 + i % 3, 11, 3) if colour or i == 3 else (9 + i % 3, 11)
                file = f"more/{i}.bmp" if i == 5 else f"{i}.png"
                Image.fromarray(draw(seed, shape)).save(root / split / name / file)
    return Folder(path=str(root), fit="pad", size=12, nested=True)


def npz(path: Path, colour: bool) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for seed, (split, n) in enumerate({"train": 2100, "val": 60, "test": 30}.items()):
        arrays[f"{split}_images"] = draw(seed, (n, 9, 10, 3) if colour else (n, 9, 10))
        arrays[f"{split}_labels"] = np.arange(n) % 3
    np.savez(path, **arrays)
    return arrays


def converted(images: npt.NDArray[np.uint8], size: int, channels: Literal[1, 3] | None) -> torch.Tensor:
    """Resized all at once, as at that commit."""
    x = torch.from_numpy(images)
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    fitted = torch.empty(len(images), channels or x.shape[1], size, size, dtype=torch.uint8)
    if channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).round()
    x = F.interpolate(x.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    fitted[:] = x.round().clamp(0, 255)
    return fitted


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("splits", [("",), ("train", "val", "test")])
def test_a_folder(tmp_path: Path, colour: bool, splits: tuple[str, ...]) -> None:
    name = ("RGB" if colour else "grey") + " folder" + ", split" * (len(splits) > 1)
    source = folder(tmp_path, colour, splits)
    assert source.load().checksum == PADDED[name]
    if name in CUT:
        assert replace(source, max_per_class=2).load().checksum == CUT[name]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("chunk", [999, 1 << 20])
def test_a_file(tmp_path: Path, colour: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "CHUNK", chunk)  # a few images at a time, and all of a split
    arrays = npz(tmp_path / "a.npz", colour)
    name = ("RGB" if colour else "grey") + " npz"
    source: dict[str, Any] = {"name": "own", "path": str(tmp_path / "a.npz")}
    assert Npz(**source, size=12).load().checksum == PADDED[name]
    if name in CUT:
        assert Npz(**source, size=12, max_per_class=7).load().checksum == CUT[name]
    for size, channels in ((6, None), (20, 3), (7, 1)):
        data = Npz(**source, size=size, fit="resize", channels=channels).load()
        for split in ("val", "test"):
            images = arrays[f"{split}_images"]
            assert torch.equal(getattr(data, split).images, converted(images, size, channels))


def test_the_digits() -> None:
    from sklearn.datasets import load_digits

    data = Digits().load()
    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(map(bytes, converted(images, 16, None).numpy())) == sorted(
        bytes(image) for part in (data.train, data.val, data.test) for image in part.images.numpy()
    )
