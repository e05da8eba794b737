"""Tables as files and on the terminal."""

import json
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ccsi.io.atomic import write_atomically

Row = dict[str, Any]


def write_csv(path: Path, rows: pd.DataFrame | Sequence[Row]) -> None:
    """Write a table, lists and dicts in it as JSON."""
    table = pd.DataFrame(rows).map(lambda value: json.dumps(value) if isinstance(value, list | dict) else value)
    write_atomically(path, table.to_csv(index=False).encode())


def mean_text(row: Row, figure: str, scale: float = 100, std: bool = True) -> str:
    """`86.3 ± 1.1 [85.2, 87.5]`: mean, standard deviation and interval, as far as the row has them; else `-`."""
    mean, spread, low, high = (scale * row.get(f"{figure}_{part}", math.nan) for part in ("mean", "std", "low", "high"))
    text = "-" if math.isnan(mean) else f"{mean:.1f}"
    if std and math.isfinite(spread):
        text += f" ± {spread:.1f}"
    return text if math.isnan(low) else f"{text} [{low:.1f}, {high:.1f}]"


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a table of text."""
    head, *body = (" | ".join(["", *line, ""]).strip().replace("\n", " ") for line in (table.columns, *table.values))
    return [head, "|" + "---|" * len(table.columns), *body]


def print_table(
    console: Console, title: str, table: pd.DataFrame, left: Collection[str], hidden: Collection[str], group: str = ""
) -> None:
    """Print a table of text, a word of a heading and an interval in a line of their own.

    Args:
        left: columns that are not aligned to the right. hidden: columns that are not printed.
        group: a column; a line is drawn where it changes.
    """
    printed, heads = Table(title=title), [head for head in table if head not in hidden]
    for head in heads:
        printed.add_column(head.replace(" ", "\n"), justify="left" if head in left else "right")
    groups = table[group].tolist() if group else [""] * len(table)
    for number, line in enumerate(table[heads].values):
        cells = (re.sub(r" (?=[\[(])|, (?=p )", "\n", cell) for cell in line)
        printed.add_row(*map(Text, cells), end_section=groups[number] != groups[min(number + 1, len(groups) - 1)])
    console.print(printed)
