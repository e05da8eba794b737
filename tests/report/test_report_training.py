"""The picture of a task's training has a curve for each term and stage."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ccsi.report.training import draw_training

SYNTHESIS = [{"phase": "synthesis", "step": s, "loss_ce": 0.5 / s, "loss_moments": 22.0 / s} for s in (1, 50, 100)]
TRAINING: list[dict[str, Any]] = [
    {"phase": "training", "step": s, "loss": 2.0 / s, "loss_ce": 1.0, "loss_idc": None if s == 2 else 1.0, "lr": 0.1}
    for s in (1, 2, 3)
]
TRAINING[-1]["val_accuracy"] = 0.9


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they are saved."""
    found, save = list[Figure](), Figure.savefig

    def kept(self: Figure, *args: Any, **options: Any) -> None:
        found.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


def test_a_curve_for_each_term(tmp_path: Path, drawn: list[Figure]) -> None:
    end = {"phase": "task_end", "seconds": 3.0}
    assert draw_training(tmp_path / "training.png", [*SYNTHESIS, *TRAINING, end]) == tmp_path / "training.png"
    assert (tmp_path / "training.png").stat().st_size > 5000
    synthesis, fit, accuracy = drawn[0].axes
    assert [axis.get_title() for axis in (synthesis, fit)] == ["synthesis", "training"]
    assert [line.get_label() for line in synthesis.lines] == ["ce", "moments"] and synthesis.get_yscale() == "log"
    assert [line.get_label() for line in fit.lines] == ["loss", "ce", "idc"] and fit.get_yscale() == "linear"
    assert [len(line.get_xdata()) for line in fit.lines] == [3, 3, 2]  # a term that was not finite is left out
    assert accuracy.lines[0].get_ydata()[0] == pytest.approx(90)
    texts = [text.get_text() for text in fit.get_legend().get_texts()]
    assert texts == ["loss", "ce", "idc", "val accuracy"]


def test_a_single_term_is_the_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_training(tmp_path / "x.png", [{"phase": "training", "step": 1, "loss": 1.0, "loss_ce": 1.0}])
    assert [line.get_label() for line in drawn[0].axes[0].lines] == ["loss"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert draw_training(tmp_path / "x.png", [{"phase": "task_end", "seconds": 1.0}]) is None
    assert not list(tmp_path.iterdir())
