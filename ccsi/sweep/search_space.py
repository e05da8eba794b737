"""The search space as it is written in YAML, and the configs drawn from it.

A space maps a config key to one of

    {choice: [a, b, …]}        one of these, drawn at random
    {grid: [a, b, …]}          each of these (crossed with the other grids)
    {uniform: [low, high]}     a number, evenly
    {loguniform: [low, high]}  a number, evenly in its logarithm; low > 0
    {randint: [low, high]}     a whole number, both ends included
    {each: {a: {…}, b: {…}}}   each of these, an arm of a comparison, with a space of its own and an equal budget

or to null: it is not swept. A key names a value (`learner.w_idc`) or a config group (`learner`, whose values are names
of its files; what `each` compares always are).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccsi.errors import UserError
from ccsi.sweep.events import Values

KINDS = ("choice", "grid", "uniform", "loguniform", "randint", "each")
RESERVED = {"seed": "sweep.seeds.tuning and sweep.seeds.reporting", "threads": "resources.cpu", "run_dir": "sweep.dir"}
RESERVED |= {"workers": "resources.workers", "device": "resources.gpu"}
RESERVED |= dict.fromkeys(("evaluate_test", "report"), "the two phases")
"""Keys that the sweep sets itself, and from what."""
MAX_COMBINATIONS = 100_000
WHOLE = ("sweep", "resources", "ray", "resume")
"""Keys that are the same for every trial."""


@dataclass(frozen=True)
class Dimension:
    """One key of the space; `values`: the candidates, or the ends of a range; `spaces`: of each candidate of `each`."""

    key: str
    kind: str
    values: tuple[Any, ...]
    spaces: Mapping[str, "list[Dimension]"] = field(default_factory=dict)

    @property
    def listed(self) -> bool:
        """Whether `values` are the candidates themselves."""
        return self.kind in ("choice", "grid", "each")

    @property
    def size(self) -> float:
        """How many different candidates there are."""
        if self.kind == "randint":
            return self.values[1] - self.values[0] + 1
        return len(self.values) if self.listed else math.inf

    def draw(self, rng: np.random.Generator) -> Any:
        """One candidate at random."""
        if self.listed:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "randint":
            return int(rng.integers(low, high, endpoint=True))
        if self.kind == "loguniform":
            return min(high, max(low, float(np.exp(rng.uniform(np.log(low), np.log(high))))))
        return float(rng.uniform(low, high))

    def holds(self, value: Any) -> bool:
        """Whether a value is among the candidates."""
        if self.listed:
            return any(same(one, value) for one in self.values)
        low, high = self.values
        return type(value) in ((int,) if self.kind == "randint" else (int, float)) and bool(low <= value <= high)

    def as_drawn(self, value: Any) -> Any:
        """A value it holds, of the type `draw` gives."""
        return value if self.listed or self.kind == "randint" else float(value)


def parse(space: Mapping[str, Mapping[str, Any] | None], where: str = "sweep.space") -> list[Dimension]:
    """The dimensions of a space, its form checked, but not whether keys and values suit the configuration."""
    found = [_dimension(key, entry, f"{where}.{key}") for key, entry in space.items() if entry is not None]
    several = [dimension.key for dimension in found if dimension.kind == "each"]
    if len(several) > 1 or (several and where != "sweep.space"):
        raise UserError(f"{where}.{several[-1]}.each: expected no other `each` around or beside it.")
    return found


def compared(space: Sequence[Dimension]) -> Dimension | None:
    """The dimension whose candidates are compared, if any: `each`."""
    return next((dimension for dimension in space if dimension.kind == "each"), None)


def within(space: Sequence[Dimension], candidate: Any) -> list[Dimension]:
    """The space of one candidate of `compared`: what all sweep, and its own."""
    mine = compared(space)
    assert mine is not None
    return [*(dimension for dimension in space if dimension is not mine), *mine.spaces[candidate]]


def _dimension(key: str, entry: Mapping[str, Any], where: str) -> Dimension:
    if key in RESERVED:
        raise UserError(f"{where}: {key} cannot be swept, the sweep sets it itself; see {RESERVED[key]}.")
    if key.partition(".")[0] in WHOLE:
        raise UserError(f"{where}: {key} cannot be swept, it is the same for the whole sweep; sweep what a run has.")
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in KINDS:
        raise UserError(f"{where}={entry}: expected exactly one of {', '.join(KINDS)}, e.g. {{choice: [0, 1]}}.")
    kind, values = next(iter(entry.items()))
    if kind == "each":
        entries = list(values.values()) if isinstance(values, Mapping) else []
        if not entries or not all(isinstance(own, Mapping | None) for own in entries):
            raise UserError(f"{where}.each={values}: expected candidates, each with its own space or null.")
        spaces = {name: parse(own or {}, f"{where}.each.{name}") for name, own in values.items()}
        return Dimension(key, kind, tuple(spaces), spaces)
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}.{kind}={values}: expected a list of values.")
    if kind in ("choice", "grid"):
        return Dimension(key, kind, tuple({repr(value): value for value in values}.values()))
    if [type(value) in (int, float) for value in values] != [True, True] or not values[0] < values[1]:
        raise UserError(f"{where}.{kind}={values}: expected two numbers [low, high] with low < high.")
    if kind == "randint" and float in map(type, values):
        raise UserError(f"{where}.randint={values}: expected two whole numbers.")
    largest = 2**63 - 1 if kind == "randint" else 1e300  # NumPy takes no others
    if not all(abs(value) <= largest for value in values):
        raise UserError(f"{where}.{kind}={values}: expected numbers from -{largest:g} to {largest:g}.")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"{where}.loguniform={values}: expected low > 0.")
    return Dimension(key, kind, tuple(values if kind == "randint" else map(float, values)))


def same(a: Any, b: Any) -> bool:
    """Equal as config values: 1 and 1.0 and true are three different values."""
    return repr(a) == repr(b)


def grid(space: Sequence[Dimension]) -> list[Values]:
    """Every combination of a space of lists, the last key changing fastest. Raises UserError for a range."""
    for d in space:
        if not d.listed:
            raise UserError(
                f"sweep.space.{d.key} is {d.kind}, but sweep.search=grid takes only grid or choice; list the values, "
                "or use sweep.search=random."
            )
    if (size := math.prod(len(d.values) for d in space)) > MAX_COMBINATIONS:
        raise UserError(f"sweep.space has {size:,} combinations; expected at most {MAX_COMBINATIONS:,}.")
    product = itertools.product(*(d.values for d in space))
    return [dict(zip([d.key for d in space], values, strict=True)) for values in product]


def sample(space: Sequence[Dimension], number: int, seed: int) -> list[Values]:
    """`number` different random draws (fewer of a small space), each with every combination of the `grid` keys."""
    rng = np.random.default_rng(seed)
    grids = grid([d for d in space if d.kind == "grid"])
    random = [d for d in space if d.kind != "grid"]
    drawn: dict[str, Values] = {}
    at_most = min(number, math.prod(d.size for d in random))
    for _ in range(100 * number):
        values = {d.key: d.draw(rng) for d in random}
        drawn.setdefault(repr(values), values)
        if len(drawn) == at_most:
            break
    return [{d.key: {**values, **point}[d.key] for d in space} for values in drawn.values() for point in grids]
