"""A loss that is no number ends a run at the next logging point, which says what went first and at which rate."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from joined import Joined
from tiny_run import run_tiny

import ccsi.synthesis.generation
import ccsi.synthesis.inversion
import ccsi.training
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError
from ccsi.stage import FiniteTerms


def far_too_large(monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    """Let an optimiser use a rate that no configuration may have, so that it diverges at once."""
    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda self, *arguments: step(self, *arguments[:-1], 1e30))


def test_training_stops_at_the_first_logging_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccsi.training, "LOG_EVERY", 4)
    far_too_large(monkeypatch, ccsi.training.SGD)
    folder = tmp_path / "run"
    told = r"task 1: training diverged: its loss \(ce\) is not a finite number from step 2 of 20 on, with training.lr="
    with pytest.raises(UserError, match=told + r"0\.\d+;"):
        run_tiny(folder, "learner=finetune", "training.batch_size=4", "training.epochs=2")
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 4 and json.loads(line)["loss"] is None
    assert not (folder / "result.json").exists()


def test_the_second_stage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = ccsi.training.Training.second_stage
    monkeypatch.setattr(ccsi.training.Training, "second_stage", lambda *given: replace(second(*given), lr=1e36))
    with pytest.raises(UserError, match=r"task 2: balanced training diverged: .* with training\.lr=1e\+36"):
        run_tiny(tmp_path / "run", "learner=eeil", "learner.balanced_epochs=3")


@pytest.mark.parametrize(
    ("learner", "told"),
    [
        ("abd", "task 2: generator diverged: its loss (content and balance and smooth and "),
        ("ccsi", "synthesis of old classes diverged: its loss (tv) is not a finite number from step 3 of 4 on"),
    ],
)
def test_synthesis_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str, told: str) -> None:
    if learner == "abd":
        far_too_large(monkeypatch, ccsi.synthesis.generation.Adam)
    else:  # images are clamped, so that no rate makes them infinite
        calls, total_variation = [0], ccsi.synthesis.inversion.total_variation

        def fails_later(x: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            return total_variation(x) * (torch.nan if calls[0] == 3 else 1.0)

        monkeypatch.setattr(ccsi.synthesis.inversion, "total_variation", fails_later)
    with pytest.raises(UserError) as refused:
        run_tiny(tmp_path / "run", f"learner={learner}")
    assert str(refused.value).startswith(told)


def watched(*steps: dict[str, float], group: ProcessGroup | None = None) -> str:
    """What is said after some steps of a loss with these terms."""
    watch, group = FiniteTerms("here", "lr"), group or ProcessGroup()
    for step, terms in enumerate(steps, start=1):
        watch.note({name: torch.tensor(value) for name, value in terms.items()}, step)
    try:
        watch.check(steps[0], 9, 0.5, group)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([{"a": 1.0, "b": 2.0}] * 3, ""),
        ([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": torch.inf}, {"a": torch.nan, "b": torch.nan}], "(b) .* step 2 of 9"),
        ([{"a": torch.nan, "b": 2.0}, {"a": 1.0, "b": 1.0}], "(a) .* step 1 of 9"),
        ([{"a": 1.0, "b": 1.0}, {"a": -torch.inf, "b": torch.nan}], "(a and b) .* step 2 of 9"),
    ],
)
def test_what_went_first(steps: list[dict[str, Any]], told: str) -> None:
    message = watched(*steps)
    first, _, where = told.partition(" .* ")
    assert first in message and where in message and bool(message) == bool(told)


def one_of_two() -> str:
    group = ProcessGroup.current()
    return watched({"a": 1.0}, {"a": torch.nan if group.rank else 1.0}, group=group)


def test_all_workers_stop_together(pair: Joined) -> None:
    first, second = pair(one_of_two)
    assert first == second and "(a) is not a finite number from step 2 of 9 on, with lr=0.5" in first
