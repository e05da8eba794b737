"""The division of a data set into a sequence of tasks with disjoint classes."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from ccsi.checks import PositiveInt
from ccsi.data.dataset import Labelled
from ccsi.errors import UserError
from ccsi.io.text import printable
from ccsi.rng import Streams

MOST_SHOWN = 20  # classes or tasks that a message names


@with_config(ConfigDict(extra="forbid"))
class FirstIncrement(TypedDict):
    """`first` classes in the first task, then `increment` a task."""

    first: PositiveInt
    increment: PositiveInt


@dataclass(frozen=True)
class Task:
    """The data that a learner is handed: one task's own images, on the training device.

    Attributes:
        index: 0 for the first task.
        classes: the task's labels, a range [n_old, n_old + n_new): labels are positions in the class order.
        unlabeled: images without labels, uint8 [N, C, S, S], for a learner whose configuration asks for them by name
            (a transductive setting, named in the record); else None.
    """

    index: int
    classes: range
    train: Labelled
    val: Labelled
    unlabeled: Tensor | None = None


@dataclass(frozen=True)
class Scenario:
    """The order of the classes, and their number in each task.

    Args:
        class_order: `natural`, `shuffle` (by the run's seed), or the list of all classes in order. In it a text is a
            class's name and a whole number its number, so that "2" is the class called 2, and 2 the third one.
        classes_per_task: a number that divides the classes, a list that sums to them, or
            {first: …, increment: …}.
    """

    class_order: Literal["natural", "shuffle"] | list[int | str] = "natural"
    classes_per_task: PositiveInt | list[PositiveInt] | FirstIncrement = 2

    def plan(self, class_names: Sequence[str], streams: Streams) -> list[list[int]]:
        """The original class numbers of each task, in order; UserError if the configuration does not fit them."""
        n_classes = len(class_names)
        if self.class_order == "natural":
            order = list(range(n_classes))
        elif self.class_order == "shuffle":
            order = torch.randperm(n_classes, generator=streams.generator("class order")).tolist()
        else:
            order = [number_of(c, class_names) if isinstance(c, str) else c for c in self.class_order]
            if sorted(order) != list(range(n_classes)):
                names = any(name.isdecimal() for name in class_names)
                hint = """; a class that is called by a number is named in quotes, such as '["10"]'""" if names else ""
                lacking = [name for c, name in enumerate(class_names) if c not in order]
                hint += f"; not named: {', '.join(map(printable, lacking[:MOST_SHOWN]))}" if lacking else ""
                problem = f"expected each of the classes 0 to {n_classes - 1} exactly once{hint}."
                raise UserError(f"scenario.class_order={self.class_order}: {problem}")
        labels = iter(order)
        return [list(islice(labels, size)) for size in self.sizes(n_classes)]

    def sizes(self, n_classes: int) -> list[int]:
        """The number of classes in each task; UserError if they do not sum to `n_classes`."""
        per_task = self.classes_per_task
        if isinstance(per_task, int):
            sizes = [per_task] * (n_classes // per_task)
        elif isinstance(per_task, dict):
            first, increment = per_task["first"], per_task["increment"]
            sizes = [first] + [increment] * ((n_classes - first) // increment)
        else:
            sizes = list(per_task)
        if sum(sizes) != n_classes or not sizes:
            rest = n_classes - sum(sizes)
            fits = [*sizes[:-1], sizes[-1] + rest] if sizes and sizes[-1] + rest > 0 else []
            example = f", such as '[{','.join(map(str, fits))}]'" if 0 < len(fits) <= MOST_SHOWN else ""
            raise UserError(
                f"scenario.classes_per_task={per_task} makes {sum(sizes)} classes, but the data set has {n_classes}; "
                f"expected a number that divides them or a list that sums to them{example}."
            )
        return sizes


def number_of(name: str, class_names: Sequence[str], key: str = "scenario.class_order") -> int:
    """The number of the class with a name; UserError, with the setting's `key`, if there is none, or several."""
    found = [number for number, one in enumerate(class_names) if one == name]
    if len(found) == 1:
        return found[0]
    if found:
        problem = f"the classes {', '.join(map(str, found))} are all called so; expected their numbers."
    else:
        cases = {one.casefold(): one for one in class_names}
        near = [cases[one] for one in difflib.get_close_matches(name.casefold(), cases)]
        few = [*class_names[:10], *(["…"] if len(class_names) > 10 else [])]
        hint = f"did you mean {' or '.join(near)}?" if near else f"expected some of {', '.join(few)}."
        problem = f"there is no class of this name; {hint}"
    raise UserError(f"{key}: {name}: {problem}")


def relabelled(labels: Tensor, classes: list[int], start: int) -> Tensor:
    """`labels` (original numbers) as start, start+1, … in the order of `classes`, and -1 for all others."""
    new_label = torch.full((int(labels.max()) + 1,), -1, dtype=torch.int64)
    new_label[torch.tensor(classes)] = torch.arange(start, start + len(classes))
    return new_label[labels]


def take(part: Labelled, classes: list[int], start: int, device: torch.device) -> Labelled:
    """A copy of the images of `classes` (see `Labelled.subset`), `relabelled`, on `device`."""
    labels = relabelled(part.labels, classes, start)
    keep = (labels >= 0).nonzero()[:, 0]
    return Labelled(part.subset(keep).to(device), labels[keep].to(device))


def make_tasks(
    train: Labelled,
    val: Labelled,
    plan: list[list[int]],
    device: torch.device,
    start: int = 0,
    everything: bool = False,
) -> Iterator[Task]:
    """The tasks of `plan` from number `start` on, each made when it is requested, from splits with original labels.

    Args:
        everything: each task has the images of all classes so far (joint training, by permission).
    """
    for index in range(start, len(plan)):
        seen = [label for classes in plan[: index + 1] for label in classes]
        n_old = len(seen) - len(plan[index])
        classes, first = (seen, 0) if everything else (plan[index], n_old)
        own, own_val = (take(part, classes, first, device) for part in (train, val))
        yield Task(index, range(n_old, len(seen)), own, own_val)
