"""The .npz source: what it reads, and every way a file can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccsi.data import Npz
from ccsi.errors import UserError

PBC_BLOOD = Path(__file__).parents[2] / "../shared/data/pbcblood_28.npz"


def good() -> dict[str, Any]:
    """Three classes, sizes 12, 6 and 3 a split, RGB 4×5."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in {"train": 12, "val": 6, "test": 3}.items():
        arrays[f"{split}_images"] = draw.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n, dtype=np.uint8) % 3)[:, None]
    return arrays


def source(path: Path, **fields: Any) -> Npz:
    return Npz(name="own", path=str(path), size=6, **fields)


@pytest.mark.parametrize("label_shape", ["column", "flat"])
@pytest.mark.parametrize("grey", [False, True])
def test_content(tmp_path: Path, grey: bool, label_shape: str) -> None:
    arrays = good()
    for key in arrays:
        if key.endswith("images") and grey:
            arrays[key] = arrays[key][..., 0]
        if key.endswith("labels") and label_shape == "flat":
            arrays[key] = arrays[key][:, 0].astype(np.int32)
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    data = source(tmp_path / "own.npz").load()
    assert (data.name, data.class_names) == ("own", ("0", "1", "2"))
    for split in ("train", "val", "test"):
        part, images = getattr(data, split), arrays[f"{split}_images"]
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        inner = part.images[
            :, :, 1:5, 0:5
        ].numpy()  # 4 by 5 in 6 by 6: one row above, nothing left, the odd column right
        assert np.array_equal(inner, images[:, None] if grey else images.transpose(0, 3, 1, 2))
        assert int(part.images.sum()) == int(images.sum())  # and zeros around it
        assert part.labels.tolist() == arrays[f"{split}_labels"].ravel().tolist()


def test_class_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **good())
    assert source(tmp_path / "own.npz", class_names=["a", "b", "c"]).load().class_names == ("a", "b", "c")
    with pytest.raises(UserError, match=r"train has label 2; expected whole numbers from 0 to 1\."):
        source(tmp_path / "own.npz", class_names=["a", "b"]).load()
    with pytest.raises(UserError, match=r"train has no image of class 3 \(d\)"):
        source(tmp_path / "own.npz", class_names=["a", "b", "c", "d"]).load()


IMAGES, LABELS = good()["train_images"], good()["train_labels"]
WITH_NAN = IMAGES.astype(np.float32)
WITH_NAN[3, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("val_labels", None, "has no array val_labels; expected train_images, "),
        ("train_images", np.array([{}] * 12, dtype=object), "train_images holds pickled objects"),
        ("train_labels", np.array(["cat"] * 12, dtype=object), "train_labels holds pickled objects"),
        ("train_images", IMAGES.astype(np.float32), "train_images is float32; expected uint8"),
        ("train_images", WITH_NAN, "train_images is float32; expected uint8"),
        ("test_images", IMAGES[:3].astype(np.int64), "test_images is int64; expected uint8"),
        ("train_images", IMAGES[:, :, 0, 0], r"train_images has shape \(12, 4\)"),
        ("train_images", IMAGES[..., :2], r"shape \(12, 4, 5, 2\); expected \(N, H, W\) or \(N, H, W, 3\)"),
        ("train_images", IMAGES[:, :0], r"shape \(12, 0, 5, 3\)"),
        ("train_images", IMAGES[:, None], r"shape \(12, 1, 4, 5, 3\)"),
        ("train_labels", LABELS.astype(np.float64), "train_labels is float64; expected whole numbers"),
        ("train_labels", np.full(12, np.nan), "train_labels is float64"),
        ("train_labels", LABELS.astype(bool), "train_labels is bool; expected whole numbers"),
        ("train_labels", LABELS.astype("U3"), "train_labels is <U3; expected whole numbers"),
        ("train_labels", np.repeat(LABELS, 2, axis=1), r"train_labels has shape \(12, 2\)"),
        ("train_labels", LABELS[:11], "train has 12 images but 11 labels"),
        ("train_labels", LABELS.astype(np.int64) - 1, "train has label -1; expected whole numbers from 0 to 1"),
        ("val_labels", np.array([0, 1, 2, 0, 1, 3]), "val has label 3; expected whole numbers from 0 to 2"),
        ("train_labels", LABELS.astype(np.int64) * 10**12, "label 2000000000000 but only 12 images"),
        ("test_labels", np.array([0, 1, 1]), r"test has no image of class 2 \(2\)"),
        ("train_labels", LABELS * 2, r"train has no image of class 1 \(1\)"),
        ("test_images", IMAGES[:3, :, :, 0], "some splits are grey and some RGB"),
    ],
)
def test_wrong_arrays(tmp_path: Path, key: str, value: np.ndarray[Any, Any] | None, message: str) -> None:
    arrays: dict[str, Any] = {**good(), key: value}
    np.savez(tmp_path / "own.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(UserError, match=message) as caught:
        source(tmp_path / "own.npz").load()
    assert "\n" not in str(caught.value)


def test_empty_split(tmp_path: Path) -> None:
    arrays = good()
    for split in ("train", "test"):
        empty: dict[str, Any] = {f"{split}_{kind}": arrays[f"{split}_{kind}"][:0] for kind in ("images", "labels")}
        np.savez(tmp_path / "own.npz", **{**arrays, **empty})
        with pytest.raises(UserError, match=f"{split} is empty"):
            source(tmp_path / "own.npz").load()


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        source(tmp_path / "none.npz").load()
    with pytest.raises(UserError, match="not a readable"):
        source(tmp_path).load()
    (tmp_path / "text.npz").write_text("train_images")
    with pytest.raises(UserError, match="not a readable"):
        source(tmp_path / "text.npz").load()
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(UserError, match="a single array"):
        source(tmp_path / "one.npy").load()
    np.savez_compressed(tmp_path / "whole.npz", **good())
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a readable"):
        source(tmp_path / "cut.npz").load()
    (tmp_path / "flipped.npz").write_bytes(content[:200] + bytes(40) + content[240:])
    with pytest.raises(UserError, match="damaged"):
        source(tmp_path / "flipped.npz").load()


def test_too_large_to_pad(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **good())
    with pytest.raises(UserError, match=r"4x5 .* dataset\.size=4 .* dataset\.fit=resize"):
        Npz(name="own", path=str(tmp_path / "own.npz"), size=4).load()


def test_max_per_class_cuts_only_train(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **good())
    whole, cut = source(tmp_path / "own.npz").load(), source(tmp_path / "own.npz", max_per_class=2).load()
    assert torch.bincount(cut.train.labels).tolist() == [2, 2, 2]
    assert torch.equal(cut.val.images, whole.val.images) and torch.equal(cut.test.images, whole.test.images)
    assert cut.checksum != whole.checksum == source(tmp_path / "own.npz").load().checksum


@pytest.mark.skipif(not PBC_BLOOD.exists(), reason="the development data ../shared/data is not there")
def test_pbc_blood() -> None:
    data = Npz(name="PBC blood", path=str(PBC_BLOOD)).load()
    with np.load(PBC_BLOOD) as archive:
        for split, n in {"train": 11959, "val": 1712, "test": 3421}.items():
            part = getattr(data, split)
            assert part.images.shape == (n, 3, 32, 32)
            assert np.array_equal(part.images[:, :, 2:30, 2:30].permute(0, 2, 3, 1).numpy(), archive[f"{split}_images"])
            assert not part.images[:, :, [0, 1, 30, 31]].any() and not part.images[:, :, :, [0, 1, 30, 31]].any()
            assert np.array_equal(part.labels.numpy(), archive[f"{split}_labels"][:, 0])
    assert data.class_names == tuple("01234567")
