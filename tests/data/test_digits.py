"""The digits are scikit-learn's, each image in one split."""

import hashlib

import numpy as np
from sklearn.datasets import load_digits

from ccsi.data import Digits


def test_content_and_split() -> None:
    data = Digits(size=8, fit="pad").load()
    bunch = load_digits()
    ours, sizes = [], []
    for part in (data.train, data.val, data.test):
        levels = np.rint(part.images[:, 0].numpy() * (16 / 255)).astype(int)
        ours += [(tuple(image.ravel()), label) for image, label in zip(levels, part.labels.tolist(), strict=True)]
        sizes.append(len(part))
        shares = np.bincount(part.labels) / np.bincount(bunch.target)
        assert np.ptp(shares) < 0.01  # stratified
    theirs = [(tuple(image.astype(int)), int(label)) for image, label in zip(bunch.data, bunch.target, strict=True)]
    assert sorted(ours) == sorted(theirs)
    assert int(data.train.images.max()) == 255
    assert np.allclose(np.array(sizes) / 1797, [0.6, 0.2, 0.2], atol=0.005)
    assert data.class_names == tuple("0123456789")


def test_default_is_16_grey_and_seeded() -> None:
    data = Digits().load()
    assert data.train.images.shape[1:] == (1, 16, 16)
    assert Digits().load().checksum == data.checksum != Digits(split_seed=1).load().checksum


def test_the_split_never_moves() -> None:
    """Figures in the README rest on it; if numpy ever changes its generator, this says so."""
    digest = hashlib.sha256()
    for raw in Digits().read()[0].values():
        digest.update(raw.images.tobytes() + raw.labels.tobytes())
    assert digest.hexdigest() == "cd7541d3d306a836635d46de1c3657fdb0864014bd660b6c0871d081ac224969"
