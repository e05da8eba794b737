"""Class orders, task sizes, and the tasks themselves against a plain loop."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccsi.data import Dataset, Labelled, Scenario, make_tasks
from ccsi.errors import UserError
from ccsi.rng import Streams

CPU = torch.device("cpu")


def deal(asked: Any, n: int) -> Iterator[int]:
    """Task sizes by handing out one class after the other; ends early or late if they do not fit."""
    if isinstance(asked, list):
        yield from asked
        return
    left = n
    size = asked["first"] if isinstance(asked, dict) else asked
    while left > 0:
        yield size
        left -= size
        size = asked["increment"] if isinstance(asked, dict) else asked


per_task = (
    st.integers(1, 8)
    | st.lists(st.integers(1, 5), max_size=6)
    | st.fixed_dictionaries({"first": st.integers(1, 8), "increment": st.integers(1, 5)})
)


@given(asked=per_task, n=st.integers(1, 12))
def test_sizes(asked: Any, n: int) -> None:
    expected = list(deal(asked, n))
    if sum(expected) == n:
        assert Scenario(classes_per_task=asked).sizes(n) == expected
    else:
        with pytest.raises(UserError, match=r"scenario\.classes_per_task="):
            Scenario(classes_per_task=asked).sizes(n)


@pytest.mark.parametrize(
    ("asked", "n", "example"), [(2, 7, "[2,2,3]"), ([3, 5], 7, "[3,4]"), ({"first": 3, "increment": 2}, 8, "[3,2,3]")]
)
def test_sizes_that_fit_are_shown(asked: Any, n: int, example: str) -> None:
    with pytest.raises(UserError) as caught:
        Scenario(classes_per_task=asked).sizes(n)
    assert str(caught.value).endswith(f" a list that sums to them, such as '{example}'.")


@given(n=st.integers(1, 12), seed=st.integers(0, 5), data=st.data())
def test_plan(n: int, seed: int, data: st.DataObject) -> None:
    sizes = [len(part) for part in torch.split(torch.arange(n), data.draw(st.integers(1, n)))]
    explicit = data.draw(st.permutations(range(n)))
    for order in ("natural", "shuffle", list(explicit)):
        plan = Scenario(class_order=order, classes_per_task=sizes).plan(list(map(str, range(n))), Streams(seed))
        flat = [label for task in plan for label in task]
        assert [len(task) for task in plan] == sizes
        assert sorted(flat) == list(range(n))
        if order != "shuffle":
            assert flat == (list(range(n)) if order == "natural" else explicit)
        assert plan == Scenario(class_order=order, classes_per_task=sizes).plan(list(map(str, range(n))), Streams(seed))


def test_shuffle_depends_on_the_seed() -> None:
    scenario = Scenario(class_order="shuffle", classes_per_task=5)
    assert len({str(scenario.plan(list(map(str, range(10))), Streams(seed))) for seed in range(5)}) == 5


@pytest.mark.parametrize("order", [[0, 1, 1, 3], [0, 1, 2], [0, 1, 2, 4], [1, 2, 3, 4], []])
def test_wrong_orders(order: list[int]) -> None:
    with pytest.raises(UserError, match=r"scenario\.class_order=.*classes 0 to 3 exactly once"):
        Scenario(class_order=order, classes_per_task=2).plan(list("abcd"), Streams(0))


CELLS = ("basophil", "Eosinophil", "2", "platelet", "10")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["platelet", "2", "basophil", "Eosinophil", "10"], [3, 2, 0, 1, 4]),
        (["10", 2, "basophil", 1, "platelet"], [4, 2, 0, 1, 3]),  # names and numbers
        (["2", "10", 0, 1, 3], [2, 4, 0, 1, 3]),  # a text is a name
        ([2, 4, 0, 1, 3], [2, 4, 0, 1, 3]),  # a number is a number, though classes are called 2 and 10
    ],
)
def test_an_order_of_names(order: list[int | str], expected: list[int]) -> None:
    plan = Scenario(class_order=order, classes_per_task=[2, 3]).plan(CELLS, Streams(0))
    assert plan == [expected[:2], expected[2:]]


@pytest.mark.parametrize(
    ("order", "names", "problem"),
    [
        (["basophi"], CELLS, r"basophi: there is no class of this name; did you mean basophil\?$"),
        (["eosinophil"], CELLS, r"eosinophil: .* did you mean Eosinophil"),
        (["x"], CELLS, r"x: .*; expected some of basophil, Eosinophil, 2, platelet, 10\.$"),
        (["3"], CELLS, "3: there is no class of this name"),
        (
            [2, 10, 0, 1, 3],
            CELLS,
            r"""0 to 4 exactly once; a class .* in quotes, such as '\["10"\]'; not named: 10\.$""",
        ),
        (["a", "b"], ["a", "b", "a"], "a: the classes 0, 2 are all called so; expected their numbers"),
    ],
)
def test_wrong_names_in_an_order(order: list[int | str], names: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=rf"^scenario\.class_order.*{problem}"):
        Scenario(class_order=order).plan(names, Streams(0))


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Dataset, int]:
    """Splits with at least one image of each class; every image holds its own number in two bytes."""
    n = draw(st.integers(1, 6))
    parts = []
    for split in range(3):
        extra = draw(st.lists(st.integers(0, n - 1), max_size=15))
        labels = draw(st.permutations([*range(n), *extra]))
        numbers = torch.arange(len(labels)) + 100 * split
        images = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2)
        parts.append(Labelled(images, torch.tensor(labels)))
    return Dataset("own", tuple(map(str, range(n))), parts[0], parts[1], parts[2], checksum=""), n


def pairs(part: Labelled) -> list[tuple[int, int]]:
    return [
        (256 * int(image[0, 0, 0]) + int(image[0, 0, 1]), int(label))
        for image, label in zip(*vars(part).values(), strict=True)
    ]


@given(made=datasets(), seed=st.integers(0, 3), data=st.data(), everything=st.booleans())
def test_tasks(made: tuple[Dataset, int], seed: int, data: st.DataObject, everything: bool) -> None:
    dataset, n = made
    size = data.draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
    plan = Scenario(class_order="shuffle", classes_per_task=size).plan(list(map(str, range(n))), Streams(seed))
    order = [label for task in plan for label in task]
    start = data.draw(st.integers(0, len(plan)))
    tasks = list(make_tasks(dataset.train, dataset.val, plan, CPU, start, everything))
    assert [task.index for task in tasks] == list(range(start, len(plan)))
    for task in tasks:
        first, end = task.index * size, (task.index + 1) * size
        assert task.classes == range(first, end) and task.unlabeled is None
        wanted = range(end) if everything else range(first, end)
        for part, whole in ((task.train, dataset.train), (task.val, dataset.val)):
            expected = [(number, order.index(label)) for number, label in pairs(whole) if order.index(label) in wanted]
            assert pairs(part) == expected
    if start == 0 and not everything:
        seen = [number for task in tasks for number, _ in pairs(task.train)]
        assert sorted(seen) == sorted(number for number, _ in pairs(dataset.train))


def test_a_task_shares_no_memory_with_the_data_set() -> None:
    """Overwriting a task's images (the poison test) must not reach the data that the evaluator holds."""
    images = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1)
    part = Labelled(images.clone(), torch.zeros(8, dtype=torch.int64))
    dataset = Dataset("own", ("0",), part, part, part, checksum="")
    (task,) = make_tasks(dataset.train, dataset.val, [[0]], CPU)
    task.train.images.fill_(255)
    task.train.labels.fill_(-1)
    assert torch.equal(dataset.train.images, images) and not dataset.train.labels.any()
