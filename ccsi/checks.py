"""Types with a range: declared once in a constructor, checked by `ccsi.config` before any work.

The upper bounds are far beyond what is sensible. They keep a typing error from a loop without end, an allocation that
no machine has, or an overflow.
"""

from typing import Annotated, TypeVar

from annotated_types import Ge, Gt, Le, Lt, Predicate, doc

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1), Le(1_000_000)]
AtLeastTwo = Annotated[int, Ge(2), Le(65_536)]
"""For batches: a single image has no batch statistics."""
NonNegativeInt = Annotated[int, Ge(0), Le(1_000_000)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Positive = Annotated[float, Gt(0), Le(1_000_000)]
NonNegative = Annotated[float, Ge(0), Le(1_000_000)]
LearningRate = Annotated[float, Gt(0), Le(1000)]
Pixels = Annotated[int, Ge(1), Le(4096)]
"""The side of an image."""
Share = Annotated[float, Ge(0), Lt(1)]
"""A fraction below 1: [0, 1)."""
ReplayShare = Annotated[float, Ge(0), Le(0.95)]
"""Of an epoch's draws, N / (1 − share) for N new images: at most 20 times as many."""
Probability = Annotated[float, Ge(0), Le(1)]


def is_file_name(text: str) -> bool:
    """Whether text can be a part of one file's or folder's name, in every system."""
    return bool(text) and text.isprintable() and not {*text} & {"/", "\\"} and text not in (".", "..")


FileName = Annotated[str, Predicate(is_file_name), doc("a file's name, printable and without slashes")]

PerTaskShare = Share | list[Share]
PerTaskReplayShare = ReplayShare | list[ReplayShare]
PerTaskNonNegative = NonNegative | list[NonNegative]
PerTaskPositive = Positive | list[Positive]
PerTaskCount = PositiveInt | list[PositiveInt]


def per_task(value: T | list[T], task: int) -> T:
    """The value for the 0-based `task`: a scalar for all tasks, or a list with one value a task from the second on."""
    return value[task - 1] if isinstance(value, list) else value
