"""Checks and limits that every source shares, and the stratified split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.data.dataset import Raw, check_labels, first_of_each_class, stratified
from ccsi.errors import UserError

labels_of_4 = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


@given(labels=labels_of_4, limit=st.integers(1, 20))
def test_first_of_each_class(labels: np.ndarray[tuple[int], np.dtype[np.int64]], limit: int) -> None:
    raw = Raw(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1), labels)
    kept = first_of_each_class(raw, limit)
    numbers = kept.images.ravel().tolist()
    assert numbers == sorted(set(numbers))  # in the original order, none twice
    assert kept.labels.tolist() == labels[numbers].tolist()
    for label in range(4):
        assert np.sum(kept.labels == label) == min(limit, np.sum(labels == label))
    fewer = first_of_each_class(raw, max(1, limit - 1)).images.ravel().tolist()
    assert set(fewer) <= set(numbers)  # a smaller limit keeps a subset


@given(
    labels=labels_of_4,
    shares=st.lists(st.floats(0.01, 0.45), min_size=1, max_size=2),
    seed=st.integers(0, 9),
)
def test_stratified(labels: np.ndarray[tuple[int], np.dtype[np.int64]], shares: list[float], seed: int) -> None:
    raw = Raw(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1), labels)
    made, again = (stratified(raw, shares, seed) for _ in range(2))
    parts = [part.images.ravel() for part in made]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(part.tolist() == sorted(part) for part in parts)
    for label in np.unique(labels):
        total = int(np.sum(labels == label))
        if total >= 5:  # with fewer, "at least one" may not leave any
            for share, part in zip(shares, parts[1:], strict=True):
                assert np.sum(labels[part] == label) == max(1, round(share * total))
    for part, copy, numbers in zip(made, again, parts, strict=True):
        assert part.labels.tolist() == labels[numbers].tolist() and np.array_equal(copy.images.ravel(), numbers)


@given(labels=st.lists(st.integers(-1, 4), max_size=12), n_images=st.integers(0, 12))
def test_check_labels(labels: list[int], n_images: int) -> None:
    raw = Raw(np.zeros((n_images, 1, 1), np.uint8), np.array(labels, dtype=np.int64))
    fine = n_images == len(labels) and set(labels) == {0, 1, 2, 3}
    if fine:
        check_labels(raw, "val", ("a", "b", "c", "d"), "own")
    else:
        with pytest.raises(UserError, match=r"^own: val "):
            check_labels(raw, "val", ("a", "b", "c", "d"), "own")
