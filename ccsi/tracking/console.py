"""Progress in the terminal, and the figures at the end."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ccsi.tracking.events import Progress, RunStart, TaskEnd

SECONDS_BETWEEN_LINES = 10.0
MIN_WIDTH = 110
"""Of tables that do not go to a terminal: a log has no width of its own."""


class Console:
    """Shows a run: on a terminal one live line a phase, elsewhere a plain line now and then; tables at the end.

    Progress goes to stderr, the final tables to stdout.

    Args:
        quiet: print nothing at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._run: RunStart | None = None
        self._bar: Bar | None = None
        self._bar_task: TaskID | None = None
        self._err = Terminal(stderr=True)
        self._phase: tuple[int, str] | None = None
        self._phase_began = self._last_line = 0.0
        self._first_step = 0

    def start(self, run: RunStart) -> None:
        """Say what runs where."""
        self._run = run
        if self.quiet:
            return
        self._err = Terminal(stderr=True)
        tasks, classes = len(run.tasks), sum(map(len, run.tasks))
        verb = "goes on" if run.resumed_at else "starts"
        self._say(f"{run.name} {verb}: {classes} classes in {tasks} tasks, folder {run.folder}")
        if self._err.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("[dim]{task.fields[left]}"),
                TextColumn("{task.fields[metrics]}"),  # last, for it is the one a narrow terminal cuts
                console=self._err,
            )
            self._bar.start()

    def progress(self, event: Progress) -> None:
        """Show a logging point; outside a terminal at most one every ten seconds of a phase."""
        if self.quiet or self._run is None:
            return
        now = time.monotonic()
        if self._phase != (event.task, event.phase):
            self._close_phase()
            self._phase = event.task, event.phase
            self._phase_began, self._first_step, self._last_line = now, event.step, -SECONDS_BETWEEN_LINES
        done = event.step - self._first_step  # since we watch: a resumed phase does not begin at step 1
        left = (now - self._phase_began) / done * (event.steps - event.step) if done else None
        time_left = "" if left is None else f"{clock(left)} left"
        title, metrics = f"task {event.task + 1}/{len(self._run.tasks)}  {event.phase:<9}", show_metrics(event.metrics)
        if self._bar is not None:
            if self._bar_task is None:
                self._bar_task = self._bar.add_task(title, total=event.steps, metrics="", left="")
            self._bar.update(self._bar_task, total=event.steps, completed=event.step, metrics=metrics, left=time_left)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._say("  ".join(filter(None, (title, f"{event.step}/{event.steps}", metrics, time_left))))

    def task_end(self, event: TaskEnd) -> None:
        """One line with the task's figures."""
        if self.quiet:
            return
        self._close_phase()
        shown = ("val_micro", "val_macro", "test_micro", "test_macro")
        figures = [f"{k.replace('_', ' ')} {percent(event.figures[k])} %" for k in shown if k in event.figures]
        seconds = event.figures.get("seconds")
        after = [] if seconds is None else [f"after {clock(seconds)}"]
        self._say(f"task {event.task + 1}/{event.tasks} done: " + ", ".join(figures + after))

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """The final tables on stdout; nothing for a run that was stopped."""
        self._close_phase()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if result is not None and not self.quiet:
            show_result(result, self._run.folder if self._run else None)
        self._run = None

    def _close_phase(self) -> None:
        """Turn the live line into a permanent one, so that never more than one line is redrawn."""
        if self._bar is not None and self._bar_task is not None:
            task = next(task for task in self._bar.tasks if task.id == self._bar_task)
            seconds = clock(time.monotonic() - self._phase_began)
            done = f"{task.completed:.0f}/{task.total:.0f}"
            self._bar.remove_task(self._bar_task)
            self._say(f"{task.description}  {done}  {task.fields['metrics']}  in {seconds}")
        self._bar_task = self._phase = None

    def _say(self, line: str) -> None:
        # rich would wrap to 80 columns in a log file and read [brackets] in a path as markup
        terminal = self._bar.console if self._bar is not None else self._err
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)


def show_result(result: Mapping[str, Any], folder: Path | None, file: Any = None) -> None:
    """Print a finished run's figures (the contents of result.json) as tables, in percent, on stdout or `file`."""
    out = Terminal(file=file or sys.stdout)
    if not out.is_terminal:
        out.width = max(out.width, MIN_WIDTH)
    val: Mapping[str, Any] = result.get("val") or {}
    split, figures = ("test", result) if result.get("accuracy_matrix") else ("val", val)
    dataset = result["dataset"]
    out.print()
    out.print(
        f"{result['name']}: {result['learner']} on {dataset['name']}, seed {result['seed']}", style="bold", markup=False
    )

    matrix = Table(title=f"accuracy matrix, {split} (%)", title_justify="left", box=box.SIMPLE_HEAD)
    matrix.add_column("after task", justify="right")
    for heading in task_names(dataset["class_names"], result["scenario"]["classes_per_task"]):
        matrix.add_column(heading, justify="right", overflow="fold")
    matrix.add_column("all, micro", justify="right", style="bold")
    for number, (row, micro) in enumerate(
        zip(figures["accuracy_matrix"], figures["accuracy_after_task"], strict=True), start=1
    ):
        empty = [""] * (len(figures["accuracy_matrix"]) - len(row))
        matrix.add_row(str(number), *map(percent, row), *empty, percent(micro))
    out.print(matrix)

    names = {
        "final_accuracy_macro": "final accuracy, macro over tasks",
        "final_accuracy_micro": "final accuracy, micro over images",
        "average_incremental_accuracy": "average incremental accuracy",
        "forgetting": "forgetting",
        "backward_transfer": "backward transfer",
        "auc": "AUC (MedMNIST's)",
        "acc": "ACC (MedMNIST's)",
    }
    table = Table(title="figures (%)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("val", justify="right")
    table.add_column("test", justify="right", style="bold")
    for key, name in names.items():
        if val.get(key) is not None or result.get(key) is not None:
            table.add_row(name, percent(val.get(key)), percent(result.get(key)))
    out.print(table)

    kept = [f"{item['count']} {item['kind']} {size(item['bytes'])}" for item in result["stored"]]
    lines = {
        "kept from the data": ", ".join(kept) or "nothing",
        "permissions": ", ".join(result["permissions"]) or "none",
        "protocol": result["protocol"],
        "time": ", ".join(f"{phase} {clock(seconds)}" for phase, seconds in result["seconds"].items()),
        "folder": str(folder) if folder else "",
    }
    for word, text in lines.items():
        if text:
            out.print(f"{word:<20}{text}", markup=False, highlight=False, soft_wrap=True)


def task_names(class_names: Sequence[str], classes_per_task: Sequence[int], most: int = 4) -> list[str]:
    """A name for each task: its classes', or their number where there are more than `most`."""
    names, end = [], 0
    for number, count in enumerate(classes_per_task, start=1):
        end += count
        classes = ", ".join(class_names[end - count : end])
        names.append(f"{number}: {classes}" if count <= most else f"{number}: {count} classes")
    return names


def show_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics in a line: `loss 1.23 (ce 0.9, distillation 0.33)  val 81.2 %  lr 0.05`."""
    parts = ", ".join(f"{key.removeprefix('loss_')} {v:.3g}" for key, v in metrics.items() if key.startswith("loss_"))
    words = [f"loss {metrics['loss']:.3g}" if "loss" in metrics else "", f"({parts})" if parts else ""]
    line = " ".join(filter(None, words))
    rest = []
    for key, value in metrics.items():
        if key.endswith("accuracy"):
            rest.append(f"{key.removesuffix('_accuracy')} {percent(value)} %")
        elif key != "loss" and not key.startswith("loss_"):
            rest.append(f"{key} {value:.3g}")
    return "  ".join(filter(None, (line, *rest)))


def percent(fraction: float | None) -> str:
    """0.8125 is `81.2`; None is a dash."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def clock(seconds: float) -> str:
    """3725 s is `1:02:05`, 65 s is `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: int) -> str:
    """Bytes as one would say them: 2048 is `2.0 kB` (1 kB = 1,000 bytes)."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
