"""A comparison as a LaTeX table that can be pasted into a paper."""

import math
from collections.abc import Mapping, Sequence

from ccsi.io.text import printable
from ccsi.sweep.events import Status
from ccsi.sweep.tables.rows import HEADINGS, Row
from ccsi.sweep.tables.statistics import Difference, p_text

LOWER_IS_BETTER = {"forgetting"}
SPECIAL = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {character: f"\\{character}" for character in "&%$#_"}
SPECIAL |= {"[": r"\lbrack{}", "*": r"\textasteriskcentered{}"}  # in a row's first cell the last \\ would take them
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


def escaped(text: str) -> str:
    """Text of the user's as LaTeX prints it, on one line."""
    shown = (character if character.isprintable() else "?" for character in " ".join(text.split()))
    return "".join(SPECIAL.get(character, character) for character in shown)


def latex_table(
    rows: Sequence[Row], key: str, kept: Mapping[str, str], differences: Mapping[str, Difference], notes: Sequence[str]
) -> str:
    r"""A `tabular` for booktabs, with the notes as comments above it, and a line between kinds.

    It has at most eight columns; those without any figure are left out. Of the candidates without permissions the best
    mean of each column is bold and the second underlined, as rounded.

    key: the column of `rows` that names a candidate. kept: by candidate, what it keeps, or why it has no figures.
    differences: by candidate, from the best one (`vs. best`), which is not among them.
    """
    marks = {figure: _marks(rows, key, figure) for figure in HEADINGS if any(f"{figure}_mean" in row for row in rows)}
    is_tested = any(one.p is not None for one in differences.values())
    versus = r"vs.\ best, adjusted interval and $p$" if is_tested else r"vs.\ best"
    heads = [*(escaped(HEADINGS[figure]) for figure in marks), *([versus] if marks else [])]
    lines = [f"% {printable(' '.join(note.split()))}" for note in notes]
    lines += [
        "% Bold: the best mean of those without permissions; underlined: the second. Needs \\usepackage{booktabs}.",
        f"\\begin{{tabular}}{{ll{'r' * len(heads)}}}",
        r"\toprule",
        _row([escaped(key), "kept", *heads]),
        r"\midrule",
    ]
    for number, row in enumerate(rows):
        name = row[key]
        if number and row["kind"] != rows[number - 1]["kind"]:
            lines.append(r"\midrule")
        cells = [_mean(row, figure, own.get(name, "")) for figure, own in marks.items()]
        cells += ["best" if row.get("is_best") else _difference(differences.get(name))] if marks else []
        lines.append(_row([escaped(name), escaped(kept[name]), *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _marks(rows: Sequence[Row], key: str, figure: str) -> dict[str, str]:
    r"""`\mathbf` and `\underline` by candidate: the best and the second of a column, ties included."""
    candidates = [row for row in rows if row["status"] == Status.DONE and not row["permissions"]]
    shown = {row[key]: round(100 * row[f"{figure}_mean"], 1) for row in candidates if f"{figure}_mean" in row}
    order = sorted(set(shown.values()), reverse=figure not in LOWER_IS_BETTER)
    commands = dict(zip(order, (r"\mathbf", r"\underline"), strict=False)) if len(order) > 1 else {}
    return {name: commands[value] for name, value in shown.items() if value in commands}


def _mean(row: Row, figure: str, command: str) -> str:
    if f"{figure}_mean" not in row:
        return ""
    center, spread = f"{100 * row[f'{figure}_mean']:.1f}", 100 * row[f"{figure}_std"]
    text = f"{command}{{{center}}}" if command else center
    return f"${text}$" if math.isnan(spread) else rf"${text} \pm {spread:.1f}$"


def _difference(one: Difference | None) -> str:
    if one is None:
        return ""
    text = f"${100 * one.mean:+.1f}$"
    if one.p is None or one.low is None or one.high is None:
        return text
    p = p_text(one.p)
    interval = f"[${100 * one.low:+.1f}$, ${100 * one.high:+.1f}$]"
    return rf"{text} {interval}, $p_{{\mathrm{{adj}}}} {p if p[0] == '<' else f'= {p}'}$"
