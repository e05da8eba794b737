"""Herding against brute force, and budgets."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from ccsi.errors import UserError
from ccsi.learners.parts.exemplars import ExemplarBudget, herding
from ccsi.rng import Streams


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_the_greedy_choice_of_the_nearest_mean(seed: int) -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
    unit = F.normalize(features.double())
    mean, chosen = unit.mean(0), list[int]()
    for _ in range(6):
        left = [i for i in range(9) if i not in chosen]
        chosen.append(min(left, key=lambda i: (unit[[*chosen, i]].mean(0) - mean).norm().item()))
    assert herding(features, 6).tolist() == chosen


def test_herding_of_all_is_all_and_beats_most_choices() -> None:
    features = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert sorted(herding(features, 8).tolist()) == list(range(8))
    unit = F.normalize(features.double())

    def far(chosen: tuple[int, ...]) -> float:
        return float((unit[list(chosen)].mean(0) - unit.mean(0)).norm())

    every = sorted(far(chosen) for chosen in itertools.combinations(range(8), 3))
    assert far(tuple(herding(features, 3).tolist())) <= every[len(every) // 4]


def test_a_budget_is_for_each_class_or_for_all() -> None:
    assert [ExemplarBudget(per_class=7).quota(n) for n in (1, 9)] == [7, 7]
    assert [ExemplarBudget(total=20).quota(n) for n in (1, 3, 21)] == [20, 6, 0]
    for both in ({}, {"per_class": 1, "total": 1}):
        with pytest.raises(UserError, match="expected one of them"):
            ExemplarBudget(**both)


def test_a_random_choice_is_the_seeds() -> None:
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    budget = ExemplarBudget(per_class=5, selection="random")
    one, two, other = (budget.ranked(features, 5, Streams(seed), 3).tolist() for seed in (0, 0, 1))
    assert one == two != other
    assert len(set(one)) == 5
