"""Six easy classes in three tasks of 8 x 8 pixels, and learners small enough to run in a second."""

import copy
from functools import partial

import pytest
import torch
from every import EVERY

from ccsi.data import Labelled
from ccsi.data.scenario import make_tasks
from ccsi.learners import ExemplarBudget, IdC, NetLearner
from ccsi.learners.generative import GenerationLearner, InversionLearner
from ccsi.learners.replay import ReplayLearner
from ccsi.models.backbones import ResidualNet, initialise
from ccsi.rng import Streams
from ccsi.stage import Stages
from ccsi.synthesis import Generation, Synthesis
from ccsi.training import Training

PLAN = [[0, 1], [2, 3, 4], [5]]


def tiny(in_channels: int, generator: torch.Generator, norm: str = "cn") -> ResidualNet:
    net = ResidualNet(in_channels, [8, 16], 1, 1, 2, True, 4 if norm == "cn" else None)
    initialise(net, generator)
    return net


def patterns(n: int, seed: int) -> Labelled:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 6
    images = torch.randint(0, 60, (n, 1, 8, 8), generator=g)
    for i, c in enumerate(labels.tolist()):
        images[i, 0, 1 + c % 3 * 2 : 3 + c % 3 * 2, 1 + c // 3 * 3 : 4 + c // 3 * 3] += 180
    return Labelled(images.to(torch.uint8), labels)


@pytest.fixture
def tasks():
    """A function that makes the three tasks anew."""
    return lambda **options: list(make_tasks(patterns(96, 0), patterns(36, 1), PLAN, torch.device("cpu"), **options))


@pytest.fixture
def make():
    """A function of a learner's name and its settings (those of training and synthesis as dicts)."""

    def make(
        kind: str = "ccsi",
        seed: int = 0,
        norm: str = "cn",
        training=None,
        synthesis=None,
        idc=None,
        generation=None,
        **options,
    ):
        common = {
            "model": partial(tiny, norm=norm),
            "in_channels": 1,
            "training": Training(**{"epochs": 2, "batch_size": 16, "lr": 0.1} | (training or {})),
            "streams": Streams(seed),
            "device": torch.device("cpu"),
        }
        made = EVERY[kind]
        if issubclass(made, InversionLearner):
            few = {"iterations": 4, "warmup": 1, "per_class": 6, "group_size": 6}
            few |= {"init": "noise", "class_moments": 0.0} if kind == "deep_inversion" else {}
            common["synthesis"] = Synthesis(**few | (synthesis or {}))
        if issubclass(made, GenerationLearner):
            common["generation"] = Generation(
                **{"steps": 6, "batch_size": 8, "latent": 8, "width": 8} | (generation or {})
            )
        if issubclass(made, ReplayLearner):
            options = {"budget": ExemplarBudget(per_class=4)} | options
        if kind == "ccsi":
            common["idc"] = IdC(**(idc or {}))
        if kind in ("acil", "ds_al"):
            options = {"expansion": 64} | options
        if kind == "bic":
            options = {"held_out": 0.5} | options
        if kind in ("eeil", "r_dfcil"):
            options = {"balanced_epochs" if kind == "eeil" else "refine_epochs": 1} | options
        return made(**common, **options)

    return make


TRAINED: dict[str, NetLearner] = {}
"""Learners after some tasks, trained once a session."""


@pytest.fixture
def learned(make, tasks):
    """A function that makes a learner and lets it learn so many tasks: a copy, unless it is asked for `fresh`."""

    def learned(n_tasks: int, kind: str = "ccsi", fresh: bool = False, **options):
        key = f"{kind} {n_tasks} {sorted(options.items())}"
        if not fresh and key in TRAINED:
            return copy.deepcopy(TRAINED[key])
        shorter = n_tasks and not fresh
        learner = learned(n_tasks - 1, kind, **options) if shorter else make(kind, **options)
        for task in tasks(everything=kind == "joint")[n_tasks - 1 if shorter else 0 : n_tasks]:
            learner.learn(task, Stages())
        if not fresh:
            TRAINED[key] = copy.deepcopy(learner)
        return learner

    return learned


@pytest.fixture
def same():
    """Whether two learners have the same weights, to the bit."""

    def same(a, b) -> bool:
        x, y = a.net.state_dict(), b.net.state_dict()
        return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)

    return same
