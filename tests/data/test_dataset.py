"""Checks and limits that every source shares, and the order of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.data.dataset import SPLITS, Contents, Raw, Source, check_labels
from ccsi.data.draw import Draw
from ccsi.data.summary import split_rows
from ccsi.errors import UserError


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
