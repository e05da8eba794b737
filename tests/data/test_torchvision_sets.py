"""FashionMNIST and CIFAR: archives made in their formats, read by ours and by torchvision's own loaders."""

import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from ccsi.data import TorchVision
from ccsi.errors import UserError

DRAW = np.random.default_rng(0)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def serve_fashion(server: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """torchvision's class, pointed at a small set of 10 classes on `server`."""
    kind = getattr(datasets, name)
    resources = []
    for part, n in {"train": 200, "t10k": 20}.items():
        images = DRAW.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for file, array in {f"{part}-images-idx3-ubyte.gz": images, f"{part}-labels-idx1-ubyte.gz": labels}.items():
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = gzip.compress(header + array.tobytes())
            server.files[f"/fashion/{file}"] = content
            resources.append((file, md5(content)))
    monkeypatch.setattr(kind, "mirrors", [server.url("/fashion/")])
    monkeypatch.setattr(kind, "resources", resources)
    return kind


def serve_cifar(server: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """The same for CIFAR-10 or CIFAR-100, its members in an order of their own."""
    kind = getattr(datasets, name)
    classes = 10 if name == "CIFAR10" else 100
    files: dict[str, bytes] = {}
    for file, _ in [*kind.test_list, *kind.train_list]:
        n = 2 * classes
        labels = [int(label) for label in DRAW.permutation(n) % classes]
        entry: dict[str, Any] = {"data": DRAW.integers(0, 256, (n, 3072), dtype=np.uint8)}
        entry |= {"labels": labels} if name == "CIFAR10" else {"coarse_labels": [0] * n, "fine_labels": labels}
        files[file] = pickle.dumps(entry)
    meta = {kind.meta["key"]: [f"class {i}" for i in range(classes)], "coarse_label_names": ["x"]}
    files[kind.meta["filename"]] = pickle.dumps(meta)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in sorted(files.items(), reverse=True):
            member = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    server.files["/cifar.tar.gz"] = buffer.getvalue()
    monkeypatch.setattr(kind, "url", server.url("/cifar.tar.gz"))
    monkeypatch.setattr(kind, "tgz_md5", md5(buffer.getvalue()))
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(kind, key, [[file, md5(files[file])] for file, _ in getattr(kind, key)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files[kind.meta["filename"]])})
    return kind


@pytest.mark.parametrize("which", ["FashionMNIST", "CIFAR10", "CIFAR100"])
def test_same_as_torchvision(server: Any, monkeypatch: pytest.MonkeyPatch, cache: Path, which: Any) -> None:
    serve = serve_fashion if which == "FashionMNIST" else serve_cifar
    kind = serve(server, monkeypatch, which)
    source = TorchVision(name=which, which=which, val_share=0.25, split_seed=3)
    splits, names = source.read()
    asked = len(server.requests)
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    again, _ = source.read()
    assert len(server.requests) == asked and {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == before

    train, test = (kind(str(cache), train=train, download=True) for train in (True, False))
    assert len(server.requests) == asked  # the archives lie where torchvision looks for them
    assert names == tuple(train.classes)
    assert np.array_equal(splits["test"].images, np.asarray(test.data))
    assert splits["test"].labels.tolist() == list(map(int, test.targets))
    where = {image.tobytes(): i for i, image in enumerate(np.asarray(train.data))}
    parts = {split: [where[image.tobytes()] for image in splits[split].images] for split in ("train", "val")}
    assert sorted(parts["train"] + parts["val"]) == list(range(len(train.data)))
    for split, positions in parts.items():
        assert splits[split].labels.tolist() == [int(train.targets[i]) for i in positions]
        assert np.array_equal(splits[split].images, again[split].images)
    per_class = len(train.data) // len(names)
    assert np.bincount(splits["val"].labels).tolist() == [max(1, round(per_class * 0.25))] * len(names)


@pytest.mark.parametrize(
    ("which", "file"),
    [
        ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        ("CIFAR10", "cifar-10-python.tar.gz"),
        ("CIFAR100", "cifar-100-python.tar.gz"),
    ],
)
def test_no_network_and_damage(no_network: None, tmp_path: Path, which: Any, file: str) -> None:
    source = TorchVision(name=which, which=which, root=str(tmp_path / "sets"))
    with pytest.raises(UserError, match="refused") as caught:
        source.load()
    assert str(tmp_path / "sets" / file) in str(caught.value)
    (tmp_path / "sets" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "sets" / file).write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged"):
        source.load()
