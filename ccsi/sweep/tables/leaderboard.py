"""The leaderboard of a sweep, and the best trial's configuration."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

import ccsi.config
from ccsi.io.atomic import write_atomically
from ccsi.sweep import selection
from ccsi.sweep.events import Status, trial_name
from ccsi.sweep.pruners import SCHEDULER_NAMES
from ccsi.sweep.ranking import pareto_fronts
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.rows import HEADINGS, SweepResults
from ccsi.sweep.tables.statistics import summary
from ccsi.sweep.tables.text import Row, markdown, mean_text, print_table, write_csv

FIGURES = {f"{split}_{name}": f"{split} {head}" for name, head in HEADINGS.items() for split in ("test", "val")}
"""Figures of a row, without the part (`_mean`) -> as a heading."""


def leaderboard(sweep: SweepResults) -> list[Row]:
    """The trials of phase 2, best first: by their mean val metric over the reporting seeds, never by test.

    Each has `rank` (None while its seeds are not complete: nothing is averaged then), `trial`, `status`,
    `n` of `seeds` runs, `config/…`, and for complete ones `<split>_<figure>_mean|std|low|high`, `seconds_mean|std` of
    a run and, with `sweep.minimize`, `front`: whether no other row beats its val metric and seconds both.
    """
    state = sweep.state
    if not selection.is_search_finished(state):
        return []
    rows = [_row(sweep, trial) for trial in selection.best_trials(state)]
    key = f"{state.definition.sweep.metric}_mean"
    if state.definition.sweep.minimize:
        done = [row for row in rows if row["status"] == Status.DONE]
        numbers = pareto_fronts([row[key] for row in done], [row["seconds_mean"] for row in done])
        for row, front in zip(done, numbers, strict=True):
            row["front"] = front == 0
    rows.sort(key=lambda row: (row["status"] != Status.DONE, -row.get(key, 0.0), row["trial"]))
    for number, row in enumerate(rows, 1):
        row["rank"] = number if row["status"] == Status.DONE else None
    return rows


def _row(sweep: SweepResults, trial: int) -> Row:
    state, results = sweep.state, sweep.of_trial(2, trial)
    n_seeds, status = len(state.runs(2, trial)), state.trial_status(2, trial)
    row: Row = {"rank": None, "trial": trial_name(trial), "status": str(status)}
    row["protocol"] = ", ".join(sorted({str(result["protocol"]) for result in results})) or None
    row |= {"n": len(results), "seeds": n_seeds}
    row |= {f"config/{key}": value for key, value in state.configs[trial].items()}
    row["phase_1_score"] = state.score(1, trial)
    if status is not Status.DONE:
        return row
    for split in ("test", "val"):
        for name in HEADINGS:
            values = [float(one[split][name]) for one in results if one[split].get(name) is not None]
            if len(values) == n_seeds:
                row |= summary(values).columns(f"{split}_{name}")
    seconds = summary(state.seconds(2, trial), resamples=1)
    return row | {"seconds_mean": seconds.mean, "seconds_std": seconds.std}


def describe_protocol(state: SweepState) -> str:
    """Where the leaderboard's numbers come from."""
    sweep, key, known = state.definition.sweep, state.definition.compared, selection.known_trials(state)
    phase_1 = "No phase 1: nothing to choose from."
    if key is None or known:
        limit = state.exhausted_by() if len(known) < state.n_planned else None
        how = f"by mean {sweep.metric}"
        if sweep.minimize:
            how = f"from the Pareto fronts of mean {sweep.metric} (best first) and mean {sweep.minimize} of a run"
        phase_1 = (
            f"Phase 1: {len(known)}{f' of {state.n_planned}' if limit else ''} trials "
            f"({'; '.join(_notes(state, limit))}) on tuning seeds {sweep.seeds.tuning}, chosen {how}; test not read."
        )
    n = len(selection.best_trials(state))
    which = f"the best {n}" if key is None else f"the best {sweep.top_k} of each {key}, {n} in all,"
    return (
        f"{phase_1} Phase 2: {which} on fresh reporting seeds {sweep.seeds.reporting}, "
        f"nothing pruned, ranked by mean {sweep.metric}. All figures are phase 2's: mean ± standard deviation over "
        "seeds, [95 % bootstrap interval of the mean], in %."
        + (" Front: no other row has both a better val metric and fewer seconds." if sweep.minimize else "")
    )


def _notes(state: SweepState, limit: str | None) -> list[str]:
    sweep, known = state.definition.sweep, selection.known_trials(state)
    statuses = Counter(state.trial_status(1, n) for n in known)
    scheduler = SCHEDULER_NAMES[sweep.scheduler]
    notes = [f"{sweep.search} search" + (f", {scheduler}" if scheduler else "")]
    notes += [f"ended by {limit}"] if limit else []
    if state.warm_start.folders:
        tried, scores = len(state.warm_configs()), f", {len(state.warm_start.trials)} scores passed to Optuna"
        where = ", ".join(state.warm_start.folders)
        notes.append(f"warm start from {where}: {tried} tried first{scores if sweep.search == 'optuna' else ''}")
    if statuses[Status.PRUNED]:
        ends = Counter(end for n in known if (end := selection.pruned_by(state, n)) is not None).most_common()
        notes.append(f"{statuses[Status.PRUNED]} pruned ({', '.join(f'{count} {end}' for end, count in ends)})")
    return notes + [f"{statuses[one]} {one}" for one in (Status.FAILED, Status.INCOMPLETE) if statuses[one]]


def write_leaderboard(results: SweepResults, console: Console) -> None:
    """Write leaderboard.csv, leaderboard.md and best.yaml, and print the leaderboard.

    Where candidates are compared, best/<candidate>.yaml of each; the terminal shows `write_comparison`'s table.
    """
    state, rows, definition = results.state, leaderboard(results), results.definition
    sweep, folder = definition.sweep, definition.folder
    write_csv(folder / "leaderboard.csv", rows)
    keys = list(dict.fromkeys(key for row in rows for key in state.configs[int(row["trial"][1:])]))
    heads = ["rank", "trial", "protocol", *keys, "n", *FIGURES.values(), *(["seconds"] * bool(sweep.minimize))]
    table = pd.DataFrame([_cells(row, keys)[: len(heads)] for row in rows], columns=heads)
    known = selection.known_trials(state)
    pruned = [f"- {trial_name(n)}: pruned {end}" for n in known if (end := selection.pruned_by(state, n))]
    text = [f"# {definition.name}", "", describe_protocol(state), "", *markdown(table)]
    text += ["", *pruned] if pruned else []
    text += ["", _write_best(state, rows), ""]
    write_atomically(folder / "leaderboard.md", "\n".join(text).encode())
    if definition.compared is not None:
        return
    hidden = {*keys, "protocol", "val forgetting", "test micro", "val micro"}
    if console.width < 100:
        hidden |= {"val macro", "val avg. incremental"}
    title = f"{definition.name}: phase 2, {len(sweep.seeds.reporting)} reporting seeds"
    print_table(console, title, table, left=heads, hidden=hidden)
    for row in rows:
        values = " ".join(f"{key}={_short(row[f'config/{key}'])}" for key in keys if f"config/{key}" in row)
        console.print(f"{row['trial']}: {values} ({row['protocol']})", highlight=False, markup=False)
    console.print(describe_protocol(state), highlight=False, markup=False)


def _write_best(state: SweepState, rows: Sequence[Row]) -> str:
    """Write best.yaml, or best/<candidate>.yaml; returns a sentence about it."""
    key, folder, best = state.definition.compared, state.definition.folder, dict[str, int]()
    for row in rows:
        if row["status"] == Status.DONE:
            name = "best.yaml" if key is None else f"best/{row[f'config/{key}'].replace('/', '-')}.yaml"
            best.setdefault(name, int(row["trial"][1:]))
    for name, trial in best.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, best_yaml(state, trial).encode())
    if key is None:
        return "`best.yaml` is the first row's configuration: `ccsi run best.yaml`."
    return f"`best/` has the configuration of each {key}'s first row: `ccsi run best/NAME.yaml`."


def best_yaml(state: SweepState, trial: int) -> str:
    """A trial's whole configuration, as `ccsi run <file>` takes it: first reporting seed, test evaluated."""
    definition, values = state.definition, state.configs[trial]
    config = definition.config(values)
    command = "ccsi run" if definition.resources.workers == 1 else "ccsi train"
    head = f"# The best trial ({trial_name(trial)}) of {definition.name}, on val: {command} <this file>\n"
    return head + ccsi.config.to_yaml(
        config
        | {
            "device": definition.device(config),
            "seed": definition.sweep.seeds.reporting[0],
            "threads": definition.threads(values),
            "workers": definition.resources.workers,
            "run_dir": None,
            "evaluate_test": True,
        }
    )


def _cells(row: Row, keys: Sequence[str]) -> list[str]:
    configs = (_short(row.get(f"config/{key}", "")) for key in keys)
    n = str(row["n"]) if row["rank"] else f"{row['n']} of {row['seeds']}, {row['status']}"
    cells = [str(row["rank"] or "-"), row["trial"], row["protocol"] or "-", *configs, n]
    seconds = mean_text(row, "seconds", scale=1) + (" (front)" if row.get("front") else "")
    return [*cells, *(mean_text(row, figure) for figure in FIGURES), seconds]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ccsi.config.shown(value)
