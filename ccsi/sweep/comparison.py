"""What a sweep that compares (`each` in its space) leaves behind: one table of all candidates, with significance."""

import math
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ccsi import metrics
from ccsi.checkpoint import write_atomically
from ccsi.sweep.book import Book
from ccsi.sweep.statistics import against, summary
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


def comparison(book: Book) -> list[dict[str, Any]]:
    """One row for each candidate, by kind and then by the mean val metric over the reporting seeds, best first.

    A candidate's row is that of its best setting in phase 2 (on val). `status` is `done` if all its seeds are; only
    then it has figures: test figures of `FIGURES` (`…_mean|std|low|high`), `val_score`, `seconds` of a run,
    `peak_memory_bytes`, `exemplars` and `stored_bytes` at the end (the largest of its runs), and `p_best` and
    `p_best_data_free`: whether its test metric differs from that of the best candidate without permissions, and from
    that of the best data-free one (`against`; None for the best itself).
    """
    key, metric = book.definition.compared, LIVE[book.definition.sweep.metric]
    assert key is not None
    rows, scores, matrices = list[dict[str, Any]](), dict[str, list[float]](), dict[str, list[metrics.Matrix]]()
    for lot in book.lots:
        reported = [n for n in book.best() if n in set(lot)]
        done = [n for n in reported if book.group(2, n) == "done"]
        best = max(done, key=lambda n: summary(book.scores(2, n), resamples=1).mean, default=None)
        setting = best if best is not None else reported[0] if reported else lot[0]
        name = str(book.settings[setting][key])
        row: dict[str, Any] = {key: name, "kind": "", "setting": f"c{setting:02d}", "status": "done"}
        rows.append(row)
        if best is None:
            row |= {"status": book.group(2, setting) if reported else "failed", "n": 0}
            continue
        results = [result for _, run in book.runs(2, setting) if (result := book.result(run)) is not None]
        first = results[0]
        scores[name] = [float(result[metric]) for result in results]
        matrices[name] = [result["accuracy_matrix"] for result in results]
        row |= {"kind": first["kind"], "protocol": first["protocol"], "data_free": first["data_free"]}
        row |= {"permissions": ", ".join(first["permissions"]), "n": len(results)}
        for figure in FIGURES:
            s = summary([float(result[figure]) for result in results])
            row |= {f"{figure}_{part}": getattr(s, part) for part in ("mean", "std", "low", "high")}
        row["val_score"] = summary(book.scores(2, setting), resamples=1).mean
        row["seconds"] = summary(book.seconds(2, setting), resamples=1).mean
        row["peak_memory_bytes"] = max(max(result["peak_memory_bytes"].values()) for result in results)
        row["exemplars"] = max(
            sum(i["count"] for i in result["stored"] if i["kind"] == "exemplars") for result in results
        )
        row["stored_bytes"] = max(sum(item["bytes"] for item in result["stored"]) for result in results)
    at_once = next((matrices[row[key]] for row in rows if row.get("permissions") == "all_tasks"), None)
    for row in rows if at_once else []:  # forward transfer, as seen from joint training with the same seeds
        pairs = zip(matrices.get(row[key], []), at_once or [], strict=False)
        gains = [metrics.forward_transfer(r, [line[-1] for line in joint]) for r, joint in pairs]
        row["forward_transfer_mean"] = summary(gains, resamples=1).mean if gains else None
    for column, among in (("p_best", "permissions"), ("p_best_data_free", "data_free")):
        rivals = [row for row in rows if row["n"] and (row["data_free"] or (among == "permissions" and not row[among]))]
        if rivals:
            best_name = max(rivals, key=lambda row: row["val_score"])[key]
            values = against(scores, best_name)
            for row in rows:
                row[column] = values.get(row[key])
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), -row.get("val_score", -1.0)))


def tuning(book: Book) -> str:
    """Where the table's figures come from, in words."""
    sweep = book.definition.sweep
    most, n = max(len(lot) for lot in book.lots), len(sweep.seeds.reporting)
    words = ["no tuning: each with the settings of its recipe."]
    if most > sweep.top_k:
        words = [
            f"tuning: at most {most} settings each (fewer where a method has fewer to tune) on seeds",
            f"{sweep.seeds.tuning}, the best by mean {sweep.metric}, test not read.",
        ]
    words += [
        f"Reported on fresh seeds {sweep.seeds.reporting}: test figures in %, mean of {n}"
        + (" [95 % bootstrap interval]; sorted by val." if n > 1 else "; sorted by val."),
        f"p: a paired t-test over the seeds on test {LIVE[sweep.metric].replace('_', ' ')} against the best (on val)",
        "of those that keep to their tasks' data, and against the best data-free one, corrected for the number of",
        "comparisons (Benjamini and Yekutieli 2001).",
    ]
    return " ".join(words)


def cells(row: dict[str, Any], key: str) -> dict[str, str]:
    """A row of `comparison` as text by heading."""
    found = {key: row[key], "kind": row["kind"]}
    if row["status"] != "done":
        return found | {"kept": row["status"]}
    found |= {
        "kept": f"{row['exemplars']} images" if row["exemplars"] else "-",
        "bytes kept": size(row["stored_bytes"]),
    }
    if row["permissions"]:
        found["kept"] = row["permissions"].replace("_", " ")
    for figure, head in FIGURES.items():
        mean, low, high = (100 * row[f"{figure}_{part}"] for part in ("mean", "low", "high"))
        found[head] = f"{mean:.1f}" + (f" [{low:.1f}, {high:.1f}]" if math.isfinite(low) else "")
    found |= {"seconds": f"{row['seconds']:.0f}", "peak memory": size(row["peak_memory_bytes"])}
    for head, column in (("p", "p_best"), ("p, data-free", "p_best_data_free")):
        found[head] = "best" if row[column] is None else "-" if math.isnan(row[column]) else f"{row[column]:.2g}"
    return found


def write_comparison(book: Book, console: Console) -> None:
    """comparison.csv, .md and .tex; and the table in the terminal."""
    rows, folder, key = comparison(book), book.definition.folder, str(book.definition.compared)
    write_atomically(folder / "comparison.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    lines = [cells(row, key) for row in rows]
    heads = list(dict.fromkeys(head for line in lines for head in line))
    table = pd.DataFrame(lines, columns=heads).fillna("")
    note = tuning(book)
    text = [f"# {book.definition.name}", "", *markdown(table), "", note, ""]
    write_atomically(folder / "comparison.md", "\n".join(text).encode())
    tex = f"% {note}\n" + table.to_latex(index=False, escape=True, column_format="lll" + "r" * (len(heads) - 3))
    write_atomically(folder / "comparison.tex", tex.encode())
    shown = Table(title=f"{book.definition.name}: {len(book.definition.sweep.seeds.reporting)} reporting seeds")
    for head in heads:
        if head not in ("micro", "peak memory", "bytes kept"):
            shown.add_column(head.replace(" ", "\n"), justify="left" if head in (key, "kind", "kept") else "right")
    for line in lines:
        values = [line.get(head, "") for head in heads if head not in ("micro", "peak memory", "bytes kept")]
        shown.add_row(*(value.replace(" [", "\n[").replace("[", "\\[") for value in values))
    console.print(shown)
    console.print(note, highlight=False, markup=False)


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a table of text."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return ["| " + " | ".join(line) + " |" for line in lines]
