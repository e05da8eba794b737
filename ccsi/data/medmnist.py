"""The 2-D single-label sets of MedMNIST v2 / MedMNIST+, at four resolutions."""

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

from ccsi.data.dataset import Contents, Source
from ccsi.data.download import data_folder, fetch
from ccsi.data.npz import read_npz
from ccsi.errors import UserError

Flag = Literal[
    "bloodmnist",
    "breastmnist",
    "dermamnist",
    "octmnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
    "pathmnist",
    "pneumoniamnist",
    "retinamnist",
    "tissuemnist",
]


@dataclass(frozen=True, kw_only=True)
class MedMNIST(Source):
    """A set of MedMNIST with its official splits, downloaded on first use and verified on every use.

    URL, MD5 and class names are those of the installed `medmnist` package. RetinaMNIST's five grades, an
    ordinal regression there, are five classes here; ChestMNIST (several labels an image) is not offered.
    Source: Yang et al., "MedMNIST v2", Scientific Data 2023.

    Args:
        flag: the set's short name.
        resolution: side of the stored images in pixels; not above `size` unless `fit` is resize.
        root: folder of the .npz files, under the names that `medmnist` gives them; None: CCSI_DATA from the
            environment, or ~/.cache/ccsi.
    """

    flag: Flag
    resolution: Literal[28, 64, 128, 224] = 28
    root: str | None = None

    def read(self) -> Contents:
        about = info()[self.flag]
        suffix = "" if self.resolution == 28 else f"_{self.resolution}"
        path = data_folder(self.root) / f"{self.flag}{suffix}.npz"
        fetch(about[f"url{suffix}"], path, about[f"MD5{suffix}"])
        return read_npz(path, [about["label"][str(label)] for label in range(len(about["label"]))])


@cache
def info() -> dict[str, dict[str, Any]]:
    """The table INFO of the installed `medmnist`, read from its source text.

    Importing the package would create ~/.medmnist; nothing may be written outside the data folder.
    """
    source = Path(str(distribution("medmnist").locate_file("medmnist/info.py"))).read_text(encoding="utf-8")
    assigned = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    tables = [line.value for line in assigned if ast.unparse(line.targets[0]) == "INFO"]
    if not tables:
        raise UserError("The installed medmnist has no table INFO; expected version 3.")
    return ast.literal_eval(tables[0])
