"""FashionMNIST, CIFAR-10 and CIFAR-100 from the archives that torchvision names."""

import gzip
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ccsi.checks import Seed
from ccsi.data.dataset import OpenShare, Raw, Source
from ccsi.data.download import data_folder, fetch
from ccsi.data.draw import stratified_parts


@dataclass(frozen=True, kw_only=True)
class TorchVision(Source):
    """A benchmark set of torchvision; val is a stratified share of its train images, test is its test set.

    URL and MD5 are torchvision's, and the archives are where torchvision puts them, so that its folder can be `root`.
    They are read without unpacking: a folder that has them is never written to.
    Sources: Xiao et al. 2017 (FashionMNIST); Krizhevsky 2009 (CIFAR).

    Args:
        which: the set.
        root: folder of the archives; null: CCSI_DATA from the environment, or ~/.cache/ccsi.
        val_share: fraction of each class's train images that becomes val.
        split_seed: chooses these images.
    """

    which: Literal["FashionMNIST", "CIFAR10", "CIFAR100"]
    root: str | None = None
    val_share: OpenShare = 0.1
    split_seed: Seed = 0

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        from torchvision import datasets  # here: it takes a second that other data do not need

        kind = getattr(datasets, self.which)
        read = read_fashion if self.which == "FashionMNIST" else read_cifar
        both, test, names = read(kind, data_folder(self.root))
        part = stratified_parts(both.labels, [self.val_share], self.split_seed, self.draw)
        return {"train": both[part == 0], "val": both[part == 1], "test": test}, names


def read_fashion(kind: Any, root: Path) -> tuple[Raw, Raw, tuple[str, ...]]:
    """Train and test of a set in MNIST's format, and the class names; `kind` is torchvision's class."""
    folder = root / kind.__name__ / "raw"
    arrays = {name: read_idx(fetch(kind.mirrors[0] + name, folder / name, md5)) for name, md5 in kind.resources}
    train, test = (
        Raw(arrays[f"{part}-images-idx3-ubyte.gz"], arrays[f"{part}-labels-idx1-ubyte.gz"].astype(np.int64))
        for part in ("train", "t10k")
    )
    return train, test, tuple(kind.classes)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """A gzipped IDX file of bytes: two zeros, type 8, the number of axes, each axis as 4 bytes, then the data."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


def read_cifar(kind: Any, root: Path) -> tuple[Raw, Raw, tuple[str, ...]]:
    """Train and test of a CIFAR set, and the class names; `kind` is torchvision's class."""
    path = fetch(kind.url, root / kind.filename, kind.tgz_md5)
    found: dict[str, dict[str, Any]] = {}
    wanted = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    with tarfile.open(path) as archive:
        for member in archive:  # in the file's order: seeking back would decompress it all again
            name, file = Path(member.name).name, archive.extractfile(member)
            if file is not None and name in wanted:
                # a pickle, but of an archive whose checksum `fetch` has just compared with torchvision's
                found[name] = pickle.load(file, encoding="latin1")
    parts = []
    for files in (kind.train_list, kind.test_list):
        pieces = [found[name] for name, _ in files]
        pixels = np.concatenate([piece["data"] for piece in pieces]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        key = "labels" if "labels" in pieces[0] else "fine_labels"  # CIFAR-100 has coarse ones, too
        labels = [label for piece in pieces for label in piece[key]]
        parts.append(Raw(np.ascontiguousarray(pixels), np.array(labels, dtype=np.int64)))
    return parts[0], parts[1], tuple(found[kind.meta["filename"]][kind.meta["key"]])
