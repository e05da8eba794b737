import sys
from pathlib import Path

import pytest

from ccsi.tracking import RunStart

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # finished.py: a made-up result.json


@pytest.fixture
def run(tmp_path: Path) -> RunStart:
    folder = tmp_path / "run"
    folder.mkdir()
    return RunStart("blood-ccsi-s0", folder, {"seed": 0}, (("basophil", "eosinophil"), ("erythroblast", "platelet")))
