"""The runs of a sweep, from its runs.csv and their folders: which of them pictures show, and their names and curves."""

import ast
import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from ccsi.errors import UserError
from ccsi.io.run_files import read_result

Run = dict[str, str]
"""A row of runs.csv: `phase`, `trial`, `seed`, `status`, figures such as `val_macro`, `config/<key>`, `run_dir` …"""
DEFAULTS = {"phase": "", "trial": "", "seed": "", "status": "done", "tasks_done": "", "run_dir": ""}
"""What a run has in columns that the table lacks."""
SYMBOLS = {"lambda": "λ", "rho": "ρ", "tau": "τ", "sigma": "σ", "beta": "β", "gamma": "γ", "lr": "learning rate"}


class Curve(NamedTuple):
    """A trial's test accuracy on all classes seen after each task, in percent, [seeds, tasks]; its learner's kind."""

    name: str
    after: np.ndarray[Any, Any]
    kind: str = ""


def read_rows(path: Path) -> list[Run]:
    """The rows of a sweep's table."""
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}; expected the folder of a sweep.")
    with path.open(newline="", encoding="utf-8") as file:
        return [DEFAULTS | row for row in csv.DictReader(file)]


def results_of(folder: Path, runs: Iterable[Run]) -> list[Mapping[str, Any]]:
    """The content of each result.json that there is, wherever the sweep's folder is now."""
    run_dirs = (Path(run["run_dir"]) for run in runs)
    found = (read_result(folder / path) or read_result(folder / "runs" / path.name) for path in run_dirs)  # moved
    return [result for result in found if result]


def by_trial(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each trial, in the order of the trials' names."""
    trial = itemgetter("trial")
    return [list(group) for _, group in groupby(sorted(runs, key=trial), trial)]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The columns `config/…` in which the runs differ."""
    keys = [key for key in (runs[0] if runs else {}) if key.startswith("config/")]
    return [key for key in keys if len({run[key] for run in runs}) > 1]


def is_complete(group: Sequence[Run], metric: str) -> bool:
    """Whether a trial is done on every seed: an incomplete group is never averaged."""
    return all(run["status"] == "done" and number(run.get(f"val_{metric}")) is not None for run in group)


def left_out(groups: Sequence[Sequence[Run]]) -> str:
    """In words, how many trials are not shown, which are these, and how they ended."""
    pruned = [group for group in groups if any(run["status"] == "pruned" for run in group)]
    reached = sorted(sum(int(number(run["tasks_done"]) or 0) for run in group) for group in pruned)
    tasks = " to ".join(str(n) for n in dict.fromkeys([*reached[:1], *reached[-1:]]))
    words = [f"{len(pruned)} pruned after {tasks} task{'s' * (reached[-1] != 1)}"] if pruned else []
    if others := len(groups) - len(pruned):
        words.append(f"{others} not done on every seed")
    return f"; trials not shown: {', '.join(words)}" if words else ""


def reporting_curves(folder: Path, runs: Sequence[Run], metric: str) -> list[Curve]:
    """The curve of each trial that lacks no seed another one has; best on val first."""
    seeds, differing, found = {run["seed"] for run in runs}, differing_keys(runs), list[tuple[float, Curve]]()
    for group in by_trial(runs):
        results = results_of(folder, group)
        if len(results) == len(group) and {run["seed"] for run in group} == seeds:
            words = [f"{key_label(key, short_form=True)} = {rounded(group[0][key])}" for key in differing]
            name = ", ".join(words) or f"trial {group[0]['trial']}"
            after = 100 * np.asarray([result["test"]["accuracy_after_task"] for result in results])
            found.append((fmean(result["val"][metric] for result in results), Curve(name, after)))
    return [curve for _, curve in sorted(found, key=lambda pair: -pair[0])]


def compared_curves(folder: Path, runs: Sequence[Run], key: str) -> list[Curve]:
    """For each row of comparison.csv that is done, in its order, the curve of its trial; key: what is compared."""
    found = []
    for row in read_rows(folder / "comparison.csv"):
        if row["status"] == "done":
            results = results_of(folder, [run for run in runs if (run["phase"], run["trial"]) == ("2", row["trial"])])
            after = 100 * np.asarray([result["test"]["accuracy_after_task"] for result in results])
            found.append(Curve(row[key], after, row["kind"]))
    return found


def key_label(column: str, short_form: bool = False) -> str:
    """`config/learner.losses.lambda_distillation` in words: the last two parts of the key, Greek as Greek."""
    parts = column.removeprefix("config/").split(".")[-1 if short_form else -2 :]
    return ": ".join(" ".join(SYMBOLS.get(word, word) for word in part.split("_") if word) for part in parts)


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
