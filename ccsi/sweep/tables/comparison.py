"""What a sweep that compares (`each` in its space) leaves behind: one table of all candidates, with significance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd
from rich.console import Console

from ccsi.config import flat, shown
from ccsi.evaluation import metrics
from ccsi.io.atomic import write_atomically
from ccsi.io.text import all_printable
from ccsi.sweep import selection
from ccsi.sweep.definition import Sweep
from ccsi.sweep.events import JobId, Status, trial_name
from ccsi.sweep.ranking import mean
from ccsi.sweep.runs import Result
from ccsi.sweep.state import SweepState
from ccsi.sweep.tables.latex import latex_table
from ccsi.sweep.tables.leaderboard import describe_extensions, print_table, write_table
from ccsi.sweep.tables.rows import HEADINGS, Row, SweepResults, first_error
from ccsi.sweep.tables.statistics import TOO_FEW, Difference, compare_with, difference_text, mean_text, summary
from ccsi.tracking.console import size

COMPARED_FIGURES = HEADINGS | {"auc": "AUC"}
"""Figures of the table, as result.json names them -> as a heading."""
ALSO = ("forgetting_nonnegative", "backward_transfer")  # figures that only comparison.csv has
REFERENCES = {"best": "vs. best", "best_data_free": "vs. best data-free"}
PARTS = ("difference", "difference_low", "difference_high", "p", "untested")
"""The columns of a reference, after its name, in the order of `Difference`."""


def comparison(sweep: SweepResults) -> list[Row]:
    """One row for each candidate, by kind and then by the mean val metric over the reporting seeds, best first.

    `status` is `done` if all its seeds are; only then it has figures: those of test (`…_mean|std`),
    `forward_transfer_mean` (against joint training, if it is a candidate), `val_score`, `seconds` of a run,
    `peak_memory_bytes`, `exemplars` and `stored_bytes` at the end (the largest of its runs). `tried`: how many trials
    completed phase 1, `config/…` the best one's. `best_difference`, its interval `best_difference_low|high`, and
    `best_p` compare its test metric with the best candidate's that has no permissions, `best_data_free_…` among the
    data-free with their best; `…_untested` says why there is no p.
    """
    state, key = sweep.state, str(sweep.state.definition.compared)
    best, rows, results = set(selection.best_trials(state)), list[Row](), dict[str, list[Result]]()
    for arm in state.arms:
        statuses = Counter(state.trial_status(1, n) for n in arm if n not in state.untuned)
        row: Row = {key: str(state.configs[arm[0]][key]), "kind": "", "status": "failed", "n": 0}
        row |= {"tried": statuses[Status.DONE], "failed": statuses[Status.FAILED]}
        row["error"] = first_error(state, [JobId(1, n) for n in arm])
        rows.append(row)
        for trial in best.intersection(arm):  # one, if any
            status, own = state.trial_status(2, trial), sweep.of_trial(2, trial)
            row |= {"trial": trial_name(trial), "status": str(status), "n": len(own)}
            row |= {f"config/{k}": value for k, value in state.configs[trial].items() if k != key}
            if status is Status.DONE:
                results[row[key]] = own
                row |= _figures(state, trial, own)
            else:
                row["error"] = first_error(state, state.jobs(2, trial))
    done = [row for row in rows if row[key] in results]
    matrices = {name: [one["test"]["accuracy_matrix"] for one in own] for name, own in results.items()}
    joint = next((row[key] for row in done if row["permissions"] == "all_tasks"), None)
    if key == "learner" and joint is not None:
        reference = [[line[-1] for line in matrix] for matrix in matrices[joint]]
        for row in done:
            row["forward_transfer_mean"] = fmean(map(metrics.forward_transfer, matrices[row[key]], reference))
    _add_references(done, key, results, state.definition.sweep)
    kinds = list(dict.fromkeys([*(row["kind"] for row in done), ""]))
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), -row.get("val_score", 0.0)))


def _figures(state: SweepState, trial: int, results: Sequence[Result]) -> Row:
    """The figures of a candidate whose runs are all finished."""
    row: Row = {k: results[0][k] for k in ("kind", "protocol", "data_free")}
    row["permissions"] = ", ".join(results[0]["permissions"])
    for figure in (*COMPARED_FIGURES, *ALSO):
        values = [float(result["test"][figure]) for result in results if result["test"].get(figure) is not None]
        if len(values) == len(results):
            found = summary(values)  # a mean's own interval beside the difference's would seem to contradict it
            row |= {f"{figure}_mean": found.mean, f"{figure}_std": found.std}
    row |= {"val_score": state.score(2, trial), "seconds": mean(state.seconds(2, trial))}
    row["peak_memory_bytes"] = max(max(result["peak_memory_bytes"].values()) for result in results)
    stored = [result["stored"] for result in results]
    row["exemplars"] = max(sum(one["count"] for one in items if one["kind"] == "exemplars") for items in stored)
    row["stored_bytes"] = max(sum(one["bytes"] for one in items) for items in stored)
    return row


def _add_references(done: Sequence[Row], key: str, results: Mapping[str, Sequence[Result]], sweep: Sweep) -> None:
    """How far each candidate is from the best one on val, and from the best data-free one, in the test metric."""
    metric = sweep.metric.removeprefix("val_")
    values = {name: [float(one["test"][metric]) for one in own] for name, own in results.items()}
    candidates = {"best": [row for row in done if not row["permissions"]]}
    candidates["best_data_free"] = [row for row in done if row["data_free"]]
    for name, group in candidates.items():
        if not group:
            continue
        first = max(group, key=lambda row: row["val_score"])[key]
        found = compare_with(first, {row[key]: values[row[key]] for row in group})
        for row in group:
            one = found.get(row[key], Difference(0.0))
            row |= {f"{name}_{part}": value for part, value in zip(PARTS, one, strict=True)}
            row[f"is_{name}"] = row[key] == first


def notes(state: SweepState, rows: Sequence[Row]) -> list[str]:
    """Where the table's figures come from and what they mean, a sentence each."""
    sweep, key = state.definition.sweep, str(state.definition.compared)
    most, n, metric = max(map(len, state.arms)), len(sweep.seeds.reporting), sweep.metric
    if most > 1:
        tuning = f"Tuning: at most {most} trials of each {key} on seeds {sweep.seeds.tuning}, the best by mean {metric}"
        tuning = f"{tuning} of val; test not read."
    elif all(len(values) == 1 for values in state.configs):
        tuning = f"No tuning: each {key} as its configuration is."
    elif state.definition.search == "random":
        tuning = f"No tuning: one config of each {key}; what its space leaves open is drawn at random."
    else:
        tuning = f"No tuning: one config of each {key}, as sweep.space gives it."
    spread = " ± standard deviation" if n > 1 else ""
    test = (
        "[its interval over the seeds, Student's t] and p of a paired t-test, both adjusted for how many are compared "
        "(Benjamini and Yekutieli 2001, 2005), so that the interval leaves out 0 exactly where the adjusted p < 0.05"
    )
    if n < 3:
        test = "no interval and no test of significance for fewer than three seeds"
    sentences = [
        tuning,
        f"Figures are of test, in %, after the last task: mean{spread} over the reporting seeds "
        f"{sweep.seeds.reporting}; by kind, then by val. The headline is macro over tasks; see docs/glossary.md. "
        "Kept: real images at the end. Peak memory: the process's, or on a GPU its allocations.",
        f"vs. best: difference of test {metric.removeprefix('val_').replace('_', ' ')}, in points, from the best on "
        f"val of those without permissions; data-free: among the data-free; {test}. The best is chosen on the same "
        "seeds, so differences from it look slightly too large.",
        *_untested(rows, key),
    ]
    if others := other_models(state):
        sentences.append(f"Another network than the rest: {others}.")
    for row in rows:
        why = f": {row['error'].rstrip('.')}." if row["error"] else "."
        if row["status"] != Status.DONE:
            sentences.append(f"{row[key]}: {row['status']}, {row['n']} of {n} seeds{why}")
        elif row["failed"]:
            sentences.append(f"{row[key]}: {row['failed']} of {row['failed'] + row['tried']} trials failed{why}")
    return sentences


def _untested(rows: Sequence[Row], key: str) -> list[str]:
    """Which differences have no interval and no p, and why; fewer than three seeds are the same for all."""
    names = dict[str, list[str]]()
    for row in rows:
        for why in dict.fromkeys(row.get(f"{name}_untested") for name in REFERENCES):
            if why and why != TOO_FEW:
                names.setdefault(why, []).append(row[key])
    return [f"No interval and no p for {', '.join(found)}: {why}." for why, found in names.items()]


def other_models(state: SweepState) -> str:
    """The candidates whose network differs from most others', and how."""
    key, found = str(state.definition.compared), list[str]()
    models = {str(values[key]): flat(state.definition.config(values)["model"]) for values in state.configs}
    usual = Counter(repr(item) for model in models.values() for item in model.items())
    for name, model in models.items():
        rare = [f"model.{k}={v}" for k, v in model.items() if 2 * usual[repr((k, v))] < len(models)]
        found += [f"{name} ({', '.join(rare)})"] if rare else []
    return "; ".join(found)


def cells(row: Row, key: str) -> dict[str, str]:
    """A row of `comparison` as text by heading."""
    heads = ["bytes kept", *COMPARED_FIGURES.values(), "seconds", "peak memory", *REFERENCES.values()]
    found = {key: row[key], "kind": row["kind"], "kept": row["status"]} | dict.fromkeys(heads, "")
    if row["status"] != Status.DONE:
        return found
    kept = row["permissions"].replace("_", " ") or (f"{row['exemplars']} images" if row["exemplars"] else "0")
    found |= {"kept": kept, "bytes kept": size(row["stored_bytes"]) if row["stored_bytes"] else "0"}
    found |= {head: mean_text(row, figure, interval=False) for figure, head in COMPARED_FIGURES.items()}
    found |= {"seconds": f"{row['seconds']:.0f}", "peak memory": size(row["peak_memory_bytes"])}
    for reference, head in REFERENCES.items():
        if row.get(f"is_{reference}"):
            found[head] = "best"
        elif (one := _difference(row, reference)) is not None:
            found[head] = difference_text(one)
    return found


def _difference(row: Row, reference: str) -> Difference | None:
    """How far a row's candidate is from a reference; None if it is not compared with it."""
    return Difference(*(row[f"{reference}_{part}"] for part in PARTS)) if f"{reference}_p" in row else None


def write_comparison(sweep: SweepResults, console: Console) -> list[str]:
    """Write comparison.csv, .md and .tex, and print the table; returns the candidates that have no figures."""
    rows, definition, key = comparison(sweep), sweep.state.definition, str(sweep.state.definition.compared)
    texts, sentences = {row[key]: cells(row, key) for row in rows}, notes(sweep.state, rows)
    text = pd.DataFrame(all_printable([*texts.values()]))
    sentences += [f"The sweep was {one}." for one in describe_extensions(sweep.state)]
    text = text.loc[:, (text != "").any() | text.columns.isin([key, "kind", "kept"])]
    configs = list[str]()
    for row in rows:
        values = [f"{k.removeprefix('config/')}={shown(v)}" for k, v in row.items() if k.startswith("config/")]
        of = f"{row.get('trial')}, {row.get('protocol', '-')}; {row['tried']} tried"
        configs += [f"- {row[key]} ({of}): {', '.join(values)}"] if values else []
    below = [f"- {one}" for one in sentences] + (["", "Configs:", "", *configs] if configs else [])
    write_table(definition.folder / "comparison", f"# {definition.name}", rows, text, below)
    kept = {name: one["kept"] for name, one in texts.items()}
    differences = {row[key]: one for row in rows if (one := _difference(row, "best")) is not None}
    latex = latex_table(rows, key, kept, differences, sentences)
    write_atomically(definition.folder / "comparison.tex", latex.encode())
    ends = [n for n in range(len(rows) - 1) if rows[n]["kind"] != rows[n + 1]["kind"]]
    left_out = ["kind", "micro", "peak memory", "bytes kept"]
    left_out += ["macro over classes", "AUC"] if console.width < 140 else []
    left_out += ["avg. incremental", "forgetting", "seconds"] if console.width < 115 else []
    text = text.drop(columns=left_out, errors="ignore")
    title = f"{definition.name}: {len(definition.sweep.seeds.reporting)} reporting seeds"
    print_table(console, title, text, (key, "kept"), sentences, ends)
    return [row[key] for row in rows if row["status"] != Status.DONE]
