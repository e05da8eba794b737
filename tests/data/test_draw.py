"""Seeded choices of images, by property."""

import numpy as np
import numpy.typing as npt
from hypothesis import assume, given
from hypothesis import strategies as st

from ccsi.data.draw import Draw, first_of_each_class, stratified_parts

Labels = npt.NDArray[np.int64]
labels_of_4 = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)
draws: st.SearchStrategy[Draw] = st.sampled_from(["by_class", "together"])


@given(labels=labels_of_4, limit=st.integers(1, 20), draw=draws)
def test_first_of_each_class(labels: Labels, limit: int, draw: Draw) -> None:
    kept = first_of_each_class(labels, limit, draw).tolist()
    assert kept == sorted(set(kept))  # in the original order, none twice
    for label in range(4):
        assert np.sum(labels[kept] == label) == min(limit, np.sum(labels == label))
    fewer = first_of_each_class(labels, max(1, limit - 1), draw).tolist()
    assert set(fewer) <= set(kept)  # a smaller limit keeps a subset


@given(
    labels=labels_of_4,
    shares=st.lists(st.floats(0.01, 0.45), min_size=1, max_size=2),
    seed=st.integers(0, 9),
    draw=draws,
)
def test_stratified_parts(labels: Labels, shares: list[float], seed: int, draw: Draw) -> None:
    parts, again = (stratified_parts(labels, shares, seed, draw) for _ in range(2))
    assert np.array_equal(parts, again) and set(parts) <= set(range(1 + len(shares)))
    for label in np.unique(labels):
        own = parts[labels == label]
        assert np.sum(own == 0) >= 1  # the remainder has one whatever the shares
        if len(own) >= 5:  # with fewer, one is left for the remainder first
            for number, share in enumerate(shares, start=1):
                assert np.sum(own == number) == max(1, round(share * len(own)))


@given(
    labels=labels_of_4, limit=st.integers(1, 20), seed=st.integers(0, 9), kept=st.sets(st.integers(0, 3), min_size=1)
)
def test_a_class_has_the_same_images_whatever_the_others(labels: Labels, limit: int, seed: int, kept: set[int]) -> None:
    of = np.flatnonzero(np.isin(labels, sorted(kept)))
    assume(len(of) > 0)
    whole = [n for n in first_of_each_class(labels, limit, "by_class").tolist() if labels[n] in kept]
    assert whole == of[first_of_each_class(labels[of], limit, "by_class")].tolist()
    parts = stratified_parts(labels, (0.2, 0.3), seed, "by_class")
    assert np.array_equal(parts[of], stratified_parts(labels[of], (0.2, 0.3), seed, "by_class"))
