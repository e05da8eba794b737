"""The images in a run's .npz files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccsi.io.files import open_regular


def load_images(path: Path) -> list[NDArray[Any]]:
    """The arrays of a run's .npz: images, and their labels if it holds any."""
    with open_regular(path) as content, np.load(content, allow_pickle=False) as file:
        return [file[name] for name in ("images", "labels") if name in file]
