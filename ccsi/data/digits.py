"""Scikit-learn's handwritten digits: real images that ship with a dependency, so no network is needed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccsi.checks import Pixels, Seed
from ccsi.data.dataset import SPLITS, Raw, Source
from ccsi.data.draw import stratified_parts


@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """1,797 grey 8×8 images of the digits 0 to 9, split 60/20/20 by class.

    Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998),
    as `sklearn.datasets.load_digits` gives it; its grey levels 0 to 16 become 0 to 255.

    Args:
        split_seed: which image goes to which split.
    """

    name: str = "digits"
    size: Pixels = 16
    fit: Literal["pad", "resize"] = "resize"
    split_seed: Seed = 0

    def read(self) -> tuple[dict[str, Raw], tuple[str, ...]]:
        from sklearn.datasets import load_digits  # here: it takes a second that other data do not need

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        raw = Raw(images, bunch.target.astype(np.int64))
        part = stratified_parts(raw.labels, (0.2, 0.2), self.split_seed, self.draw)
        return {split: raw[part == number] for number, split in enumerate(SPLITS)}, tuple(map(str, bunch.target_names))
