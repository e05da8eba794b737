"""From what was typed to a checked configuration."""

import types
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError

from ccsi import config
from ccsi.checks import PerTaskShare, PositiveInt
from ccsi.config.tree import ADDED
from ccsi.data.scenario import FirstIncrement
from ccsi.errors import UserError

flat = config.flat
WORD = st.text("abcdefgh_", min_size=1, max_size=6)
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="$\ufeff")),
    st.sampled_from(["null", "true", "yes", "1e5", "1_000", "0x1f", "2024-01-01", "~", "- a", "a: b", "#", "", " x "]),
    st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
NODE = st.recursive(VALUE, lambda inner: st.dictionaries(WORD, inner, min_size=1, max_size=3))
TREE = st.dictionaries(WORD, NODE, max_size=4)


@given(TREE)
@settings(deadline=None)
def test_setting_every_key_to_its_own_value_changes_nothing(tree: dict[str, Any]) -> None:
    assert config.apply(tree, flat(tree)) == tree


@given(TREE, st.data())
@settings(deadline=None)
def test_apply_sets_the_key_and_no_other(tree: dict[str, Any], data: st.DataObject) -> None:
    before = flat(tree)
    if before:
        key, value = data.draw(st.sampled_from(sorted(before))), data.draw(VALUE)
        assert flat(config.apply(tree, {key: value})) == before | {key: value}
    missing = data.draw(WORD.map(lambda word: f"{word}.zz"))
    with pytest.raises(UserError, match=rf"^{missing} is not a setting"):
        config.apply(tree, {missing: 1})
    assert flat(tree) == before


@given(TREE)
@settings(deadline=None)
def test_a_file_holds_what_was_written(tree: dict[str, Any]) -> None:
    read = OmegaConf.to_container(OmegaConf.create(config.to_yaml(tree)))
    assert read == tree
    assert isinstance(read, dict)
    kinds = [[type(value) for value in flat(settings).values()] for settings in (read, tree)]  # type: ignore[arg-type]
    assert kinds[0] == kinds[1]  # 1 == 1.0 == True


@given(st.integers(-20, 20), st.integers(0, 20), st.integers(-50, 50))
def test_a_range_is_told_as_it_is_checked(low: int, width: int, value: int) -> None:
    hint = Annotated[int, Ge(low), Le(low + width)]
    assert config.describe(hint) == f"a whole number >= {low} and <= {low + width}"
    assert accepts(hint, value) == (low <= value <= low + width)


HINT = st.recursive(
    st.sampled_from([int, float, str, bool, Literal["a", 1], Annotated[float, Gt(0), Lt(1)], FirstIncrement]),
    lambda inner: inner.map(lambda hint: types.GenericAlias(list, hint)) | inner.map(lambda hint: Optional[hint]),  # noqa: UP045
    max_leaves=5,
)


@given(HINT)
def test_every_hint_has_words(hint: Any) -> None:
    words = config.describe(hint)
    assert words and words == words.strip()
    assert not any(sign in words for sign in ("typing", "Annotated", "<class", "Optional", "ccsi."))


def accepts(hint: Any, value: Any) -> bool:
    try:
        config.adapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (PositiveInt, [1, 10**6], [0, -1, 10**6 + 1, 2**64, 1.0, "1", True, None, [1]]),
        (float, [1, 0.5, -2.0], [float("nan"), float("inf"), "1", True, None]),
        (PerTaskShare, [0, 0.5, [], [0.1, 0]], [1, -0.1, [0.5, 1], float("nan"), [float("nan")], ["0.5"], {"a": 1}]),
        (bool, [True, False], [0, 1, "true", None]),
        (str | None, ["", "x", None], [1, ["x"]]),
        (
            PositiveInt | list[PositiveInt] | FirstIncrement,
            [2, [1, 2], {"first": 4, "increment": 2}],
            [
                {"first": 4},
                {"first": "4", "increment": 2},
                {"first": 4, "increment": 0},
                {"first": 4, "increment": 2, "x": 1},
                "2",
                2.0,
            ],
        ),
    ],
)
def test_checks_are_strict(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not accepts(hint, value)] == []
    assert [value for value in bad if accepts(hint, value)] == []


def test_dotted_keys() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {"a.b": 1, "a.c.d": [2], "e": None, "f": {}}


def without_added(tree: Any) -> Any:
    """A configuration without the keys that earlier versions did not have."""
    for key in ADDED:
        *path, last = key.split(".")
        reduce(getitem, path, tree).pop(last, None)
    return tree


def test_keys_that_earlier_versions_lacked_count_in_a_hash_only_if_they_change_something() -> None:
    now = config.load(["learner=icarl", "dataset.draw=together"])
    assert config.original_keys(now) == config.original_keys(without_added(config.load(["learner=icarl"])))
    changed = config.original_keys(config.load(["learner=icarl", "training.steps=9"]))
    assert changed["training"]["steps"] == 9 and "first_steps" not in changed["training"]


def test_targets_of_earlier_versions_have_new_names_in_what_is_read_and_old_ones_in_a_hash(tmp_path: Path) -> None:
    now = without_added(config.load(["learner=icarl"]))
    assert now["learner"]["budget"]["_target_"] == "ccsi.learners.ExemplarBudget"
    before = config.original_keys(now)
    assert before["learner"]["budget"]["_target_"] == "ccsi.exemplars.Budget"
    assert config.current_targets(before) == now and before["dataset"] == now["dataset"]
    other = without_added(config.load(["learner=ccsi"]))
    assert "together" in config.original_keys(other)["learner"]["synthesis"]
    assert config.current_targets(config.original_keys(other)) == other != config.original_keys(other)
    (tmp_path / "old.yaml").write_text(config.to_yaml(before))
    assert config.from_arguments([str(tmp_path / "old.yaml")]) == now


def test_the_sentences() -> None:
    assert config.describe(PositiveInt | None) == "a whole number >= 1 and <= 1000000, or null"
    assert config.describe(PerTaskShare) == "a number >= 0 and < 1, or a list, each entry a number >= 0 and < 1"
    assert config.describe(Literal["a", None]) == "one of a, null"
    assert config.describe(FirstIncrement) == "{first: …, increment: …}"
    shown = [config.shown(value) for value in (None, True, False, 1, 0, 1.0, "x")]
    assert shown == ["null", "true", "false", "1", "0", "1.0", "x"]


def without(*path: str) -> Any:
    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return change


def put(value: Any, *path: str) -> Any:
    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("dataset"), "dataset is missing"),
        (without("name"), "name is missing"),
        (without("dataset", "name"), None),  # digits have a default
        (without("learner", "synthesis"), "learner.synthesis is missing"),
        (without("learner", "_target_"), "learner: expected a group of settings with a _target_"),
        (without("learner", "idc", "_target_"), "learner.idc: expected a group of settings with a _target_"),
        (put("joint", "learner"), "learner: expected a group of settings"),
        (put(None, "model"), "model: expected a group of settings"),
        (
            put({"shift": 2}, "training", "augment"),
            "training.augment={'shift': 2}: expected a group of settings",
        ),
        (put(None, "training", "augment"), None),
        (put("ccsi.nothing", "model", "_target_"), "model._target_=ccsi.nothing: expected"),
        (put("nothing", "model", "_target_"), "model._target_=nothing: expected"),
        (put(3, "model", "_target_"), "model._target_=3: expected"),
        (put(1, "learner", "foo"), "learner.foo is not a setting"),
        (put("???", "seed"), "seed is not set; expected a whole number >= 0"),
    ],
)
def test_a_file_written_by_hand(change: Any, words: str | None) -> None:
    tree = config.load([])
    change(tree)
    if words is None:
        config.check(tree)
    else:
        with pytest.raises(UserError) as caught:
            config.check(tree)
        assert str(caught.value).startswith(words)


def test_a_name_unless_one_is_given() -> None:
    assert config.load(["learner=ci"])["name"] == "digits-ci"
    assert config.load(["name=mine"])["name"] == "mine"


def test_loading_leaves_no_trace() -> None:
    first = config.load(["seed=3"])
    config.load(["learner=joint", "dataset=fashionmnist"])
    assert config.load(["seed=3"]) == first


def test_a_file_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    tree = config.load(["learner.idc.rho=[0.9,0.8,0.7,0.6]", "dataset.max_per_class=7"])
    path.write_text(config.to_yaml(tree))
    assert config.from_arguments([str(path)]) == tree
    changed = config.from_arguments([str(path), "seed=5", "learner.idc.rho=0.5", "run_dir='a b'"])
    assert flat(changed) == flat(tree) | {"seed": 5, "learner.idc.rho": 0.5, "run_dir": "a b"}
