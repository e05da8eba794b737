"""What a sweep that compares (`each` in its space) leaves behind: one table of all candidates, with significance."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ccsi.config import flat, shown
from ccsi.evaluation import metrics
from ccsi.io.atomic import write_atomically
from ccsi.sweep import selection
from ccsi.sweep.events import JobId, Status, trial_name
from ccsi.sweep.runs import Result
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables import rows as tables
from ccsi.sweep.tables.leaderboard import PARTS, markdown
from ccsi.sweep.tables.rows import SweepResults
from ccsi.sweep.tables.statistics import compare_with_best, summary
from ccsi.tracking.console import size

HEADINGS = tables.HEADINGS | {"auc": "AUC"}
"""Figures of the table, as result.json names them -> as a heading."""
ALSO = ("forgetting_nonnegative", "backward_transfer")
"""Figures that only comparison.csv has."""
REFERENCES = {"best": "vs. best", "best_data_free": "vs. best data-free"}
Row = dict[str, Any]


def comparison(sweep: SweepResults) -> list[Row]:
    """One row for each candidate, by kind and then by the mean val metric over the reporting seeds, best first.

    `status` is `done` if all its seeds are; only then it has figures: those of test (`…_mean|std|low|high`),
    `forward_transfer_mean` (where joint training is a candidate, the reference), `val_score`, `seconds` of a run,
    `peak_memory_bytes`, `exemplars` and `stored_bytes` at the end (the largest of its runs). `tried`: how many trials
    completed phase 1, `config/…` the chosen one's. `best_difference` and `best_p` compare its test metric with the
    best candidate's that has no permissions, `best_data_free_…` among the data-free with their best.
    """
    state, key = sweep.state, str(sweep.definition.compared)
    best, rows, found = set(selection.best_trials(state)), list[Row](), dict[str, list[Result]]()
    for arm in state.arms:
        trial = next((n for n in arm if n in best), None)
        row = _arm_row(state, key, arm)
        rows.append(row)
        if trial is None:
            continue
        results = sweep.of_trial(2, trial)
        row |= {"trial": trial_name(trial), "status": str(state.trial_status(2, trial)), "n": len(results)}
        row |= {f"config/{k}": value for k, value in state.configs[trial].items() if k != key}
        if row["status"] == Status.DONE:
            found[row[key]] = results
            row |= _figures(state, trial, results)
        else:
            ends = [state.ends[job] for job in state.jobs(2, trial) if job in state.ends]
            row["error"] = next((end.reason for end in ends), "")
    done = [row for row in rows if row["status"] == Status.DONE]
    if key == "learner":
        _add_forward_transfer(done, found)
    metric = sweep.definition.sweep.metric.removeprefix("val_")
    _add_references(done, key, {name: [float(r["test"][metric]) for r in results] for name, results in found.items()})
    kinds = list(dict.fromkeys(row["kind"] for row in done))
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]) if row in done else 99, -row.get("val_score", 0.0)))


def _arm_row(state: SweepState, key: str, arm: Sequence[int]) -> Row:
    """How phase 1 of a candidate went."""
    statuses = [state.trial_status(1, n) for n in arm if n not in state.untuned]
    ends = [state.ends[job] for n in arm if (job := JobId(1, n)) in state.ends]
    row: Row = {key: str(state.configs[arm[0]][key]), "kind": "", "status": "failed", "n": 0}
    row |= {"tried": statuses.count(Status.DONE), "failed": statuses.count(Status.FAILED)}
    return row | {"error": next((end.reason for end in ends if end.status is Status.FAILED), "")}


def _figures(state: SweepState, trial: int, results: Sequence[Result]) -> Row:
    """The figures of a candidate whose runs are all finished."""
    row: Row = {k: results[0][k] for k in ("kind", "protocol", "data_free")}
    row["permissions"] = ", ".join(results[0]["permissions"])
    for figure in (*HEADINGS, *ALSO):
        s = summary([float(result["test"][figure]) for result in results])
        row |= {f"{figure}_{part}": getattr(s, part) for part in PARTS}
    row["val_score"] = state.score(2, trial)
    row["seconds"] = summary(state.seconds(2, trial), resamples=1).mean
    row["peak_memory_bytes"] = max(max(result["peak_memory_bytes"].values()) for result in results)
    kept = [[item for item in result["stored"] if item["kind"] == "exemplars"] for result in results]
    row["exemplars"] = max(sum(item["count"] for item in items) for items in kept)
    row["stored_bytes"] = max(sum(item["bytes"] for item in result["stored"]) for result in results)
    return row


def _add_forward_transfer(done: Sequence[Row], found: Mapping[str, Sequence[Result]]) -> None:
    """Against joint training, if it is a candidate."""
    joint = next((found[row["learner"]] for row in done if row["permissions"] == "all_tasks"), None)
    if joint is None:
        return
    reference = [[line[-1] for line in result["test"]["accuracy_matrix"]] for result in joint]
    for row in done:
        matrices = [result["test"]["accuracy_matrix"] for result in found[row["learner"]]]
        row["forward_transfer_mean"] = fmean(map(metrics.forward_transfer, matrices, reference))


def _add_references(done: Sequence[Row], key: str, scores: Mapping[str, Sequence[float]]) -> None:
    """How far each candidate is from the best one on val, and from the best data-free one."""
    for name, candidates in (
        ("best", [row for row in done if not row["permissions"]]),
        ("best_data_free", [row for row in done if row["data_free"]]),
    ):
        if not candidates:
            continue
        first = max(candidates, key=lambda row: row["val_score"])[key]
        p = compare_with_best({row[key]: scores[row[key]] for row in candidates}, first)
        for row in candidates:
            row[f"{name}_difference"] = fmean(scores[row[key]]) - fmean(scores[first])
            row[f"{name}_p"] = p.get(row[key])
            row[f"is_{name}"] = row[key] == first


def notes(state: SweepState, rows: Sequence[Row]) -> list[str]:
    """Where the table's figures come from and what they mean, a sentence each."""
    sweep, key = state.definition.sweep, str(state.definition.compared)
    most, n = max(map(len, state.arms)), len(sweep.seeds.reporting)
    said = list[str]()
    if most > 1:
        said.append(
            f"Tuning: at most {most} trials of each {key} on seeds {sweep.seeds.tuning}, the best by mean "
            f"{sweep.metric} of val; test not read."
        )
    elif all(len(values) == 1 for values in state.configs):
        said.append(f"No tuning: each {key} as its configuration is.")
    else:
        said.append(f"No tuning: one config of each {key}, drawn at random.")
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
    metric = sweep.metric.removeprefix("val_").replace("_", " ")
    said.append(
        f"vs. best: difference of test {metric}, in points, from the best on val of "
        f"those without permissions; data-free: among the data-free; {test}."
    )
    if others := other_models(state):
        said.append(f"Another network than the rest: {others}.")
    return said + _failures(rows, key, n)


def _failures(rows: Sequence[Row], key: str, n_seeds: int) -> list[str]:
    said = list[str]()
    for row in rows:
        if row["status"] == Status.DONE and row["failed"]:
            of = row["failed"] + row["tried"]
            said.append(f"{row[key]}: {row['failed']} of {of} trials failed: {row['error'].rstrip('.')}.")
        if row["status"] != Status.DONE:
            why = f": {row['error'].rstrip('.')}" if row.get("error") else ""
            said.append(f"{row[key]}: {row['status']}, {row['n']} of {n_seeds} seeds{why}.")
    return said


def other_models(state: SweepState) -> str:
    """The candidates whose network differs from most others', and how."""
    key = str(state.definition.compared)
    models = {str(values[key]): flat(state.definition.config(values)["model"]) for values in state.configs}
    usual = dict(Counter(item for model in models.values() for item in map(repr, model.items())))
    return "; ".join(
        f"{name} ("
        + ", ".join(f"model.{k}={v}" for k, v in model.items() if 2 * usual[repr((k, v))] < len(models))
        + ")"
        for name, model in models.items()
        if any(2 * usual[repr(item)] < len(models) for item in model.items())
    )


def cells(row: Row, key: str) -> dict[str, str]:
    """A row of `comparison` as text by heading."""
    found = {key: row[key], "kind": row["kind"]}
    if row["status"] != Status.DONE:
        return found | {"kept": row["status"]}
    kept = row["permissions"].replace("_", " ") or (f"{row['exemplars']} images" if row["exemplars"] else "0")
    found |= {"kept": kept, "bytes kept": size(row["stored_bytes"]) if row["stored_bytes"] else "0"}
    for figure, head in HEADINGS.items():
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


def write_comparison(sweep: SweepResults, console: Console) -> list[str]:
    """Write comparison.csv, .md and .tex, and print the table; returns the candidates that have no figures."""
    rows, folder, key = comparison(sweep), sweep.definition.folder, str(sweep.definition.compared)
    write_atomically(folder / "comparison.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    lines = [cells(row, key) for row in rows]
    heads = list(dict.fromkeys(head for line in sorted(lines, key=len, reverse=True) for head in line))
    table = pd.DataFrame(lines, columns=heads).fillna("")
    said = notes(sweep.state, rows)
    text = [f"# {sweep.definition.name}", "", *markdown(heads, table.values.tolist()), ""]
    text += [*(f"- {note}" for note in said), ""]
    chosen = list[str]()
    for row in rows:
        values = [f"{k.removeprefix('config/')}={shown(v)}" for k, v in row.items() if k.startswith("config/")]
        if values:
            of = f"{row.get('trial', '-')}, {row.get('protocol', '-')}; {row['tried']} tried"
            chosen.append(f"- {row[key]} ({of}): {', '.join(values)}")
    text += ["Configs:", "", *chosen, ""] if chosen else []
    write_atomically(folder / "comparison.md", "\n".join(text).encode())
    tex = table.to_latex(index=False, escape=True, column_format="lll" + "r" * (len(heads) - 3))
    write_atomically(folder / "comparison.tex", "\n".join([*(f"% {note}" for note in said), tex]).encode())
    _print(sweep, lines, heads, console)
    for note in said:
        console.print(note, highlight=False, markup=False)
    return [row[key] for row in rows if row["status"] != Status.DONE]


def _print(sweep: SweepResults, lines: Sequence[Mapping[str, str]], heads: Sequence[str], console: Console) -> None:
    key, n = str(sweep.definition.compared), len(sweep.definition.sweep.seeds.reporting)
    left_out = {"kind", "micro", "peak memory", "bytes kept"}
    if console.width < 100:
        left_out |= {"avg. incremental", "forgetting", "AUC"}
    shown_heads = [head for head in heads if head not in left_out]
    table = Table(title=f"{sweep.definition.name}: {n} reporting seeds")
    for head in shown_heads:
        table.add_column(head.replace(" ", "\n"), justify="left" if head in (key, "kept") else "right")
    for line, after in zip(lines, [*lines[1:], None], strict=True):
        values = [line.get(one, "").replace(" [", "\n[").replace(", p", "\np") for one in shown_heads]
        end = after is not None and after["kind"] != line["kind"]
        table.add_row(*(value.replace("[", "\\[") for value in values), end_section=end)
    console.print(table)
