import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ccsi.report.run
import ccsi.report.sweep
from ccsi.report.style import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # at run time ccsi.report must come first: it sets matplotlib's folder

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, "Figure"]:
    """The figures drawn in a test, by the name of their file: what they say can be read from them."""
    figures: dict[str, Figure] = {}

    @contextmanager
    def watched(path: Path, width: float, height: float) -> "Iterator[Figure]":
        with figure(path, width, height) as fig:
            yield fig
        figures[path.name] = fig

    monkeypatch.setattr(ccsi.report.run, "figure", watched)
    monkeypatch.setattr(ccsi.report.sweep, "figure", watched)
    return figures
