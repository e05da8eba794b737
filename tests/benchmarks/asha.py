"""What does ASHA save, and what does it cost? The same random sweeps of PBC blood with it and without.

    python tests/benchmarks/asha.py FOLDER --data pbcblood_28.npz [--repetitions 0 1 2] [key=value …]

Each repetition draws other settings, on another tuning seed; with and without ASHA they are the same. Sweeps in FOLDER
that were interrupted go on, finished ones are only read. Shown for each: the seconds of all runs of phase 1; how much
of the first sweep's phase 1 was saved, by its own clock (the tasks left out, as long as they took there: the runs are
the same, and the machine may have been faster the next time); and what phase 2 reports of the best setting.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
SWEEP = [
    "experiment=quick/pbcblood", "dataset.max_per_class=150", "learner.synthesis.iterations=40",
    "learner.synthesis.warmup=8", "learner.synthesis.per_class=20", "threads=1", "sweep.num_samples=16",
    "sweep.space={learner.w_idc: {choice: [0.0, 0.5, 1.0]}, learner.w_margin: {choice: [0.5, 1.0, 2.0]}, "
    "learner.distillation: {uniform: [1.0, 10.0]}, learner.synthesis.w_tv: {loguniform: [0.0001, 0.1]}, "
    "learner.synthesis.class_moments: {choice: [0.0, 1.0]}, training.lr: {loguniform: [0.003, 0.1]}}",
    "sweep.seeds.reporting=[0,1,2]",
]  # fmt: skip
"""sweep/default.yaml's space, and the learning rate."""


def swept(folder: Path, arguments: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and the leaderboard of a sweep that has been run, is run now, or goes on."""
    if not (folder / "leaderboard.csv").exists():
        new = [*arguments, f"sweep.dir={folder}"]
        arguments = [f"resume={folder}"] if (folder / "sweep.yaml").exists() else new
        subprocess.run([sys.executable, "tune/sweep.py", *arguments], cwd=ROOT, check=True)
    return pd.read_csv(folder / "runs.csv"), pd.read_csv(folder / "leaderboard.csv")


def clocks(folder: Path) -> dict[str, list[float]]:
    """Of each run of phase 1 of a sweep: the seconds after 0, 1, 2, … tasks."""
    found = {}
    for file in folder.glob("runs/p1-*/metrics.jsonl"):
        events = map(json.loads, file.read_text().splitlines())
        found[file.parent.name] = [0.0, *(one["seconds"] for one in events if one["phase"] == "task_end")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schedulers", nargs="*", default=["asha"], help="beside none")
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    columns = ("repetition", "scheduler", "runs", "stopped", "seconds of phase 1", "saved", "best", "val, %", "test, %")
    table = Table(*columns)
    for repetition in options.repetitions:
        clock = dict[str, list[float]]()
        for scheduler in ["none", *options.schedulers]:
            more = [f"sweep.seed={repetition}", f"sweep.seeds.tuning=[{100 + repetition}]"]
            more += [f"dataset.path={options.data.resolve()}", f"sweep.scheduler={scheduler}", *options.settings]
            trials, board = swept(options.folder.resolve() / f"{scheduler}-{repetition}", [*SWEEP, *more])
            first = trials[trials["phase"] == 1]
            seconds = first["seconds"].sum()
            clock = clock or clocks(options.folder / f"{scheduler}-{repetition}")
            whole = sum(times[-1] for times in clock.values())
            spent = sum(clock[run][tasks] for run, tasks in zip(first["run"], first["tasks_done"], strict=True))
            best = board.iloc[0]
            score = [f"{100 * best[f'{part}_average_incremental_mean']:.1f}" for part in ("val", "test")]
            counts = [str(len(first)), str((first["status"] == "pruned").sum())]
            saved = f"{100 * (1 - spent / whole):.0f} %"
            table.add_row(str(repetition), scheduler, *counts, f"{seconds:.0f}", saved, best["trial"], *score)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
