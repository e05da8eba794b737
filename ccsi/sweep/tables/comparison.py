"""What a sweep that compares (`each` in its space) leaves behind: one table of all candidates, with significance."""

import math
from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ccsi.config import flat, shown
from ccsi.evaluation import metrics
from ccsi.io.atomic import write_atomically
from ccsi.sweep.book import Book
from ccsi.sweep.tables.leaderboard import markdown
from ccsi.sweep.tables.statistics import against, summary
from ccsi.sweep.trial import LIVE
from ccsi.tracking.console import size

FIGURES = {
    "final_accuracy_macro": "macro",
    "final_accuracy_micro": "micro",
    "average_incremental_accuracy": "avg. incremental",
    "forgetting": "forgetting",
    "auc": "AUC",
}
"""Figures of the table, as result.json names them -> as a heading."""
ALSO = ("forgetting_nonnegative", "backward_transfer", "acc")
"""Figures that only comparison.csv has."""
REFERENCES = {"best": "vs. best", "best_data_free": "vs. best data-free"}


def comparison(book: Book) -> list[dict[str, Any]]:
    """One row for each candidate, by kind and then by the mean val metric over the reporting seeds, best first.

    `status` is `done` if all its seeds are; only then it has figures: those of test (`…_mean|std|low|high`),
    `forward_transfer_mean` (where joint training is a candidate, the reference), `val_score`, `seconds` of a run,
    `peak_memory_bytes`, `exemplars` and `stored_bytes` at the end (the largest of its runs). `tried`: how many settings
    completed phase 1, `config/…` the chosen one. `best_difference` and `best_p` compare its test metric with the best
    candidate's that has no permissions, `best_data_free_…` among the data-free with their best (see `against`).
    """
    key, metric = book.definition.compared, LIVE[book.definition.sweep.metric]
    assert key is not None
    best, rows = set(book.best()), list[dict[str, Any]]()
    found = dict[str, list[Mapping[str, Any]]]()
    for lot in book.lots:
        setting = next((n for n in lot if n in best), None)
        name = str(book.settings[lot[0]][key])
        row: dict[str, Any] = {key: name, "kind": "", "status": "failed", "n": 0}
        row["tried"] = sum(n not in book.given and book.group(1, n) == "done" for n in lot)
        row["failed"] = sum(book.group(1, n) == "failed" for n in lot if n not in book.given)
        ends = [book.ends.get(book.trial(1, n, 0), ("", "")) for n in lot]
        row["error"] = next((error for status, error in ends if status == "failed"), "")
        rows.append(row)
        if setting is None:
            continue
        results = [result for _, run in book.runs(2, setting) if (result := book.result(run)) is not None]
        row |= {"setting": f"c{setting:02d}", "status": book.group(2, setting), "n": len(results)}
        row |= {f"config/{k}": value for k, value in book.settings[setting].items() if k != key}
        if row["status"] != "done":
            trials = [book.trial(2, setting, seed) for seed, _ in book.runs(2, setting)]
            row["error"] = next((end[1] for trial in trials if (end := book.ends.get(trial))), "")
            continue
        found[name] = list(results)
        row |= {k: results[0][k] for k in ("kind", "protocol", "data_free")}
        row["permissions"] = ", ".join(results[0]["permissions"])
        for figure in (*FIGURES, *ALSO):
            s = summary([float(result[figure]) for result in results])
            row |= {f"{figure}_{part}": getattr(s, part) for part in ("mean", "std", "low", "high")}
        row["val_score"] = book.score(2, setting)
        row["seconds"] = summary(book.seconds(2, setting), resamples=1).mean
        row["peak_memory_bytes"] = max(max(result["peak_memory_bytes"].values()) for result in results)
        kept = [[item for item in result["stored"] if item["kind"] == "exemplars"] for result in results]
        row["exemplars"] = max(sum(item["count"] for item in items) for items in kept)
        row["stored_bytes"] = max(sum(item["bytes"] for item in result["stored"]) for result in results)
    done = [row for row in rows if row["status"] == "done"]
    at_once = next((found[row[key]] for row in done if row["permissions"] == "all_tasks"), None)
    for row in done if at_once and key == "learner" else []:
        reference = [[line[-1] for line in result["accuracy_matrix"]] for result in at_once or []]
        matrices = [result["accuracy_matrix"] for result in found[row[key]]]
        row["forward_transfer_mean"] = fmean(map(metrics.forward_transfer, matrices, reference))
    scores = {name: [float(result[metric]) for result in results] for name, results in found.items()}
    for reference_name, rivals in (
        ("best", [row for row in done if not row["permissions"]]),
        ("best_data_free", [row for row in done if row["data_free"]]),
    ):
        first = max(rivals, key=lambda row: row["val_score"], default={key: ""})[key]
        p = against({row[key]: scores[row[key]] for row in rivals}, first) if first else {}
        for row in rivals:
            row[f"{reference_name}_difference"] = fmean(scores[row[key]]) - fmean(scores[first])
            row[f"{reference_name}_p"] = p.get(row[key])
            row[f"is_{reference_name}"] = row[key] == first
    kinds = list(dict.fromkeys(row["kind"] for row in done))
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]) if row in done else 99, -row.get("val_score", 0.0)))


def notes(book: Book, rows: list[dict[str, Any]]) -> list[str]:
    """Where the table's figures come from and what they mean, a sentence each."""
    sweep, key = book.definition.sweep, str(book.definition.compared)
    most, n = max(len(lot) for lot in book.lots), len(sweep.seeds.reporting)
    said = []
    if most > 1:
        said.append(
            f"Tuning: at most {most} settings of each {key} on seeds {sweep.seeds.tuning}, the best by mean "
            f"{sweep.metric} of val; test not read."
        )
    elif all(len(values) == 1 for values in book.settings):
        said.append(f"No tuning: each {key} as its configuration is.")
    else:
        said.append(f"No tuning: one setting of each {key}, drawn at random.")
    spread = {1: "", 2: " [the two seeds]"}.get(n, " [95 % bootstrap interval of the mean, narrow for few seeds]")
    said.append(
        f"Figures are of test, in %, after the last task: mean over the reporting seeds {sweep.seeds.reporting}{spread}"
        "; by kind, then by val. Kept: real images at the end. Peak memory: the process's, or on a GPU its allocations."
    )
    test = (
        "no test of significance for fewer than three seeds"
        if n < 3
        else "p of a paired t-test over the seeds, false discovery rate controlled (Benjamini and Yekutieli 2001)"
    )
    said.append(
        f"vs. best: difference of test {LIVE[sweep.metric].replace('_', ' ')}, in points, from the best on val of "
        f"those without permissions; data-free: among the data-free; {test}."
    )
    if others := other_models(book):
        said.append(f"Another network than the rest: {others}.")
    for row in rows:
        if row["status"] == "done" and row["failed"]:
            of = row["failed"] + row["tried"]
            said.append(f"{row[key]}: {row['failed']} of {of} settings failed: {row['error'].rstrip('.')}.")
        if row["status"] != "done":
            why = f": {row['error'].rstrip('.')}" if row.get("error") else ""
            said.append(f"{row[key]}: {row['status']}, {row['n']} of {n} seeds{why}.")
    return said


def other_models(book: Book) -> str:
    """The candidates whose network differs from most others', and how."""
    key = str(book.definition.compared)
    models = {str(values[key]): flat(book.definition.config(values)["model"]) for values in book.settings}
    usual = dict(Counter(item for model in models.values() for item in map(repr, model.items())))
    return "; ".join(
        f"{name} ("
        + ", ".join(f"model.{k}={v}" for k, v in model.items() if 2 * usual[repr((k, v))] < len(models))
        + ")"
        for name, model in models.items()
        if any(2 * usual[repr(item)] < len(models) for item in model.items())
    )


def cells(row: dict[str, Any], key: str) -> dict[str, str]:
    """A row of `comparison` as text by heading."""
    found = {key: row[key], "kind": row["kind"]}
    if row["status"] != "done":
        return found | {"kept": row["status"]}
    kept = row["permissions"].replace("_", " ") or (f"{row['exemplars']} images" if row["exemplars"] else "0")
    found |= {"kept": kept, "bytes kept": size(row["stored_bytes"]) if row["stored_bytes"] else "0"}
    for figure, head in FIGURES.items():
        mean, low, high = (100 * row[f"{figure}_{part}"] for part in ("mean", "low", "high"))
        found[head] = f"{mean:.1f}" + (f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else "")
    found |= {"seconds": f"{row['seconds']:.0f}", "peak memory": size(row["peak_memory_bytes"])}
    for reference, head in REFERENCES.items():
        p, difference = row.get(f"{reference}_p"), row.get(f"{reference}_difference")
        found[head] = (
            "" if difference is None else f"{100 * difference:+.1f}" + (f", p {p:.2g}" if p is not None else "")
        )
        if row.get(f"is_{reference}"):
            found[head] = "best"
    return found


def write_comparison(book: Book, console: Console) -> list[str]:
    """comparison.csv, .md and .tex; and the table in the terminal. Returns the candidates that have no figures."""
    rows, folder, key = comparison(book), book.definition.folder, str(book.definition.compared)
    write_atomically(folder / "comparison.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    lines = [cells(row, key) for row in rows]
    heads = list(dict.fromkeys(head for line in sorted(lines, key=len, reverse=True) for head in line))
    table = pd.DataFrame(lines, columns=heads).fillna("")
    said = notes(book, rows)
    text = [
        f"# {book.definition.name}",
        "",
        *markdown(heads, table.values.tolist()),
        "",
        *(f"- {note}" for note in said),
        "",
    ]
    chosen = []
    for row in rows:
        values = [f"{k.removeprefix('config/')}={shown(v)}" for k, v in row.items() if k.startswith("config/")]
        if values:
            of = f"{row.get('setting', '-')}, {row.get('protocol', '-')}; {row['tried']} tried"
            chosen.append(f"- {row[key]} ({of}): {', '.join(values)}")
    text += ["Settings:", "", *chosen, ""] if chosen else []
    write_atomically(folder / "comparison.md", "\n".join(text).encode())
    tex = table.to_latex(index=False, escape=True, column_format="lll" + "r" * (len(heads) - 3))
    write_atomically(folder / "comparison.tex", "\n".join([*(f"% {note}" for note in said), tex]).encode())
    terminal = Table(title=f"{book.definition.name}: {len(book.definition.sweep.seeds.reporting)} reporting seeds")
    inner = [head for head in heads if head not in ("kind", "micro", "peak memory", "bytes kept")]
    for head in inner:
        terminal.add_column(head.replace(" ", "\n"), justify="left" if head in (key, "kept") else "right")
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        values = [line.get(head, "").replace(" [", "\n[").replace(", p", "\np").replace("[", "\\[") for head in inner]
        terminal.add_row(*values, end_section=after is not None and after["kind"] != line["kind"])
    console.print(terminal)
    for note in said:
        console.print(note, highlight=False, markup=False)
    return [row[key] for row in rows if row["status"] != "done"]
