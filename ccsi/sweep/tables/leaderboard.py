"""The leaderboard of a sweep, and the best trial's configuration; how tables are printed."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

import ccsi.config
from ccsi.io.atomic import write_atomically
from ccsi.io.text import all_printable, printable
from ccsi.sweep import selection
from ccsi.sweep.events import Status, trial_name
from ccsi.sweep.pruners import SCHEDULER_NAMES
from ccsi.sweep.ranking import pareto_fronts
from ccsi.sweep.runs import describe_failures
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.rows import HEADINGS, Row, SweepResults, write_csv
from ccsi.sweep.tables.statistics import mean_text, summary

RANKED_FIGURES = {f"{split}_{name}": f"{split} {head}" for name, head in HEADINGS.items() for split in ("test", "val")}
"""Figures of a row, without the part (`_mean`) -> as a heading."""
INTERVAL = ", [95 % interval of the mean, Student's t]"


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
    seconds = summary(state.seconds(2, trial))
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
    front = " Front: no other row has both a better val metric and fewer seconds." if sweep.minimize else ""
    return (
        f"{phase_1} Phase 2: {which} on fresh reporting seeds {sweep.seeds.reporting}, "
        f"nothing pruned, ranked by mean {sweep.metric}. All figures are phase 2's: mean ± standard deviation over "
        f"seeds{INTERVAL if len(sweep.seeds.reporting) > 1 else ''}, in %. The headline is macro over tasks; see "
        f"docs/glossary.md.{front}"
    )


def _notes(state: SweepState, limit: str | None) -> list[str]:
    sweep, known, notes = state.definition.sweep, selection.known_trials(state), list[str]()
    notes.append(", ".join(filter(None, [f"{state.definition.search} search", SCHEDULER_NAMES[sweep.scheduler]])))
    if limit:
        notes.append(f"ended by {limit}")
    notes += describe_extensions(state)
    if state.warm_start.folders:
        where, tried = ", ".join(state.warm_start.folders), len(state.warm_configs)
        scores = f", {len(state.warm_start.trials)} scores passed to Optuna" if sweep.search == "optuna" else ""
        notes.append(f"warm start from {where}: {tried} tried first{scores}")
    if ends := Counter(end for n in known if (end := selection.pruned_by(state, n))):
        notes.append(f"{ends.total()} pruned ({', '.join(f'{count} {end}' for end, count in ends.most_common())})")
    statuses = Counter(state.trial_status(1, n) for n in known)
    return notes + [f"{statuses[one]} {one}" for one in (Status.FAILED, Status.INCOMPLETE) if statuses[one]]


def describe_extensions(state: SweepState) -> list[str]:
    """What was changed each time that the sweep was extended: `extended from 20 to 40 samples`."""
    extents, found = [*state.extended, state.definition.extent], list[str]()
    for before, after in pairwise(extents):
        keys = {"samples": "num_samples", "finalists": "top_k", "reporting seeds": "reporting"}
        pairs = [(name, getattr(before, key), getattr(after, key)) for name, key in keys.items()]
        found.append("extended from " + " and ".join(f"{a} to {b} {name}" for name, a, b in pairs if a != b))
    return found


def write_leaderboard(sweep: SweepResults, console: Console) -> None:
    """Write leaderboard.csv, leaderboard.md and best.yaml, and print the leaderboard.

    Where candidates are compared, best/<candidate>.yaml of each; the terminal shows `write_comparison`'s table.
    """
    state, rows, definition = sweep.state, leaderboard(sweep), sweep.state.definition
    keys = list(dict.fromkeys(key for row in rows for key in state.configs[int(row["trial"][1:])]))
    lines, configs = list[list[str]](), list[str]()
    for row in rows:
        values = {key: row[f"config/{key}"] for key in keys if f"config/{key}" in row}
        values = {key: f"{v:.4g}" if isinstance(v, float) else ccsi.config.shown(v) for key, v in values.items()}
        n = str(row["n"]) if row["rank"] else f"{row['n']} of {row['seeds']}, {row['status']}"
        figures = [*(mean_text(row, figure) for figure in RANKED_FIGURES), mean_text(row, "seconds", scale=1)]
        figures[-1] += " (front)" if row.get("front") else ""
        start = [str(row["rank"] or "-"), row["trial"], row["protocol"] or "-"]
        lines.append([*start, *(values.get(key, "") for key in keys), n, *figures])
        configs.append(f"{row['trial']}: {' '.join(f'{k}={v}' for k, v in values.items())} ({row['protocol']})")
    text = pd.DataFrame(
        all_printable(lines), columns=["rank", "trial", "protocol", *keys, "n", *RANKED_FIGURES.values(), "seconds"]
    )
    if not definition.sweep.minimize:
        text = text.iloc[:, :-1]
    known = selection.known_trials(state)
    notes = [f"- {trial_name(n)}: pruned {end}" for n in known if (end := selection.pruned_by(state, n))]
    notes += [f"- {line}" for line in describe_failures(state)]
    protocol, best = describe_protocol(state), _write_best(state, rows)
    head, below = f"# {definition.name}\n\n{protocol}", [*notes, "", best] if notes else [best]
    write_table(definition.folder / "leaderboard", head, rows, text, below)
    if definition.compared is not None:
        return
    left_out = [*keys, "protocol", "val forgetting", "test micro", "val micro", "val macro over classes"]
    if console.width < 110:
        left_out += ["val macro over tasks", "val avg. incremental", "test macro over classes"]
    text = text.drop(columns=left_out)
    title = f"{definition.name}: phase 2, {len(definition.sweep.seeds.reporting)} reporting seeds"
    print_table(console, title, text, list(text.columns), [*configs, protocol], [])


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
    config, workers = definition.config(values), definition.resources.workers
    config |= {"device": definition.device(config), "threads": definition.threads(values), "workers": workers}
    config |= {"seed": definition.sweep.seeds.reporting[0], "run_dir": None, "evaluate_test": True}
    command = "ccsi run" if workers == 1 else "ccsi train"
    head = f"# The best trial ({trial_name(trial)}) of {printable(definition.name)}, on val: {command} <this file>\n"
    return head + ccsi.config.to_yaml(config)


def write_table(path: Path, head: str, rows: Sequence[Row], text: pd.DataFrame, below: Sequence[str]) -> None:
    """Write the rows as `<path>.csv`, and their text as `<path>.md` between `head` and the lines below."""
    write_csv(path.with_suffix(".csv"), rows)
    first, *body = (" | ".join(["", *map(markdown, line), ""]).strip() for line in (text.columns, *text.values))
    lines = [markdown(line) for line in head.split("\n")]
    lines += ["", first, "|" + "---|" * len(text.columns), *body, "", *map(markdown, below), ""]
    write_atomically(path.with_suffix(".md"), "\n".join(lines).encode())


def markdown(text: str) -> str:
    """Text of the user's in one line of Markdown: it adds no column to a table and no HTML."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", printable(text.replace("\n", " ")).replace("|", r"\|"))


def print_table(
    console: Console, title: str, text: pd.DataFrame, left: Sequence[str], notes: Sequence[str], ends: Sequence[int]
) -> None:
    """Print a table of text, and notes below it. left: columns aligned to the left. ends: rows above a line."""
    table = Table(title=title)
    for head in text.columns:
        table.add_column(head.replace(" ", "\n"), justify="left" if head in left else "right")
    for number, line in enumerate(text.values):
        cells = (re.sub(r" (?=[\[(])|, (?=p )", "\n", cell) for cell in line)
        table.add_row(*map(Text, cells), end_section=number in ends)
    console.print(table)
    for note in notes:
        console.print(note)
