"""The leaderboard of a sweep, and the best trial's configuration."""

import json
import math
from collections import Counter
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

import ccsi.config
from ccsi.io.atomic import write_atomically
from ccsi.sweep import selection
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import Status, Values, trial_name
from ccsi.sweep.pruners import SCHEDULER_NAMES
from ccsi.sweep.ranking import pareto_fronts
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.rows import FIGURES, HEADINGS, SweepResults
from ccsi.sweep.tables.statistics import Summary, summary

PARTS = ("mean", "std", "low", "high")


def leaderboard(sweep: SweepResults) -> list[dict[str, Any]]:
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


def _row(sweep: SweepResults, trial: int) -> dict[str, Any]:
    state, results = sweep.state, sweep.of_trial(2, trial)
    n_seeds, status = len(state.runs(2, trial)), state.trial_status(2, trial)
    row: dict[str, Any] = {"rank": None, "trial": trial_name(trial), "status": str(status)}
    row["protocol"] = ", ".join(sorted({str(result["protocol"]) for result in results})) or None
    row |= {"n": len(results), "seeds": n_seeds}
    row |= {f"config/{key}": value for key, value in state.configs[trial].items()}
    row["phase_1_score"] = state.score(1, trial)
    if status is not Status.DONE:
        return row
    for split in ("test", "val"):
        for name in FIGURES:
            values = [float(one[split][name]) for one in results if one[split].get(name) is not None]
            if len(values) == n_seeds:
                s = summary(values)
                row |= {f"{split}_{name}_{part}": getattr(s, part) for part in PARTS}
    s = summary(state.seconds(2, trial), resamples=1)
    return row | {"seconds_mean": s.mean, "seconds_std": s.std}


def describe_protocol(state: SweepState) -> str:
    """Where the leaderboard's numbers come from."""
    sweep, known = state.definition.sweep, selection.known_trials(state)
    if state.definition.compared is not None and not known:
        return f"No phase 1: nothing to choose from. {_describe_phase_2(state)}"
    limit = state.exhausted_by() if len(known) < state.n_planned else None
    how = f"by mean {sweep.metric}"
    if sweep.minimize:
        how = f"from the Pareto fronts of mean {sweep.metric} (best first) and mean {sweep.minimize} of a run"
    return (
        f"Phase 1: {len(known)}{f' of {state.n_planned}' if limit else ''} trials ({'; '.join(_notes(state, limit))}) "
        f"on tuning seeds {sweep.seeds.tuning}, chosen {how}; test not read. {_describe_phase_2(state)}"
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


def _describe_phase_2(state: SweepState) -> str:
    sweep, key, n = state.definition.sweep, state.definition.compared, len(selection.best_trials(state))
    which = f"the best {n}" if key is None else f"the best {sweep.top_k} of each {key}, {n} in all,"
    return (
        f"Phase 2: {which} on fresh reporting seeds {sweep.seeds.reporting}, "
        f"nothing pruned, ranked by mean {sweep.metric}. All figures are phase 2's: mean ± standard deviation over "
        "seeds, [95 % bootstrap interval of the mean], in %."
        + (" Front: no other row has both a better val metric and fewer seconds." if sweep.minimize else "")
    )


def write_leaderboard(sweep: SweepResults, console: Console) -> None:
    """Write leaderboard.csv, leaderboard.md and best.yaml, and print the leaderboard.

    Where candidates are compared, best/<candidate>.yaml of each; the terminal shows `write_comparison`'s table.
    """
    rows, folder, definition = leaderboard(sweep), sweep.definition.folder, sweep.definition
    flat = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows]
    write_atomically(folder / "leaderboard.csv", pd.DataFrame(flat).to_csv(index=False).encode())
    keys = list(dict.fromkeys(key for row in rows for key in sweep.state.configs[int(row["trial"][1:])]))
    aims = ["seconds"] if definition.sweep.minimize else []
    figures = [f"{split} {HEADINGS[name]}" for name in FIGURES for split in ("test", "val")]
    heads = ["rank", "trial", "protocol", *keys, "n", *figures, *aims]
    lines = [[cell.replace("\n", " ") for cell in _cells(row, keys, aims)] for row in rows]
    text = [f"# {definition.name}", "", describe_protocol(sweep.state), "", *markdown(heads, lines)]
    known = selection.known_trials(sweep.state)
    pruned = [f"- {trial_name(n)}: pruned {end}" for n in known if (end := selection.pruned_by(sweep.state, n))]
    text += ["", *pruned] if pruned else []
    text += ["", _write_best(sweep.state, rows), ""]
    write_atomically(folder / "leaderboard.md", "\n".join(text).encode())
    if definition.compared is None:
        _print(sweep.state, rows, heads, lines, keys, console)


def _write_best(state: SweepState, rows: list[dict[str, Any]]) -> str:
    """Write best.yaml, or best/<candidate>.yaml; returns a sentence about it."""
    definition, folder = state.definition, state.definition.folder
    done = [row for row in rows if row["status"] == Status.DONE]
    if definition.compared is None:
        for row in done[:1]:
            write_atomically(folder / "best.yaml", best_yaml(state, int(row["trial"][1:])).encode())
        return "`best.yaml` is the first row's configuration: `ccsi run best.yaml`."
    (folder / "best").mkdir(exist_ok=True)
    for row in reversed(done):  # the first comes last, and stays
        name = folder / "best" / f"{row[f'config/{definition.compared}'].replace('/', '-')}.yaml"
        write_atomically(name, best_yaml(state, int(row["trial"][1:])).encode())
    return f"`best/` has the configuration of each {definition.compared}'s first row: `ccsi run best/NAME.yaml`."


def _print(
    state: SweepState, rows: list[dict[str, Any]], heads: list[str], lines: list[list[str]], keys: list[str],
    console: Console,
) -> None:  # fmt: skip
    sweep = state.definition.sweep
    table = Table(title=f"{state.definition.name}: phase 2, {len(sweep.seeds.reporting)} reporting seeds")
    narrow = console.width < 100
    left_out = {*keys, "protocol", "val forgetting"} | ({"val macro", "val avg. incremental"} if narrow else set())
    kept = [n for n, head in enumerate(heads) if head not in left_out and "micro" not in head]
    for n in kept:
        table.add_column(heads[n].replace(" ", "\n"))
    for line in lines:
        table.add_row(*(line[n].replace(" [", "\n[").replace(" (", "\n(").replace("[", "\\[") for n in kept))
    console.print(table)
    for row in rows:
        values = " ".join(f"{key}={_short(row[f'config/{key}'])}" for key in keys if f"config/{key}" in row)
        console.print(f"{row['trial']}: {values} ({row['protocol']})", highlight=False, markup=False)
    console.print(describe_protocol(state), highlight=False, markup=False)


def markdown(heads: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a table of text."""
    body = (" | ".join(["", *line, ""]).strip() for line in (heads, *lines))
    return [next(body), "|" + "---|" * len(heads), *body]


def best_yaml(state: SweepState, trial: int) -> str:
    """A trial's whole configuration, as `ccsi run <file>` takes it: first reporting seed, test evaluated."""
    definition = state.definition
    config = reporting_config(definition, state.configs[trial])
    command = "ccsi run" if definition.resources.workers == 1 else "ccsi train"
    head = f"# The best trial ({trial_name(trial)}) of {definition.name}, on val: {command} <this file>\n"
    return head + ccsi.config.to_yaml(config)


def reporting_config(definition: Definition, values: Values) -> ccsi.config.Config:
    """The configuration of a trial's first reporting run, outside the sweep."""
    config = definition.config(values)
    return config | {
        "device": definition.device(config),
        "seed": definition.sweep.seeds.reporting[0],
        "threads": definition.threads(values),
        "workers": definition.resources.workers,
        "run_dir": None,
        "evaluate_test": True,
    }


def _cells(row: dict[str, Any], keys: list[str], aims: list[str]) -> list[str]:
    configs = [row["protocol"] or "-", *(_short(row.get(f"config/{key}", "")) for key in keys)]
    if row["status"] != Status.DONE:
        state = f"{row['n']} of {row['seeds']}, {row['status']}"
        return ["-", row["trial"], *configs, state, *["-"] * (2 * len(FIGURES) + len(aims))]
    figures = [_figure(row, f"{split}_{name}") for name in FIGURES for split in ("test", "val")]
    if aims:
        spread = "" if math.isnan(row["seconds_std"]) else f" ± {row['seconds_std']:.1f}"
        figures.append(f"{row['seconds_mean']:.1f}{spread}{' (front)' if row['front'] else ''}")
    return [str(row["rank"]), row["trial"], *configs, str(row["n"]), *figures]


def _figure(row: dict[str, Any], name: str) -> str:
    if f"{name}_mean" not in row:
        return "-"
    s = Summary(row["n"], *(100 * row[f"{name}_{part}"] for part in PARTS))
    return f"{s.mean:.1f}" if s.n == 1 else f"{s.mean:.1f} ± {s.std:.1f} [{s.low:.1f}, {s.high:.1f}]"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ccsi.config.shown(value)
