"""The runs of a sweep, from its runs.csv and their folders: which of them pictures show, and their names and curves."""

import ast
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ccsi.errors import UserError
from ccsi.io.run_files import read_result

Run = dict[str, str]
"""A row of runs.csv: `phase`, `trial`, `seed`, `status`, figures such as `val_macro`, `config/<key>`, `run_dir` …"""
SYMBOLS = {"lambda": "λ", "rho": "ρ", "tau": "τ", "sigma": "σ", "beta": "β", "gamma": "γ", "lr": "learning rate"}


@dataclass(frozen=True)
class Curve:
    """A trial's accuracy on all classes seen after each task, in percent, [seeds, tasks].

    kind: of the candidate where a sweep compares (always on test); else the split.
    """

    name: str
    kind: str
    after: np.ndarray[Any, Any]


def read_rows(path: Path) -> list[Run]:
    """The rows of a table.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}; expected the folder of a sweep.")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path, run: Run) -> Mapping[str, Any] | None:
    """The content of a run's result.json, wherever the sweep's folder is now; None if it has none."""
    run_dir = run.get("run_dir", "")
    for candidate in (folder / run_dir, folder / "runs" / Path(run_dir).name):  # the second: the sweep was moved
        if run_dir and (result := read_result(candidate)) is not None:
            return result
    return None


def trial_of(run: Run) -> str:
    """The trial that a run is one seed of."""
    return run.get("trial", "")


def by_trial(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each trial, in the order of the trials' names."""
    return [list(group) for _, group in groupby(sorted(runs, key=trial_of), key=trial_of)]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The columns `config/…` in which the runs differ."""
    keys = [key for key in (runs[0] if runs else {}) if key.startswith("config/")]
    return [key for key in keys if len({run[key] for run in runs}) > 1]


def complete(runs: Sequence[Run], metric: str) -> list[Run]:
    """The runs of the trials that are done on every seed: an incomplete group is never averaged."""

    def done(run: Run) -> bool:
        return run.get("status", "done") == "done" and number(run.get(f"val_{metric}")) is not None

    lacking = {run["trial"] for run in runs if "trial" in run and not done(run)}
    return [run for run in runs if done(run) and run.get("trial") not in lacking]


def left_out(runs: Sequence[Run]) -> str:
    """In words, how many trials are not shown because of these runs, and how they ended."""
    reached: dict[str, int] = {}  # trial -> tasks done on all seeds
    for run in runs:
        reached[trial_of(run)] = reached.get(trial_of(run), 0) + int(number(run.get("tasks_done")) or 0)
    pruned = sorted(reached[trial] for trial in {trial_of(run) for run in runs if run.get("status") == "pruned"})
    others = len(reached) - len(pruned)
    tasks = " to ".join(str(n) for n in sorted({*pruned[:1], *pruned[-1:]}))
    words = [f"{len(pruned)} pruned after {tasks} task{'s' * (pruned[-1] != 1)}"] if pruned else []
    words += [f"{others} not done on every seed"] if others else []
    return f"; trials not shown: {', '.join(words)}" if words else ""


def reporting_curves(folder: Path, runs: Sequence[Run], metric: str) -> list[Curve]:
    """The curve of each trial, by its split; best on val first.

    A trial that lacks a seed another one has is left out: an incomplete group is never averaged.
    """
    seeds, differing = {run.get("seed", "") for run in runs}, differing_keys(runs)
    found = []
    for group in by_trial(runs):
        results = [result for run in group if (result := result_of(folder, run)) is not None]
        if len(results) < len(group) or {run.get("seed", "") for run in group} != seeds:
            continue
        split = "test" if all(result["test"]["accuracy_after_task"] for result in results) else "val"
        rows = [result[split]["accuracy_after_task"] for result in results]
        if len({len(row) for row in rows}) == 1:
            words = [f"{key_label(key, short_form=True)} = {rounded(group[0][key])}" for key in differing]
            name = ", ".join(words) or f"trial {trial_of(group[0])}"
            on_val = fmean(result["val"][metric] for result in results)
            found.append((on_val, Curve(name, split, 100 * np.asarray(rows))))
    return [curve for _, curve in sorted(found, key=lambda pair: -pair[0])]


def compared_curves(folder: Path, runs: Sequence[Run], key: str) -> list[Curve]:
    """For each row of comparison.csv that is done, in its order, the curve of its trial; key: what is compared."""
    found = []
    for row in read_rows(folder / "comparison.csv"):
        if row["status"] != "done":
            continue
        own = [run for run in runs if run["phase"] == "2" and run["trial"] == row["trial"]]
        results = [result for run in own if (result := result_of(folder, run)) is not None]
        after = 100 * np.asarray([result["test"]["accuracy_after_task"] for result in results])
        found.append(Curve(row[key], row["kind"], after))
    return found


def key_label(column: str, short_form: bool = False) -> str:
    """`config/learner.losses.lambda_distillation` in words: the last two parts of the key, Greek as Greek."""
    parts = column.removeprefix("config/").split(".")[-1 if short_form else -2 :]
    words = [" ".join(SYMBOLS.get(word, word) for word in part.split("_") if word) for part in parts]
    return ": ".join(words)


def rounded(text: str) -> str:
    """A value as a label: numbers to three digits."""
    value = number(text)
    return text if value is None else f"{value:.3g}"


def number(text: str | None) -> float | None:
    """A finite number, or None for anything else (empty, text, true, a list, nan)."""
    try:
        value = ast.literal_eval(text or "")
    except (ValueError, SyntaxError, MemoryError):
        return None
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None
