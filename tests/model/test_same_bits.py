"""A model that is fitted and extended has the bits of one run over the same tasks, for every learner."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import FEW, composed

import ccsi.config
from ccsi.data import Digits
from ccsi.learners import all_learners
from ccsi.model import Model, fit, load

QUIET = ["tracking.console.quiet=true", "report=false"]
SIZES = [2, 2, 2, 4]
TINY = [
    "experiment=own",
    "dataset.size=8",
    "dataset.max_per_class=10",
    "training.epochs=1",
    "training.first_epochs=1",
    "device=cpu",
    *QUIET,
]
EXTENSIBLE = sorted({"ci", *all_learners()} - {"joint"})


def few(learner: str) -> list[str]:
    """What makes a learner fast."""
    known = ccsi.config.flat(composed(f"learner={learner}"))
    return [f"learner.{key}={value}" for key, value in FEW.items() if f"learner.{key}" in known]


def run_of(folder: Path, learner: str, *more: str) -> dict[str, Any]:
    """The result of one run over the tasks."""
    typed = [f"learner={learner}", *TINY, *few(learner), *more]
    tasks = [f"scenario.classes_per_task={SIZES}".replace(" ", ""), f"run_dir={folder}"]
    return dict(ccsi.config.build(ccsi.config.from_arguments([*typed, *tasks]))().figures)


def check_same(model: Model, result: dict[str, Any]) -> None:
    """Weights after the last task, impressions of each, val figures of the last task's classes, what is kept."""
    tasks = model.record.tasks
    assert tasks[-1].weights_sha256 == result["weights_sha256"]
    assert [one for task in tasks if (one := task.impressions_sha256)] == result["impressions_sha256"]
    assert tasks[-1].val.confusion == result["val"]["confusion"][-1][-SIZES[-1] :]
    assert tasks[-1].test is not None and tasks[-1].test.confusion == result["test"]["confusion"][-1][-SIZES[-1] :]
    for k, task in enumerate(tasks):
        assert task.val.accuracy == pytest.approx(result["val"]["accuracy_matrix"][k][k])
        stored = [{"kind": item.kind, "count": item.count, "bytes": item.bytes} for item in task.stored]
        assert stored == result["stored_after_task"][k]


@pytest.mark.parametrize("learner", EXTENSIBLE)
def test_fit_and_extend_is_one_run(tmp_path: Path, learner: str) -> None:
    result = run_of(tmp_path / "run", learner, "dataset=digits")
    own = [f"learner={learner}", *TINY, *few(learner)]
    fit("digits", out=tmp_path / "model1", overrides=[*own, "classes=[0,1]"])
    for k, classes in enumerate(("[2,3]", "[4,5]", "[6,7,8,9]"), start=2):
        old = load(tmp_path / f"model{k - 1}")
        old.extend("digits", out=tmp_path / f"model{k}", overrides=[f"classes={classes}", *QUIET])
        shutil.rmtree(tmp_path / f"model{k - 1}")
    check_same(load(tmp_path / "model4"), result)


@pytest.mark.parametrize("learner", ["acil", "er"])
def test_from_folders_of_new_classes_alone(tmp_path: Path, learner: str) -> None:
    """Class folders without splits: which image goes where does not depend on the other classes."""
    data, firsts = Digits(size=8).load(), np.cumsum([0, *SIZES])
    for number, (image, label) in enumerate(zip(data.train.images.numpy(), data.train.labels.tolist(), strict=True)):
        task = int(np.searchsorted(firsts, label, side="right"))
        for part in (tmp_path / "all", tmp_path / f"part{task}"):
            file = part / f"class {label}" / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(file)
    result = run_of(tmp_path / "run", learner, "dataset=folder", f"dataset.path={tmp_path / 'all'}")
    own = [f"learner={learner}", *TINY, *few(learner)]
    model = fit(tmp_path / "part1", overrides=own)
    for task in (2, 3, 4):
        model = model.extend(tmp_path / f"part{task}", overrides=[*QUIET])
    check_same(model, result)
    assert [task.data_sha256 for task in model.record.tasks] != [result["dataset"]["checksum"]] * 4
