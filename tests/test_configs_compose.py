"""Every shipped configuration fits the code; every learner and every network runs."""

from pathlib import Path

import pytest
from tiny_run import ANY_LEARNER, TINY, run_tiny

import ccsi.config

ROOT = ccsi.config.config_dir()
GROUPS = ("dataset", "scenario", "model", "learner", "training", "tracking", "experiment")
CHOICES = [f"{group}={choice}" for group in GROUPS for choice in ccsi.config.choices(group)]


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_and_passes_the_checks(choice: str) -> None:
    settings = ccsi.config.load([choice])
    if settings["dataset"].get("path") == "???":  # only the user knows it
        settings = ccsi.config.apply(settings, {"dataset.path": "somewhere"})
    ccsi.config.check(settings)
    ccsi.config.build(settings)  # the objects can be made
    assert "???" not in ccsi.config.to_yaml(settings)


def test_no_group_is_left_out() -> None:
    elsewhere = {"sweep", "resources"}  # tests/sweep
    inside = {"synthesis"}  # composed into each learner that has one
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} == {*GROUPS, *elsewhere, *inside}


@pytest.mark.parametrize("path", sorted((ROOT / "learner").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_learner_runs(path: Path, tmp_path: Path) -> None:
    base = TINY if "synthesis" in ccsi.config.load([f"learner={path.stem}"])["learner"] else ANY_LEARNER
    figures = run_tiny(tmp_path / "run", f"learner={path.stem}", base=base)
    assert figures["learner"] == path.stem and len(figures["accuracy_matrix"]) == 3


@pytest.mark.parametrize("path", sorted((ROOT / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_network_runs(path: Path, tmp_path: Path) -> None:
    figures = run_tiny(
        tmp_path / "run",
        f"model={path.stem}",
        "dataset.size=16",
        "dataset.max_per_class=3",
        "scenario.classes_per_task=5",
        "learner.synthesis.iterations=1",
        "learner.synthesis.per_class=1",
        "evaluate_test=false",
    )
    assert figures["parameters"] > 10_000 and figures["final_accuracy_micro"] is None
    assert [len(row) for row in figures["val"]["accuracy_matrix"]] == [1, 2]
