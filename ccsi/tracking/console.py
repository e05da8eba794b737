"""Progress in the terminal, and the figures at the end."""

import math
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ccsi.io.run_files import classes_of_tasks, split_to_show
from ccsi.io.text import printable
from ccsi.tracking.events import Progress, RunStart, TaskEnd

SECONDS_BETWEEN_LINES = 10.0
MIN_WIDTH = 110  # of tables that do not go to a terminal: a log has no width of its own
BAR_WIDTH, LABEL_WIDTH = 10, 20
MOST_NAMES = 4  # of a task's classes in a table; of more it gives the number
SHOWN_FIGURES = {
    "macro_over_tasks": "final accuracy, mean over tasks",
    "macro_over_classes": "balanced accuracy: mean recall of classes",
    "micro": "final accuracy over all images (ACC)",
    "average_incremental": "mean over tasks of micro",
    "forgetting": "best earlier minus final accuracy",
    "backward_transfer": "final minus first accuracy",
    "auc": "MedMNIST's AUC",
}
"""Figures in the final table, and what they are (see `ccsi.evaluation.metrics`)."""


def terminal(**options: Any) -> Terminal:
    """A console that prints text as it is: names may hold [brackets] or :smile:."""
    return Terminal(markup=False, emoji=False, highlight=False, **options)


class Console:
    """Shows a run: on a terminal one live line for each phase, elsewhere a line every ten seconds; tables at the end.

    Progress goes to stderr, the final tables to stdout. On a terminal no line of progress is longer than it is wide.

    Args:
        quiet: print nothing but warnings about the data.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.shows_time = quiet, not quiet
        self._folder: Path | None = None
        self._bar: Bar | None = None
        # lines are soft-wrapped where they are printed: a log file has 80 columns for rich
        self._err = terminal(stderr=True, quiet=quiet)
        self._last: Progress | None = None
        self._first_step, self._phase_began, self._last_line = 0, 0.0, 0.0

    def start(self, run: RunStart) -> None:
        self._folder, self._tasks = run.folder, len(run.tasks)
        verb, classes = "resumes" if run.resumed_at else "starts", sum(map(len, run.tasks))
        line = f"{printable(run.name)} {verb}: {classes} classes in {self._tasks} tasks"
        folder = f"folder {printable(str(run.folder))}"
        too_long = self._err.is_terminal and len(f"{line}, {folder}") > self._err.width
        self._print(f"{line}\n{folder}" if too_long else f"{line}, {folder}")
        for text in run.summary:
            self._print(text)
        for text in run.warnings:  # quiet or not
            terminal(stderr=True).print(f"warning: {text}", soft_wrap=True)
        if self._err.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=BAR_WIDTH), MofNCompleteColumn()
            fields = TextColumn("[dim]{task.fields[left]}"), TextColumn("{task.fields[metrics]}", markup=False)
            self._bar = Bar(*columns, *fields, console=self._err, disable=self.quiet)
            self._bar.start()

    def progress(self, event: Progress) -> None:
        now = time.monotonic()
        if self._last is None or (self._last.task, self._last.phase) != (event.task, event.phase):
            self._close_phase()
            self._phase_began, self._first_step, self._last_line = now, event.step, -SECONDS_BETWEEN_LINES
        self._last = event
        done = event.step - self._first_step  # in this process: a resumed phase does not start at step 1
        left = f"{clock((now - self._phase_began) / done * (event.steps - event.step))} left" if done else ""
        if event.left is not None:
            left += f"{', ' * bool(left)}run {clock(event.left)} left{' (first guess)' * event.first_guess}"
        title = self._title(event)
        if self._bar is not None:
            (line,) = self._bar.task_ids or [self._bar.add_task(title, total=event.steps, metrics="", left="")]
            taken = len(title) + BAR_WIDTH + 2 * len(str(event.steps)) + 1 + len(left) + 5  # 5: between columns
            shown = show_metrics(event.metrics, self._err.width - taken)
            self._bar.update(line, total=event.steps, completed=event.step, metrics=shown, left=left)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._print(title, f"{event.step}/{event.steps}", show_metrics(event.metrics), left)

    def task_end(self, event: TaskEnd) -> None:
        self._close_phase()
        after = f" after {clock(event.figures['seconds'])}" if "seconds" in event.figures else ""
        left = f", about {clock(event.left)} left" if event.left is not None and event.task + 1 < event.tasks else ""
        is_scored = any(name.startswith(("val_", "test_")) for name in event.figures)
        figures = f": {accuracies(event.figures)}" if is_scored else ""
        self._print(f"task {event.task + 1}/{event.tasks} done{after}{left}{figures}")

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The final tables on stdout; nothing for a run that was stopped."""
        self._close_phase()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if result is not None and not self.quiet:
            show_result(result, self._folder)

    def _print(self, *parts: str) -> None:
        self._err.print("  ".join(filter(None, parts)), soft_wrap=True)

    def _title(self, event: Progress) -> str:
        return f"task {event.task + 1}/{self._tasks}  {event.phase:<9}"

    def _close_phase(self) -> None:
        """Turn the live line into a permanent one, so that never more than one line is redrawn."""
        last, self._last = self._last, None  # first: an interrupt may come at any of the next lines
        if self._bar is not None and last is not None:
            line = f"{self._title(last)}  {last.step}/{last.steps}"
            took = f"in {clock(time.monotonic() - self._phase_began)}"
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._print(line, show_metrics(last.metrics, self._err.width - len(line) - len(took) - 4), took)


def show_result(result: Mapping[str, Any], folder: Path | None) -> None:
    """Print a finished run's figures (the content of result.json) as tables, in percent, on stdout."""
    out = terminal()
    if not out.is_terminal:
        out.width = max(out.width, MIN_WIDTH)
    dataset = result["dataset"]
    out.print()
    title = f"{result['name']}: {result['learner']} on {dataset['name']}, seed {result['seed']}"
    out.print(printable(title), style="bold")
    split, figures = split_to_show(result)
    names = [", ".join(own) if len(own) <= MOST_NAMES else f"{len(own)} classes" for own in classes_of_tasks(result)]
    heads = [f"{number}: {printable(name)}" for number, name in enumerate(names, start=1)]
    for table in accuracy_matrix(figures, f"accuracy matrix, {split} (%)", heads, out):
        out.print(table)

    table = Table(title="figures (%)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("val", justify="right", no_wrap=True)
    table.add_column("test", justify="right", no_wrap=True, style="bold")
    table.add_column("", style="dim")
    for key, meaning in SHOWN_FIGURES.items():
        val, test = result["val"].get(key), result["test"].get(key)
        if val is not None or test is not None:
            table.add_row(key, percent(val), percent(test), meaning)
    out.print(table)

    kept = [f"{item['count']} {item['kind']} {size(item['bytes'])}" for item in result["stored"]]
    lines = {
        "kept from the data": ", ".join(kept) or "nothing",
        "permissions": ", ".join(result["permissions"]) or "none",
        "protocol": result["protocol"],
        "time": ", ".join(f"{phase} {clock(seconds)}" for phase, seconds in result["seconds"].items()),
    }
    for word, text in lines.items():
        wrapped = textwrap.fill(text, out.width - LABEL_WIDTH).replace("\n", "\n" + " " * LABEL_WIDTH)
        out.print(f"{word:<{LABEL_WIDTH}}{wrapped}", soft_wrap=True)
    if folder is not None:  # in one line, however long, to be copied
        out.print(f"{'folder':<{LABEL_WIDTH}}{printable(str(folder))}", soft_wrap=True)


def accuracy_matrix(figures: Mapping[str, Any], title: str, heads: Sequence[str], out: Terminal) -> list[Table]:
    """The matrix as one table with class names as heads; where `out` is too narrow, with numbers, or as several."""
    matrix, micros, tables = figures["accuracy_matrix"], figures["accuracy_after_task"], []
    tasks = len(matrix)

    def fits(heads: Sequence[str]) -> bool:  # a column has two spaces and a divider
        return 1 + sum(head_width(head) + 3 for head in ("after-task", *heads, "all,-micro")) <= out.width

    if not fits(heads):
        heads = [str(number) for number in range(1, tasks + 1)]
    most = next((n for n in range(tasks, 1, -1) if fits(heads[:n])), 1)
    for first in range(0, tasks, most):
        part = slice(first, first + most)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("after task", justify="right", no_wrap=True)
        for head in heads[part]:
            table.add_column(head, justify="right", min_width=head_width(head))
        if first == 0:
            table.add_column("all, micro", justify="right", no_wrap=True, style="bold")
        for task in range(first, tasks):
            cells = [percent(value) for value in matrix[task]] + [""] * (tasks - 1 - task)
            table.add_row(str(task + 1), *cells[part], *([percent(micros[task])] if first == 0 else []))
        tables.append(table)
    return tables


def head_width(head: str) -> int:
    """Characters that a column of percentages needs whose head is broken between words only."""
    return max(map(len, ["100.0", *head.split()]))


def accuracies(figures: Mapping[str, float]) -> str:
    """The accuracy on all classes seen, of `TaskEnd.figures`: `micro val 92.0 %, test 91.3 %`."""
    known = {split: figures[f"{split}_micro"] for split in ("val", "test") if f"{split}_micro" in figures}
    return f"micro {', '.join(f'{split} {percent(value)} %' for split, value in known.items())}"


def show_metrics(metrics: Mapping[str, float], width: float = math.inf) -> str:
    """Metrics in a line: `loss 1.23 (ce 0.9, distillation 0.33)  val 81.2 %  lr 0.05`.

    Where the line is longer than `width` characters, the loss's parts are left out first, then the last metrics.
    """
    loss = [f"loss {metrics['loss']:.3g}"] if "loss" in metrics else []
    parts = ", ".join(f"{key.removeprefix('loss_')} {v:.3g}" for key, v in metrics.items() if key.startswith("loss_"))
    rest = [
        f"{key.removesuffix('_accuracy')} {percent(value)} %" if key.endswith("accuracy") else f"{key} {value:.3g}"
        for key, value in metrics.items()
        if key != "loss" and not key.startswith("loss_")
    ]
    whole = [" ".join([*loss, f"({parts})"])] if parts else loss
    shorter = [(loss + rest)[:n] for n in range(len(loss + rest), 0, -1)]
    lines = ("  ".join(words) for words in [whole + rest, *shorter])
    return next((line for line in lines if len(line) <= width), "")


def percent(fraction: float | None) -> str:
    """0.8125 is `81.2`; None is a dash."""
    return "-" if fraction is None else f"{round(100 * fraction, 1) + 0.0:.1f}"  # no -0.0


def clock(seconds: float) -> str:
    """3725 s is `1:02:05`, 65 s is `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: int) -> str:
    """Bytes with a unit: 2048 is `2.0 kB` (1 kB = 1,000 bytes)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
