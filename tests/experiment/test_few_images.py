"""A class or a task of one image: a run works to its end, or it is refused before anything starts."""

from pathlib import Path

import numpy as np
import pytest
from tiny_run import composed, run_tiny, tiny

import ccsi.config
import ccsi.experiment
from ccsi.errors import UserError

LEARNERS = [name for name in ccsi.config.choices("learner") if "/" not in name]
ONE_OF_A_CLASS = ([1, 4, 4, 1, 1, 4], [2, 2, 2])
ONE_IN_THE_FIRST = ([1, 4, 4, 4, 4], [1, 2, 2])
ONE_LATER = ([4, 4, 1, 4, 4], [2, 1, 2])
ONE_IN_THE_LAST = ([4, 4, 4, 4, 1], [2, 2, 1])
REPLAY = {"ccsi", "ci", "deep_inversion", "eeil", "er", "icarl", "joint", "lucir"}
"""Those for which one new image is not all that a later task is trained on; BiC also replays, but holds it out."""
FROZEN = {"acil", "ds_al", "fecam", "fetril", "ncm"}
"""Those that train nothing on later tasks."""


def settings(folder: Path, learner: str, counts: list[int], sizes: list[int]) -> list[str]:
    """A run's settings on a file of random images, `counts` of each class to train on."""
    draw, arrays = np.random.default_rng(0), {}
    for split, n in (("train", counts), ("val", [2] * len(counts)), ("test", [2] * len(counts))):
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(n)), n)
        arrays[f"{split}_images"] = draw.integers(0, 256, (sum(n), 8, 8), dtype=np.uint8)
    np.savez(folder / "few.npz", **arrays)
    few = {"dataset": "npz", "dataset.size": 8, "scenario.classes_per_task": f"{sizes}".replace(" ", "")}
    few |= {"dataset.path": folder / "few.npz", "dataset.max_per_class": "null"}
    return [f"learner={learner}", *(f"{key}={value}" for key, value in few.items())]


def is_refused(folder: Path, typed: list[str]) -> str:
    """The sentence with which a run is refused, of which nothing is left; empty if it runs to its end."""
    try:
        run_tiny(folder / "run", *typed)
    except UserError as error:
        assert not (folder / "run").exists(), "it had begun"
        assert str(error).count(". ") == 0
        return str(error)
    assert (folder / "run/result.json").exists()
    return ""


QUICK = {"bic", "fecam", "pass", "r_dfcil"}


@pytest.mark.parametrize(
    "learner", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LEARNERS]
)
def test_a_class_of_one_image(tmp_path: Path, learner: str) -> None:
    message = is_refused(tmp_path, settings(tmp_path, learner, *ONE_OF_A_CLASS))
    assert message == ""


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_first_task_of_one_image(tmp_path: Path, learner: str) -> None:
    message = is_refused(tmp_path, settings(tmp_path, learner, *ONE_IN_THE_FIRST))
    assert message.startswith("task 1 has 1 training image, and learner=")


LATER = [(ONE_LATER, name) for name in LEARNERS] + [(ONE_IN_THE_LAST, name) for name in LEARNERS]
ALWAYS = [(ONE_LATER, name) for name in LEARNERS if name in ("ccsi", "joint", "ncm") or name not in REPLAY | FROZEN]


@pytest.mark.parametrize(
    ("counts", "learner"), [pytest.param(*one, marks=() if one in ALWAYS else pytest.mark.slow) for one in LATER]
)
def test_a_later_task_of_one_image(tmp_path: Path, counts: tuple[list[int], list[int]], learner: str) -> None:
    message = is_refused(tmp_path, settings(tmp_path, learner, *counts))
    assert bool(message) == (learner not in REPLAY | FROZEN), message


def test_the_rehearsal_of_a_sweep_refuses_it_too(tmp_path: Path) -> None:
    typed = settings(tmp_path, "ewc", *ONE_LATER)
    groups, keys = [[one for one in typed if ("." in one.split("=")[0]) is dotted] for dotted in (False, True)]
    base = composed(*tiny("ewc"), *groups)
    values = {one.key_or_group: one.value() for one in ccsi.config.parse(keys)}
    config = ccsi.config.apply(base, values | {"run_dir": str(tmp_path / "run")})
    with pytest.raises(UserError, match="task 2 has 1 training image, and learner=ewc would draw 1 an epoch"):
        ccsi.config.build(config | {"_target_": ccsi.experiment.validate})()


@pytest.mark.parametrize(("ratio", "works"), [(0.66, True), (0.2, False)])
def test_a_ratio_that_leaves_one_draw(tmp_path: Path, ratio: float, works: bool) -> None:
    typed = [*settings(tmp_path, "ccsi", *ONE_LATER), f"learner.synthetic_ratio={ratio}"]
    assert bool(is_refused(tmp_path, typed)) != works


def test_bic_says_how_many_it_holds_out(tmp_path: Path) -> None:
    typed = [*settings(tmp_path, "bic", [9, 9, 3, 9], [2, 2]), "learner.budget.per_class=8", "learner.held_out=0.4"]
    assert "task 2 has a class of 3 training images, but learner=bic holds out 3 of each class" in is_refused(
        tmp_path, typed
    )
