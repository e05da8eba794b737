"""The search: which config is tried next (Optuna's TPE)."""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccsi.errors import UserError
from ccsi.sweep.events import Values
from ccsi.sweep.search_space import Dimension


@dataclass(frozen=True)
class TriedConfig:
    """A config and its outcome.

    Attributes:
        score: None while it runs, or if it failed; of a pruned one the last, after `tasks`.
        state: `running`, `done`, `pruned` or `failed`. seconds: of a run, if it is done.
    """

    values: Values
    score: float | None
    state: str
    seconds: float | None = None
    tasks: int = 0


def suggest_config(
    space: Sequence[Dimension],
    tried: Sequence[TriedConfig],
    seed: int,
    earlier: Sequence[TriedConfig] = (),
    two: bool = False,
) -> Values | None:
    """TPE's suggestion number `len(tried)` (Bergstra et al. 2011); None when it only repeats what was tried.

    It depends on its arguments alone (the sampler starts afresh from `seed` and the number), so a resumed search makes
    the same suggestions. Running trials count as bad (constant liar), so that parallel suggestions differ.

    Args:
        earlier: what other sweeps found: known to Optuna, but not held to be tried here.
        two: search for a large score and few seconds at once (Ozaki et al. 2022). A pruned trial is passed without
            its score and its few seconds, which would flatter it: so it ranks below every completed one. (Passed as
            failed it would be forgotten, and tried again.)
    """
    import optuna  # only searches that ask for it pay the second it takes to import

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {d.key: _distribution(d) for d in space}
    complete = [one for one in (*earlier, *tried) if not (two and one.state == "done" and one.seconds is None)]
    history = [_frozen_trial(one, space, distributions, two) for one in complete]
    known = {repr(one.values) for one in tried}
    for attempt in range(20):
        attempt_seed = int(np.random.SeedSequence([seed, len(tried), attempt]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=attempt_seed, constant_liar=True)
        study = optuna.create_study(directions=["maximize", "minimize"] if two else ["maximize"], sampler=sampler)
        study.add_trials(history)
        drawn = study.ask(distributions).params
        values = {d.key: d.values[drawn[d.key]] if d.listed else drawn[d.key] for d in space}
        if repr(values) not in known:
            return values
    return None


def _distribution(d: Dimension) -> Any:
    """Optuna's distribution. Lists are given by position: Optuna takes only plain values, ours may be lists."""
    from optuna import distributions

    if d.listed:
        return distributions.CategoricalDistribution(range(len(d.values)))
    if d.kind == "randint":
        return distributions.IntDistribution(*d.values)
    return distributions.FloatDistribution(d.values[0], d.values[1], log=d.kind == "loguniform")


def _frozen_trial(one: TriedConfig, space: Sequence[Dimension], distributions: Any, two: bool) -> Any:
    from optuna.trial import TrialState, create_trial

    lists = {d.key: [repr(value) for value in d.values] for d in space if d.listed}
    params = {key: lists[key].index(repr(value)) if key in lists else value for key, value in one.values.items()}
    states = {"running": TrialState.RUNNING, "done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    state = states.get(one.state, TrialState.FAIL)
    values: Any = [one.score, one.seconds][: 1 + two] if one.state == "done" else None
    last: Any = {one.tasks: one.score} if one.state == "pruned" and not two and one.score is not None else None
    return create_trial(
        params=params, distributions=distributions, state=state, values=values, intermediate_values=last
    )


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
    if importlib.util.find_spec("optuna") is None:
        raise UserError("sweep.search=optuna needs the package optuna: pip install 'ccsi[sweep]'.")
