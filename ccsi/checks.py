"""Types with a range: declared once in a constructor, checked by `ccsi.config` before any work."""

from typing import Annotated, TypeVar

from annotated_types import Ge, Gt, Le, Lt, Predicate, doc

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
AtLeastTwo = Annotated[int, Ge(2)]
"""For batches: a single image has no batch statistics."""
NonNegativeInt = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
"""A fraction below 1: [0, 1)."""
Probability = Annotated[float, Ge(0), Le(1)]


def is_file_name(text: str) -> bool:
    """Whether text can be a part of one file's or folder's name, in every system."""
    return bool(text) and text.isprintable() and not {*text} & {"/", "\\"} and text not in (".", "..")


FileName = Annotated[str, Predicate(is_file_name), doc("a file's name, printable and without slashes")]

PerTaskShare = Share | list[Share]
PerTaskNonNegative = NonNegative | list[NonNegative]
PerTaskPositive = Positive | list[Positive]
PerTaskCount = PositiveInt | list[PositiveInt]


def per_task(value: T | list[T], task: int) -> T:
    """The value for the 0-based `task`: a scalar for all tasks, or a list with one value a task from the second on."""
    return value[task - 1] if isinstance(value, list) else value
