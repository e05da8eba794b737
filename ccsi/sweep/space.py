"""The search space as it is written in YAML, and the settings drawn from it.

A space maps a config key to one of

    {choice: [a, b, …]}        one of these, drawn at random
    {grid: [a, b, …]}          each of these (crossed with the other grids)
    {uniform: [low, high]}     a number, evenly
    {loguniform: [low, high]}  a number, evenly in its logarithm; low > 0
    {randint: [low, high]}     a whole number, both ends included
    {each: {a: {…}, b: {…}}}   each of these, which are compared: each with a space of its own, and an equal budget

or to null: it is not swept. A key names a value (`learner.w_idc`) or a config group (`learner`, whose values are names
of its files; what `each` compares always are).
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccsi.errors import UserError

Values = dict[str, Any]
KINDS = ("choice", "grid", "uniform", "loguniform", "randint", "each")
RESERVED = {
    "seed": "sweep.seeds.tuning and sweep.seeds.reporting",
    "threads": "resources.cpu",
    "workers": "resources.workers",
    "device": "resources.gpu",
    "run_dir": "sweep.dir",
    "evaluate_test": "the two phases",
    "report": "the two phases",
}
WHOLE = ("sweep", "resources", "ray", "resume")
"""Keys that are the same for every trial."""


@dataclass(frozen=True)
class Dimension:
    """One key of the space.

    Attributes:
        values: the candidates, or the two ends of a range. spaces: of `each` candidate, its own.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    spaces: Mapping[str, "list[Dimension]"] = field(default_factory=dict)

    @property
    def listed(self) -> bool:
        """Whether `values` are the candidates themselves."""
        return self.kind in ("choice", "grid", "each")

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
        whole = isinstance(value, int) and not isinstance(value, bool)
        return (whole or (isinstance(value, float) and self.kind != "randint")) and bool(
            self.values[0] <= value <= self.values[1]
        )

    def as_drawn(self, value: Any) -> Any:
        """A value it holds, of the type `draw` gives."""
        return value if self.listed or self.kind == "randint" else float(value)


def parse(space: Mapping[str, Mapping[str, Any] | None], where: str = "sweep.space") -> list[Dimension]:
    """Check the space's form (not yet whether its keys and values suit the configuration).

    Raises:
        UserError: an entry that is none of the kinds, an empty list, a range that is not one, a second `each`.
    """
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
        if (
            not isinstance(values, Mapping)
            or not values
            or not all(isinstance(v, Mapping | None) for v in values.values())
        ):
            raise UserError(f"{where}.each={values}: expected candidates, each with its own space or null.")
        spaces = {name: parse(own or {}, f"{where}.each.{name}") for name, own in values.items()}
        return Dimension(key, kind, tuple(spaces), spaces)
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}.{kind}={values}: expected a list of values.")
    if kind in ("choice", "grid"):
        unlike = [value for number, value in enumerate(values) if not any(same(value, v) for v in values[:number])]
        return Dimension(key, kind, tuple(unlike))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise UserError(f"{where}.{kind}={values}: expected two numbers [low, high] with low < high.")
    if kind == "randint" and not all(isinstance(v, int) for v in numbers):
        raise UserError(f"{where}.randint={values}: expected two whole numbers.")
    if kind == "loguniform" and numbers[0] <= 0:
        raise UserError(f"{where}.loguniform={values}: expected low > 0.")
    return Dimension(key, kind, tuple(numbers if kind == "randint" else map(float, numbers)))


def same(a: Any, b: Any) -> bool:
    """Equal as settings: 1 and 1.0 and true are three different values."""
    return repr(a) == repr(b)


def grid(space: Sequence[Dimension]) -> list[Values]:
    """Every combination of a space of lists, the last key changing fastest.

    Raises:
        UserError: a range, which has no end of values.
    """
    for dimension in space:
        if not dimension.listed:
            raise UserError(
                f"sweep.space.{dimension.key} is {dimension.kind}, but sweep.search=grid takes only grid or choice; "
                "list the values, or use sweep.search=random."
            )
    product = itertools.product(*(dimension.values for dimension in space))
    return [dict(zip([dimension.key for dimension in space], values, strict=True)) for values in product]


def sample(space: Sequence[Dimension], number: int, seed: int) -> list[Values]:
    """`number` different random draws, each crossed with every combination of the `grid` keys.

    A small space may hold fewer: then all that turned up in a long run of draws are returned. Nothing is
    returned twice, since a run repeated with the same seeds gives the same result.
    """
    rng = np.random.default_rng(seed)
    grids = grid([dimension for dimension in space if dimension.kind == "grid"])
    drawn: dict[str, Values] = {}
    for _ in range(100 * number):
        values = {dimension.key: dimension.draw(rng) for dimension in space if dimension.kind != "grid"}
        drawn.setdefault(repr(values), values)
        if len(drawn) == number:
            break
    return [{d.key: {**values, **point}[d.key] for d in space} for values in drawn.values() for point in grids]


@dataclass(frozen=True)
class Tried:
    """What Optuna is told of a setting.

    Attributes:
        score: None while it runs, or if it failed; where it was pruned, the last one, after `tasks`.
        seconds: of a run, if it is done.
    """

    values: Values
    score: float | None
    state: str
    """`running`, `done`, `pruned` or `failed`."""
    seconds: float | None = None
    tasks: int = 0


def suggest(
    space: Sequence[Dimension], tried: Sequence[Tried], seed: int, earlier: Sequence[Tried] = (), two: bool = False
) -> Values | None:
    """Optuna's TPE suggestion number `len(tried)`; None when it only repeats what was tried.

    It depends on nothing but the arguments (the sampler starts afresh from `seed` and the number), so an
    interrupted search goes on with the suggestions it would have made. Bergstra et al. 2011; settings
    still running count as bad (constant liar), so that parallel suggestions differ.

    Args:
        earlier: what other sweeps found: known to Optuna, but not held to be tried here.
        two: search for a large score and few seconds at once (Ozaki et al. 2022). Optuna knows no intermediate
            values then: a pruned setting is told as pruned without one, which ranks it below every completed one.
            (Its last score would flatter it, as accuracy falls from task to task; and so would its few seconds.
            Told as failed it would be forgotten, and tried again close by.)
    """
    import optuna  # only searches that ask for it pay the second it takes to import

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states = optuna.trial.TrialState
    state = {"running": states.RUNNING, "done": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for d in space:
        if d.listed:  # by number: Optuna takes only plain values, ours may be lists
            distributions[d.key] = optuna.distributions.CategoricalDistribution(range(len(d.values)))
        elif d.kind == "randint":
            distributions[d.key] = optuna.distributions.IntDistribution(*d.values)
        else:
            distributions[d.key] = optuna.distributions.FloatDistribution(
                d.values[0], d.values[1], log=d.kind == "loguniform"
            )

    def coded(values: Values) -> Values:
        lists = {d.key: d.values for d in space if d.listed}
        return {
            key: next(n for n, v in enumerate(lists[key]) if same(v, value)) if key in lists else value
            for key, value in values.items()
        }

    def trial(one: Tried) -> optuna.trial.FrozenTrial:
        last = one.score if one.state == "pruned" and not two else None
        values: Any = [one.score, one.seconds][: 1 + two] if one.state == "done" else None
        return optuna.trial.create_trial(
            params=coded(one.values),
            distributions=distributions,
            state=state[one.state],
            values=values,
            intermediate_values=None if last is None else {one.tasks: last},
        )

    told = [trial(one) for one in (*earlier, *tried) if not (two and one.state == "done" and one.seconds is None)]
    known = {repr(one.values) for one in tried}
    for attempt in range(20):
        sampler_seed = int(np.random.SeedSequence([seed, len(tried), attempt]).generate_state(1)[0])
        sampler = _sampler(sampler_seed)
        study = optuna.create_study(directions=["maximize", "minimize"] if two else ["maximize"], sampler=sampler)
        study.add_trials(told)
        drawn = study.ask(distributions).params
        values = {d.key: d.values[drawn[d.key]] if d.listed else drawn[d.key] for d in space}
        if repr(values) not in known:
            return values
    return None


def _sampler(seed: int) -> Any:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def check_optuna(space: Sequence[Dimension]) -> None:
    """UserError for what Optuna cannot search, or when it is not installed."""
    for dimension in space:
        if dimension.kind in ("grid", "each"):
            raise UserError(
                f"sweep.space.{dimension.key} is {dimension.kind}, which sweep.search=optuna cannot cross; "
                "write choice, or use sweep.search=random or grid."
            )
    if not space:
        raise UserError("sweep.space is empty: sweep.search=optuna has nothing to search; name at least one key.")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("sweep.search=optuna needs the package optuna: pip install 'ccsi[sweep]'.") from None
