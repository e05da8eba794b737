"""Every shipped configuration fits the code; every learner and every network runs."""

from pathlib import Path

import pytest
import torch
from tiny_run import composed, run_tiny

import ccsi.config
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.learners import NetLearner, all_learners
from ccsi.rng import Streams

ROOT = ccsi.config.config_dir()
GROUPS = ("dataset", "scenario", "model", "learner", "training", "tracking", "experiment")
CHOICES = [[f"{group}={choice}"] for group in GROUPS for choice in ccsi.config.choices(group)]
CHOICES += [
    [f"experiment={path.parent.relative_to(ROOT / 'recipe')}", f"learner={path.stem}"]
    for path in (ROOT / "recipe").rglob("*.yaml")  # the recipes of `rivals` are links to these
    if path.stem != "common"
]
CHOICES = [[*choice, *(["dataset=folder"] if choice[0] == "experiment=own" else [])] for choice in CHOICES]


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_composes_and_passes_the_checks(choice: list[str]) -> None:
    settings = composed(*choice)
    if settings["dataset"].get("path") == "???":  # only the user knows it
        settings = ccsi.config.apply(settings, {"dataset.path": "somewhere"})
    ccsi.config.check(settings)
    ccsi.config.build(settings)  # the objects can be made
    assert "???" not in ccsi.config.to_yaml(settings)


def test_no_group_is_left_out() -> None:
    elsewhere = {"sweep", "resources"}  # tests/sweep
    inside = {
        "synthesis",
        "generation",
        "budget",
        "recipe",
    }  # composed into each learner that has one; chosen by experiment and learner
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *GROUPS,
        *elsewhere,
        *inside,
    }


PARTICULAR = [name for name, kind in all_learners().items() if kind.check is not NetLearner.check]
"""The learners that do not fit any settings."""


@pytest.mark.parametrize("name", PARTICULAR)
@pytest.mark.parametrize("data", ["bloodmnist", "dermamnist", "organamnist", "pathmnist", "tissuemnist"])
def test_every_learner_takes_what_the_experiments_of_all_give_it(data: str, name: str) -> None:
    parts = ccsi.config.build(composed(f"experiment=rivals/{data}", f"learner={name}")).keywords
    wanted = {key: parts[key] for key in ("model", "training")}
    learner = parts["learner"](in_channels=3, streams=Streams(0), device=torch.device("cpu"), **wanted)
    learner.check(parts["scenario"].classes_per_task)


RARE = ("resnet34", "resnet50")
"""resnet18 takes the same way; these two are large."""
NETWORKS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in RARE else [])
    for path in sorted((ROOT / "model").glob("*.yaml"))
]


@pytest.mark.parametrize("path", NETWORKS)
def test_every_network_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # 100 MB, synced to disk, twice
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
    assert figures["parameters"] > 10_000 and figures["test"]["micro"] is None
    assert [len(row) for row in figures["val"]["accuracy_matrix"]] == [1, 2]


RELEASE = {  # METHOD section 6: classes a task, share of synthetic images, w_tv, batches of 40, rho, tau
    "bloodmnist": ([2, 2, 2, 2], 0.66, [0.01, 0.001, 0.01], [16, 24, 30], [0.9, 0.999, 0.9], 1.0),
    "pathmnist": ([3, 2, 2, 2], 0.66, [0.01, 0.01, 0.001], [16, 25, 35], [0.99, 0.9, 0.9], 1.0),
    "organamnist": (
        [3, 3, 3, 2],
        [0.66, 0.66, 0.5],
        [0.1, 0.001, 0.1],
        [16, 24, 30],
        [0.9, 0.99, 0.9],
        [1.0, 5.0, 1.0],
    ),
    "tissuemnist": ([2, 2, 2, 2], 0.66, [0.01, 0.001, 0.001], [16, 24, 30], [0.99, 0.99, 0.9], [1.0, 5.0, 5.0]),
}


@pytest.mark.parametrize("name", RELEASE)
def test_the_released_settings_are_those_of_the_table(name: str) -> None:
    settings = ccsi.config.load([f"experiment=release/{name}"])
    learner, training = settings["learner"], settings["training"]
    synthesis, idc = learner["synthesis"], learner["idc"]
    assert (
        settings["scenario"]["classes_per_task"],
        learner["synthetic_ratio"],
        synthesis["w_tv"],
        synthesis["batches"],
        idc["rho"],
        idc["tau"],
    ) == RELEASE[name]
    assert [synthesis[k] for k in ("w_ce", "w_f", "w_l2", "group_size", "per_class")] == [1.0, 1.0, 0.1, 40, None]
    assert [synthesis[k] for k in ("iterations", "lr", "beta1", "beta2", "warmup")] == [5000, 0.05, 0.5, 0.9, 100]
    assert [synthesis[k] for k in ("init", "noise", "jitter", "flip", "stem_weight")] == ["mean", 0.1, 2, 0.5, 10.0]
    assert [learner[k] for k in ("distillation", "w_margin", "w_idc", "margin", "top_k")] == [5.0, 1.0, 1.0, 0.3, 1]
    assert [training[k] for k in ("epochs", "batch_size", "lr", "momentum", "weight_decay")] == [100, 40, 0.1, 0.0, 0.0]
    assert [training[k] for k in ("schedule", "plateau_factor", "plateau_patience")] == ["plateau", 0.3, 5]
    assert not any(value for key, value in training["augment"].items() if key != "_target_")
    assert settings["scenario"]["class_order"] == "natural" and settings["dataset"]["size"] == 32
    assert (settings["dataset"]["fit"], settings["model"]["norm"], settings["model"]["groups"]) == ("pad", "cn", 8)
