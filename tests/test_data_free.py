"""Data-free by construction: old images may turn to noise, and no path leads from a learner to other images."""

import functools
import gc
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learners.every import EVERY
from tiny_run import run_tiny

import ccsi.config
import ccsi.experiment
from ccsi.data import Dataset, Digits, Labelled, Source, Task
from ccsi.data.scenario import make_tasks
from ccsi.data.shared import Mapped
from ccsi.evaluation import Evaluator
from ccsi.learners.frozen import FrozenLearner
from ccsi.learners.generative import GenerationLearner, InversionLearner
from ccsi.learners.replay import ReplayLearner
from ccsi.stage import Stages

LEARNERS = sorted(path.stem for path in (ccsi.config.config_dir() / "learner").glob("*.yaml"))
REPRESENTATIVES = ("ccsi", "abd", "icarl", "ncm", "ewc", "joint")
"""One learner of each base class; tests/learners checks every learner, without a run around it."""


def by_speed(name: str, *values: object) -> Any:
    """A parameter set for a learner, slow unless it represents its base class."""
    return pytest.param(*values, marks=() if name in REPRESENTATIVES else pytest.mark.slow)


def test_the_representatives_are_of_every_base_class() -> None:
    bases = (ReplayLearner, InversionLearner, GenerationLearner, FrozenLearner)
    found = [{base for base in bases if issubclass(EVERY[name], base)} for name in REPRESENTATIVES]
    assert set().union(*found) == set(bases) and set() in found
    assert all(len(kinds) <= 1 for kinds in found) and set(REPRESENTATIVES) <= set(LEARNERS)


def poisoned(
    train: Labelled, val: Labelled, plan: list[list[int]], device: torch.device, *options: Any
) -> Iterator[Task]:
    """`make_tasks`, but when the next task is asked for the last one's images, and their originals, are noise.

    So are the files that runs share.
    """
    noise = torch.Generator().manual_seed(0)

    def overwrite(images: torch.Tensor, where: torch.Tensor) -> None:
        images[where] = torch.randint(256, images[where].shape, generator=noise, dtype=torch.uint8)

    for task in make_tasks(train, val, plan, device, *options):
        yield task
        for part in (task.train, task.val):
            overwrite(part.images, torch.ones(len(part), dtype=torch.bool))
        for part in (train, val):
            overwrite(part.images, torch.isin(part.labels, torch.tensor(plan[task.index])))
            if isinstance(part, Mapped):
                np.load(part.file, mmap_mode="r+")[:] = part.images.numpy()
                files = list(part.file.parent.glob(f"{part.file.stem}-*.npy"))
                assert files
                for file in files:
                    images = np.load(file, mmap_mode="r+")
                    images[:] = torch.randint(256, images.shape, generator=noise, dtype=torch.uint8).numpy()


def with_its_own_copy(split: Labelled, *arguments: Any) -> Evaluator:
    """An evaluator whose images stay as they are when a data set's are overwritten."""
    return Evaluator(Labelled(split.images.clone(), split.labels), *arguments)


@pytest.mark.parametrize(
    ("override", "shared"),
    [
        *(by_speed(name, f"learner={name}", name in ("ccsi", "joint", "icarl")) for name in LEARNERS),
        ("learner=ccsi", False),
        ("learner.idc.target=unlabeled_pool", True),
    ],
)
def test_old_images_turned_to_noise(
    override: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run_tiny(tmp_path / "clean", override)
    monkeypatch.setattr(sys.modules["ccsi.experiment.tasks"], "make_tasks", poisoned)
    monkeypatch.setattr(sys.modules["ccsi.experiment.tasks"], "Evaluator", with_its_own_copy)
    place = [f"share_data={tmp_path / 'data'}"] if shared else []
    after = run_tiny(tmp_path / "poisoned", override, *place)
    same = ("weights_sha256", "impressions_sha256", "test", "val")
    assert clean["learner"] in override or "idc" in override
    assert len(clean["test"]["accuracy_matrix"]) == 3
    if not clean["permissions"]:  # of old images it has its own exemplars, if any
        assert {key: after[key] for key in same} == {key: clean[key] for key in same}
    else:  # the poison works
        assert after["weights_sha256"] != clean["weights_sha256"]


# ---- what a learner can reach ----

OPAQUE = (types.ModuleType, type)
FORBIDDEN = (Dataset, Evaluator, Source, Mapped, np.memmap, types.GeneratorType, types.FrameType)


def reachable(*roots: Any) -> list[Any]:
    """Every object that a reference leads to, but for what modules and classes hold (which everybody can import)."""
    globals_of = {id(vars(module)) for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)}
    found: dict[int, Any] = {}
    ahead = list(roots)
    while ahead:
        thing = ahead.pop()
        if id(thing) in found or id(thing) in globals_of or isinstance(thing, OPAQUE):
            continue
        found[id(thing)] = thing
        ahead += gc.get_referents(thing)
    return list(found.values())


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def others() -> set[int]:
    """Storages of all images and labels that a data set or an evaluator holds now."""
    holders = [thing for thing in gc.get_objects() if type(thing) in (Dataset, Evaluator)]
    assert {type(holder) for holder in holders} == {Dataset, Evaluator}
    parts: list[Labelled] = []
    for holder in holders:
        parts += [holder.images] if isinstance(holder, Evaluator) else [holder.train, holder.val, holder.test]
    return {storage(tensor) for part in parts for tensor in (part.images, part.labels)}


def leaks(*roots: Any) -> list[str]:
    """What can be reached and must not be."""
    forbidden = others()
    bad = []
    for thing in reachable(*roots):
        is_image = type(thing) in (torch.Tensor, torch.nn.Parameter) and storage(thing) in forbidden
        if is_image or isinstance(thing, FORBIDDEN):
            bad.append(type(thing).__name__)
    return bad


@pytest.mark.parametrize(
    ("learner", "shared"), [*(by_speed(name, name, name == "joint") for name in LEARNERS), ("ccsi", True)]
)
def test_no_way_from_a_learner_to_other_images(
    learner: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = EVERY["ccsi" if learner == "ci" else learner]
    learn, looked = kind.learn, list[list[str]]()

    def watched(self: Any, task: Task, stages: Stages) -> None:
        looked.append(leaks(self, task, stages))
        learn(self, task, stages)
        looked.append(leaks(self, task, stages))
        if learner != "joint":
            assert set(task.train.labels.tolist()) == set(task.val.labels.tolist()) == set(task.classes)

    monkeypatch.setattr(kind, "learn", watched)
    options = [f"learner={learner}", *([f"share_data={tmp_path / 'data'}"] if shared else [])]
    run_tiny(tmp_path / "run", *options)
    assert looked == [[]] * 6


def in_a_closure(secret: Any) -> Any:
    return lambda: secret


def in_a_frame(secret: Any) -> Iterator[Any]:
    yield secret


class Slotted:
    __slots__ = ("secret",)

    def __init__(self, secret: Any) -> None:
        self.secret = secret

    def method(self) -> None: ...


PLANTS: dict[str, Callable[[Dataset, Evaluator], Any]] = {
    "evaluator": lambda data, evaluator: evaluator,
    "view": lambda data, evaluator: data.test.images[:1, :, 2:],
    "labels": lambda data, evaluator: {"deep": [(data.val.labels.view(-1, 1),)]},
    "closure": lambda data, evaluator: in_a_closure(data.test),
    "default": lambda data, evaluator: lambda x=data.test: x,
    "partial": lambda data, evaluator: functools.partial(print, end=data.test),
    "bound method": lambda data, evaluator: Slotted(evaluator.images).method,
    "generator": lambda data, evaluator: in_a_frame(data),
    "subclass": lambda data, evaluator: torch.nn.Parameter(data.train.images, requires_grad=False),
}


@pytest.mark.parametrize("plant", [None, *PLANTS])
def test_the_walk_finds_what_is_planted(plant: str | None) -> None:
    data = Digits(size=8, max_per_class=2).load()
    evaluator = Evaluator(data.test, [list(range(10))], torch.device("cpu"))

    class Holder:
        pass

    learner, stages = Holder(), Stages()
    if plant is not None:
        vars(stages)["planted"] = PLANTS[plant](data, evaluator)
    assert bool(leaks(learner, stages)) == (plant is not None)
