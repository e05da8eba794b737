"""Checks and limits that every source shares, and the stratified split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.data.dataset import SPLITS, Contents, Draw, Raw, Source, check_labels, first_of_each_class, stratified
from ccsi.data.summary import split_rows
from ccsi.errors import UserError

labels_of_4 = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


draws: st.SearchStrategy[Draw] = st.sampled_from(["by_class", "together"])


@given(labels=labels_of_4, limit=st.integers(1, 20), draw=draws)
def test_first_of_each_class(labels: np.ndarray[tuple[int], np.dtype[np.int64]], limit: int, draw: Draw) -> None:
    raw = Raw(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1), labels)
    kept = first_of_each_class(raw, limit, draw)
    numbers = kept.images.ravel().tolist()
    assert numbers == sorted(set(numbers))  # in the original order, none twice
    assert kept.labels.tolist() == labels[numbers].tolist()
    for label in range(4):
        assert np.sum(kept.labels == label) == min(limit, np.sum(labels == label))
    fewer = first_of_each_class(raw, max(1, limit - 1), draw).images.ravel().tolist()
    assert set(fewer) <= set(numbers)  # a smaller limit keeps a subset


@given(
    labels=labels_of_4,
    shares=st.lists(st.floats(0.01, 0.45), min_size=1, max_size=2),
    seed=st.integers(0, 9),
    draw=draws,
)
def test_stratified(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], shares: list[float], seed: int, draw: Draw
) -> None:
    raw = Raw(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1), labels)
    made, again = (stratified(raw, shares, seed, draw) for _ in range(2))
    parts = [part.images.ravel() for part in made]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(part.tolist() == sorted(part) for part in parts)
    for label in np.unique(labels):
        total = int(np.sum(labels == label))
        assert np.sum(labels[parts[0]] == label) >= 1  # the remainder has one whatever the shares
        if total >= 5:  # with fewer, one is left for the remainder first
            for share, part in zip(shares, parts[1:], strict=True):
                assert np.sum(labels[part] == label) == max(1, round(share * total))
    for part, copy, numbers in zip(made, again, parts, strict=True):
        assert part.labels.tolist() == labels[numbers].tolist() and np.array_equal(copy.images.ravel(), numbers)


@given(
    labels=labels_of_4, limit=st.integers(1, 20), seed=st.integers(0, 9), kept=st.sets(st.integers(0, 3), min_size=1)
)
def test_a_class_has_the_same_images_whatever_the_others(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], limit: int, seed: int, kept: set[int]
) -> None:
    of = np.flatnonzero(np.isin(labels, sorted(kept)))
    if not len(of):
        return
    numbers = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1)
    whole, some = Raw(numbers, labels), Raw(numbers[of], labels[of])
    cut = [first_of_each_class(raw, limit, "by_class").images.ravel() for raw in (whole, some)]
    assert [n for n in cut[0].tolist() if labels[n] in kept] == cut[1].tolist()
    for one, other in zip(*(stratified(raw, (0.2, 0.3), seed, "by_class") for raw in (whole, some)), strict=True):
        assert [n for n in one.images.ravel().tolist() if labels[n] in kept] == other.images.ravel().tolist()


@given(labels=st.lists(st.integers(-1, 4), max_size=12), n_images=st.integers(0, 12))
def test_check_labels(labels: list[int], n_images: int) -> None:
    raw = Raw(np.zeros((n_images, 1, 1), np.uint8), np.array(labels, dtype=np.int64))
    fine = n_images == len(labels) and set(labels) == {0, 1, 2, 3}
    if fine:
        check_labels(raw, "val", ("a", "b", "c", "d"), "own")
    else:
        with pytest.raises(UserError, match=r"^own: val "):
            check_labels(raw, "val", ("a", "b", "c", "d"), "own")


@pytest.mark.parametrize("draw", ["by_class", "together"])
def test_images_come_class_by_class(draw: Draw) -> None:
    draws = np.random.default_rng(0)
    splits = {split: Raw(draws.integers(0, 256, (9, 5, 5), dtype=np.uint8), np.arange(9) % 3) for split in SPLITS}

    class Mixed(Source):
        def read(self) -> Contents:
            return Contents(dict(splits), ("a", "b", "c"))

    data = Mixed(name="mixed", size=5, draw=draw).load()
    for split in SPLITS:
        part, raw = getattr(data, split), splits[split]
        order = sorted(range(9), key=lambda i: raw.labels[i]) if draw == "by_class" else range(9)
        assert part.labels.tolist() == [raw.labels[i] for i in order]
        assert np.array_equal(part.images[:, 0].numpy(), raw.images[[*order]])
        assert [index for name, index, *_ in split_rows(data) if name == split] == [*order]
