import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.errors import UserError
from ccsi.sweep.search import TriedConfig, check_optuna, suggest_config
from ccsi.sweep.search_space import grid, parse, sample

SPACE = {
    "learner.w_idc": {"choice": [0, 0.5, [1.0, 2.0], None]},
    "training.lr": {"loguniform": [1e-3, 1e-1]},
    "learner.margin": {"uniform": [0.1, 0.9]},
    "training.epochs": {"randint": [3, 5]},
}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"choose": [1]}, "expected exactly one of choice"),
        ({"choice": [1], "grid": [1]}, "expected exactly one of"),
        ({"choice": []}, "expected a list of values"),
        ({"choice": 3}, "expected a list of values"),
        ({"uniform": [1, 1]}, "low < high"),
        ({"uniform": [1, 2, 3]}, "low < high"),
        ({"uniform": ["a", "b"]}, "two numbers"),
        ({"loguniform": [0, 1]}, "low > 0"),
        ({"randint": [0.5, 2]}, "whole numbers"),
    ],
)
def test_a_malformed_entry_is_named(entry: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=r"sweep\.space\.training\.lr") as caught:
        parse({"training.lr": entry})
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["seed", "run_dir", "threads", "evaluate_test", "report"])
def test_what_the_sweep_sets_itself_cannot_be_swept(key: str) -> None:
    with pytest.raises(UserError, match="the sweep sets it itself"):
        parse({key: {"choice": [1]}})


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_draws_lie_in_the_space_and_repeat_with_the_seed(seed: int, number: int) -> None:
    drawn = sample(parse(SPACE), number, seed)
    assert drawn == sample(parse(SPACE), number, seed)
    assert len(drawn) == number == len({repr(values) for values in drawn})
    for values in drawn:
        assert list(values) == list(SPACE)
        assert values["learner.w_idc"] in [0, 0.5, [1.0, 2.0], None]
        assert 1e-3 <= values["training.lr"] <= 1e-1
        assert 0.1 <= values["learner.margin"] <= 0.9
        assert values["training.epochs"] in (3, 4, 5)
        assert isinstance(values["training.epochs"], int)


def test_more_samples_keep_the_earlier_ones() -> None:
    assert sample(parse(SPACE), 9, seed=3)[:4] == sample(parse(SPACE), 4, seed=3)


def test_a_space_that_is_small_or_huge_takes_no_time() -> None:
    few = {"a": {"choice": [1, 2]}, "b": {"choice": [True, False]}}
    assert len(sample(parse(few), 100_000, 0)) == 4  # and it does not draw ten million times
    huge = {key: {"grid": list(range(50))} for key in "abcd"}
    with pytest.raises(UserError, match=r"^sweep\.space has 6,250,000 combinations; expected at most 100,000"):
        grid(parse(huge))


def test_a_loguniform_draw_is_even_in_the_logarithm() -> None:
    logs = [math.log10(v["k"]) for v in sample(parse({"k": {"loguniform": [1e-4, 1.0]}}), 4000, seed=0)]
    assert abs(sum(logs) / len(logs) + 2) < 0.06  # mean of U(-4, 0), three standard errors: 3 * 4 / sqrt(12 * 4000)
    assert abs(sum(x < -3 for x in logs) / len(logs) - 0.25) < 0.025


def test_both_ends_of_randint_turn_up() -> None:
    assert {v["k"] for v in sample(parse({"k": {"randint": [1, 3]}}), 10, seed=0)} == {1, 2, 3}


def test_grid_is_the_product_and_random_crosses_it() -> None:
    space = parse({"a": {"grid": [1, 2]}, "b": {"choice": ["x", "y", "y"]}})
    assert [tuple(v.values()) for v in grid(space)] == list(itertools.product([1, 2], ["x", "y"]))
    drawn = sample(space, 10, seed=0)
    assert sorted(tuple(v.values()) for v in drawn) == sorted(itertools.product([1, 2], ["x", "y"]))
    assert grid([]) == [{}] == sample([], 5, seed=0)
    with pytest.raises(UserError, match="takes only grid or choice"):
        grid(parse({"a": {"uniform": [0, 1]}}))


def test_values_of_different_types_are_different() -> None:
    assert [d.values for d in parse({"a": {"choice": [1, 1.0, True, 1]}})] == [(1, 1.0, True)]


def test_optuna_refuses_what_it_cannot_search() -> None:
    with pytest.raises(UserError, match="cannot cross"):
        check_optuna(parse({"a": {"grid": [1]}}))
    with pytest.raises(UserError, match="nothing to search"):
        check_optuna([])


def search(number: int, seed: int) -> list[TriedConfig]:
    """A sequential search whose score is best at w = 0.8, b."""
    space = parse({"w": {"uniform": [0, 1]}, "kind": {"choice": ["a", "b", ["c"]]}})
    tried: list[TriedConfig] = []
    for _ in range(number):
        values = suggest_config(space, tried, seed)
        assert values is not None
        assert 0 <= values["w"] <= 1
        assert values["kind"] in ["a", "b", ["c"]]
        tried.append(TriedConfig(values, -abs(values["w"] - 0.8) - (values["kind"] != "b"), "done"))
    return tried


def test_tpe_repeats_resumes_and_beats_random() -> None:
    whole = search(30, seed=1)
    assert whole[:12] == search(12, seed=1)  # an interrupted search told what was done asks the same next
    assert len({one.values["w"] for one in whole}) == 30
    late = sum(one.score or 0.0 for one in whole[15:]) / 15
    assert late > -0.65  # random search: -1.01 (= -0.34 - 0.67), with a standard error of 0.14


def test_tpe_stops_when_a_small_space_is_exhausted() -> None:
    space = parse({"a": {"choice": [1, 2]}})
    tried = [TriedConfig({"a": 1}, 0.1, "done"), TriedConfig({"a": 2}, None, "failed")]
    assert suggest_config(space, tried, 0) is None
    both = [TriedConfig({"a": 1}, None, "running")]
    assert suggest_config(space, both, 0) == {"a": 2}
    assert suggest_config(space, [TriedConfig({"a": 1}, 0.3, "pruned")], 0) == {"a": 2}


def test_two_aims_are_searched_at_once_and_what_was_pruned_is_told_as_bad() -> None:
    space = parse({"w": {"uniform": [0, 1]}})
    tried: list[TriedConfig] = []
    for _ in range(40):  # accuracy min(w, 0.6), seconds w: the front is w <= 0.6; what lies above is pruned
        values = suggest_config(space, tried, 3, two=True)
        assert values is not None
        w = values["w"]
        tried.append(TriedConfig(values, 0.99, "pruned", tasks=1) if w > 0.6 else TriedConfig(values, w, "done", w))
    assert sum(one.state == "pruned" for one in tried[20:]) <= 4  # of 20; at random 8, with a standard error of 2.2
    assert suggest_config(space, tried[:12], 3, two=True) == tried[12].values


def test_earlier_scores_lead_the_search_but_do_not_count_as_tried() -> None:
    space = parse({"w": {"uniform": [0, 1]}})
    earlier = [TriedConfig({"w": n / 40}, -abs(n / 40 - 0.8), "done") for n in range(40)]
    led = [suggest_config(space, [], seed, earlier) or {"w": 9.0} for seed in range(20)]
    assert sum(abs(values["w"] - 0.8) for values in led) / 20 < 0.2  # at random: 0.34, with a standard error of 0.05
    small = parse({"a": {"choice": [1, 2]}})
    known = [TriedConfig({"a": 1}, 0.1, "done"), TriedConfig({"a": 2}, 0.2, "done")]
    first = suggest_config(small, [], 0, known)
    assert first is not None
    second = suggest_config(small, [TriedConfig(first, 0.3, "done")], 0, known)
    assert second is not None
    assert {first["a"], second["a"]} == {1, 2}


def test_what_a_dimension_holds() -> None:
    kinds = {"a": {"choice": [1, None]}, "b": {"randint": [1, 3]}, "c": {"loguniform": [0.1, 2]}}
    a, b, c = parse(kinds)
    assert [a.holds(v) for v in (1, 1.0, True, None, 2)] == [True, False, False, True, False]
    assert [b.holds(v) for v in (1, 3, 4, 2.0, True)] == [True, True, False, False, False]
    assert [c.holds(v) for v in (0.1, 1, 2.5, True, "x", None)] == [True, True, False, False, False, False]
    assert repr(c.as_drawn(1)) == "1.0"
    assert repr(b.as_drawn(1)) == "1"


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "randint"])
@pytest.mark.parametrize("ends", [[1, float("inf")], [1, 10**400], [1, 1e308], [float("nan"), 1]])
def test_ranges_that_numpy_cannot_draw_from_are_refused(kind: str, ends: list[Any]) -> None:
    with pytest.raises(UserError, match=f"sweep.space.a.{kind}="):
        parse({"a": {kind: ends}})
    with pytest.raises(UserError, match="expected numbers from"):
        parse({"a": {"randint": [0, 2**63]}})


def test_a_space_of_too_many_combinations_is_refused_and_a_small_one_is_drawn_at_once() -> None:
    with pytest.raises(UserError, match="has 1,000,000 combinations"):
        grid(parse({key: {"choice": list(range(10))} for key in "abcdef"}))
    small = parse({"a": {"choice": [1, 2]}, "b": {"randint": [0, 1]}, "c": {"grid": [1, 2, 3]}})
    assert len(sample(small, 100_000, seed=0)) == 2 * 2 * 3  # and no 10 million draws
