"""What a sweep leaves behind: the trials table, the leaderboard, and the best setting's configuration."""

import io
import json
import math
from collections import Counter
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

import ccsi.config
from ccsi.io.atomic import write_atomically
from ccsi.sweep.book import Book
from ccsi.sweep.definition import SCHEDULERS
from ccsi.sweep.tables.statistics import Summary, fronts, summary
from ccsi.sweep.trial import LIVE

FIGURES = {
    "final_accuracy_macro": "macro",
    "final_accuracy_micro": "micro",
    "average_incremental_accuracy": "avg. incremental",
    "forgetting": "forgetting",
}
"""Figures of the leaderboard, as result.json names them -> as a heading."""


def write_trials(book: Book) -> pd.DataFrame:
    """trials.csv and trials.parquet: one row per run of both phases."""
    table = pd.DataFrame(book.rows())
    for name in table.columns:
        if name.startswith("config/"):  # lists and mixed kinds as text: a Parquet column has one type
            values = [value for value in table[name] if not (isinstance(value, float) and math.isnan(value))]
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                there = table[name].notna()  # a key that only some settings have
                texts = [value if isinstance(value, str) else json.dumps(value) for value in table[name]]
                table[name] = [text if known else None for text, known in zip(texts, there, strict=True)]
        elif name.startswith(("val_", "test_")) or name == "seconds":
            table[name] = table[name].astype("float64")
    folder = book.definition.folder
    write_atomically(folder / "trials.csv", table.to_csv(index=False).encode())
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(folder / "trials.parquet", buffer.getvalue())
    return table


def leaderboard(book: Book) -> list[dict[str, Any]]:
    """The settings of phase 2, best first: by their mean val metric over the reporting seeds, never by test.

    Each has `rank` (None while its seeds are not complete: nothing is averaged then), `setting`, `status`,
    `n` of `seeds` runs, `config/…`, and for complete ones `<split>_<figure>_mean|std|low|high`, `seconds_mean|std` of
    a run and, with `sweep.minimize`, `front`: whether no other row beats its val metric and seconds both.
    """
    if not book.searched():
        return []
    rows = []
    for setting in book.best():
        runs = book.runs(2, setting)
        results = [result for _, run in runs if (result := book.result(run)) is not None]
        status = book.group(2, setting)
        protocols = sorted({str(result["protocol"]) for result in results})
        row: dict[str, Any] = {"rank": None, "setting": f"c{setting:02d}", "status": status}
        row["protocol"] = ", ".join(protocols) or None
        row |= {"n": len(results), "seeds": len(runs)}
        row |= {f"config/{key}": value for key, value in book.settings[setting].items()}
        row["phase_1_score"] = book.score(1, setting)
        if status == "done":
            for split, figures in (("test", results), ("val", [r["val"] for r in results])):
                for name in FIGURES:
                    values = [float(one[name]) for one in figures if one.get(name) is not None]
                    if len(values) == len(runs):
                        s = summary(values)
                        row |= {f"{split}_{name}_{part}": getattr(s, part) for part in ("mean", "std", "low", "high")}
            s = summary(book.seconds(2, setting), resamples=1)
            row |= {"seconds_mean": s.mean, "seconds_std": s.std}
        rows.append(row)
    key = f"val_{LIVE[book.definition.sweep.metric]}_mean"
    if book.definition.sweep.minimize:
        done = [row for row in rows if row["status"] == "done"]
        numbers = fronts([row[key] for row in done], [row["seconds_mean"] for row in done])
        for row, front in zip(done, numbers, strict=True):
            row["front"] = front == 0
    rows.sort(key=lambda row: (row["status"] != "done", -row.get(key, 0.0), row["setting"]))
    for number, row in enumerate(rows, 1):
        row["rank"] = number if row["status"] == "done" else None
    return rows


def protocol(book: Book) -> str:
    """Where the leaderboard's numbers come from, in words."""
    sweep, known = book.definition.sweep, book.known()
    statuses = Counter(book.group(1, n) for n in known)
    limit = book.exhausted() if len(known) < book.planned_settings() else ""
    notes = [f"{sweep.search} search" + (f", {SCHEDULERS[sweep.scheduler]}" if sweep.scheduler != "none" else "")]
    notes += [f"ended by {limit}"] if limit else []
    if book.earlier["folders"]:
        tried, told = len(book.first()), f", {len(book.earlier['tried'])} scores told to Optuna"
        where = ", ".join(book.earlier["folders"])
        notes.append(f"warm start from {where}: {tried} tried first{told if sweep.search == 'optuna' else ''}")
    if statuses["pruned"]:
        ends = Counter(book.pruned(n) for n in known if book.group(1, n) == "pruned").most_common()
        notes.append(f"{statuses['pruned']} pruned ({', '.join(f'{count} {end}' for end, count in ends)})")
    notes += [f"{statuses[status]} {status}" for status in ("failed", "incomplete") if statuses[status]]
    how = f"by mean {sweep.metric}"
    if sweep.minimize:
        how = f"from the Pareto fronts of mean {sweep.metric} (best first) and mean {sweep.minimize} of a run"
    if book.definition.compared is not None and not known:
        return f"No phase 1: nothing to choose from. {_phase_2(book)}"
    return (
        f"Phase 1: {len(known)}{f' of {book.planned_settings()}' if limit else ''} settings ({'; '.join(notes)}) on "
        f"tuning seeds {sweep.seeds.tuning}, chosen {how}; test not read. {_phase_2(book)}"
    )


def _phase_2(book: Book) -> str:
    sweep, key, n = book.definition.sweep, book.definition.compared, len(book.best())
    which = f"the best {n}" if key is None else f"the best {sweep.top_k} of each {key}, {n} in all,"
    return (
        f"Phase 2: {which} on fresh reporting seeds {sweep.seeds.reporting}, "
        f"nothing pruned, ranked by mean {sweep.metric}. All figures are phase 2's: mean ± standard deviation over "
        "seeds, [95 % bootstrap interval of the mean], in %."
        + (" Front: no other row has both a better val metric and fewer seconds." if sweep.minimize else "")
    )


def write_leaderboard(book: Book, console: Console) -> None:
    """leaderboard.csv, leaderboard.md, best.yaml; and the leaderboard in the terminal.

    Where candidates are compared, best/<candidate>.yaml of each; what the terminal shows is `write_comparison`'s.
    """
    rows, folder = leaderboard(book), book.definition.folder
    flat = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows]
    write_atomically(folder / "leaderboard.csv", pd.DataFrame(flat).to_csv(index=False).encode())
    keys = list(dict.fromkeys(key for row in rows for key in book.settings[int(row["setting"][1:])]))
    heads = ["rank", "setting", "protocol", *keys, "n"] + [
        f"{split} {name}" for name in FIGURES.values() for split in ("test", "val")
    ]
    aims = ["seconds"] if book.definition.sweep.minimize else []
    heads += aims
    lines = [[cell.replace("\n", " ") for cell in _cells(row, keys, aims)] for row in rows]
    text = [f"# {book.definition.name}", "", protocol(book), "", *markdown(heads, lines)]
    pruned = [f"- c{n:02d}: pruned {end}" for n in book.known() if (end := book.pruned(n))]
    text += ["", *pruned] if pruned else []
    compared, done = book.definition.compared, [row for row in rows if row["status"] == "done"]
    if compared is not None:
        text += [
            "",
            f"`best/` has the configuration of each {compared}'s first row: `python -m ccsi best/NAME.yaml`.",
            "",
        ]
        (folder / "best").mkdir(exist_ok=True)
        for row in reversed(done):  # the first comes last, and stays
            name = folder / "best" / f"{row[f'config/{compared}'].replace('/', '-')}.yaml"
            write_atomically(name, best_yaml(book, int(row["setting"][1:])).encode())
    else:
        text += ["", "`best.yaml` is the first row's configuration: `python -m ccsi best.yaml`.", ""]
        for row in done[:1]:
            write_atomically(folder / "best.yaml", best_yaml(book, int(row["setting"][1:])).encode())
    write_atomically(folder / "leaderboard.md", "\n".join(text).encode())
    if compared is not None:
        return
    table = Table(
        title=f"{book.definition.name}: phase 2, {len(book.definition.sweep.seeds.reporting)} reporting seeds"
    )
    below = {*keys, "protocol", "val forgetting"}
    kept = [n for n, head in enumerate(heads) if head not in below and "micro" not in head]
    for n in kept:
        table.add_column(heads[n].replace(" ", "\n", 1))
    for line in lines:
        table.add_row(*(line[n].replace(" [", "\n[").replace(" (", "\n(").replace("[", "\\[") for n in kept))
    console.print(table)
    for row in rows:
        values = " ".join(f"{key}={_short(row[f'config/{key}'])}" for key in keys if f"config/{key}" in row)
        console.print(f"{row['setting']}: {values} ({row['protocol']})", highlight=False, markup=False)
    console.print(protocol(book), highlight=False, markup=False)


def markdown(heads: list[str], lines: list[list[str]]) -> list[str]:
    """The lines of a table of text."""
    body = (" | ".join(["", *line, ""]).strip() for line in (heads, *lines))
    return [next(body), "|" + "---|" * len(heads), *body]


def best_yaml(book: Book, setting: int) -> str:
    """A setting's whole configuration, as `python -m ccsi <file>` takes it: first reporting seed, test evaluated."""
    definition, values = book.definition, book.settings[setting]
    config = definition.config(values)
    config |= {
        "device": definition.device(config),
        "seed": definition.sweep.seeds.reporting[0],
        "threads": definition.threads(values),
        "workers": definition.resources.workers,
        "run_dir": None,
        "evaluate_test": True,
    }
    how = "python -m ccsi" if definition.resources.workers == 1 else "python tune/train.py"
    head = f"# The best setting (c{setting:02d}) of {definition.name}, on val: {how} <this file>\n"
    return head + ccsi.config.to_yaml(config)


def _cells(row: dict[str, Any], keys: list[str], aims: list[str]) -> list[str]:
    settings = [row["protocol"] or "-", *(_short(row.get(f"config/{key}", "")) for key in keys)]
    if row["status"] != "done":
        state = f"{row['n']} of {row['seeds']}, {row['status']}"
        return ["-", row["setting"], *settings, state, *["-"] * (2 * len(FIGURES) + len(aims))]
    figures = [_figure(row, f"{split}_{name}") for name in FIGURES for split in ("test", "val")]
    if aims:
        spread = "" if math.isnan(row["seconds_std"]) else f" ± {row['seconds_std']:.1f}"
        figures.append(f"{row['seconds_mean']:.1f}{spread}{' (front)' if row['front'] else ''}")
    return [str(row["rank"]), row["setting"], *settings, str(row["n"]), *figures]


def _figure(row: dict[str, Any], name: str) -> str:
    if f"{name}_mean" not in row:
        return "-"
    s = Summary(row["n"], *(100 * row[f"{name}_{part}"] for part in ("mean", "std", "low", "high")))
    return f"{s.mean:.1f}" if s.n == 1 else f"{s.mean:.1f} ± {s.std:.1f} [{s.low:.1f}, {s.high:.1f}]"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ccsi.config.shown(value)


def pictures(book: Book) -> str:
    """Draw the sweep's plots; returns what went wrong, if anything: a picture must not cost a sweep its tables."""
    try:
        from ccsi.report.sweep import draw_sweep

        sweep = book.definition.sweep
        draw_sweep(book.definition.folder, LIVE[sweep.metric], sweep.minimize, book.definition.compared)
    except Exception as error:
        return f"plots were not drawn ({type(error).__name__}: {error})"
    return ""
