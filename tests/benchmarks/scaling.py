"""How far does a sweep scale? `measure` what it costs on this machine, then `simulate` clusters it does not have.

    python tests/benchmarks/scaling.py measure                      # some 10 minutes on two idle cores
    python tests/benchmarks/scaling.py measure --only trials reports --out FILE
    python tests/benchmarks/scaling.py simulate                     # from scaling.json beside it; docs/scaling.png

`measure` starts clusters of several raylets on this machine, whose trials sleep and so need no CPU, and runs:
  trials     1,000 that do nothing: the driver's, the GCS's and the raylets' CPU seconds, memory, bytes on disk
  reports    40 that do nothing in 25 tasks: what a report costs
  raylets    8 of 2 s for each of 1, 2, 4, 8 raylets: wall against ideal, worker starts, gaps between two trials
  waiting    what `ray.wait` costs Tune for each trial that is under way; how long a worker takes to be there
  checkpoints  how large they are, of two networks
  sample     the seconds and scores of every task of a sweep on digits, in which epochs and synthesis steps vary
CPU seconds hardly depend on what else the machine does, wall seconds do: every figure has the load it was taken at.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep as Command
from nodes import Nodes
from simulation import Costs, Outcome, Rules, Sweep, Trial, mean

Figures = dict[str, Any]
HERE = Path(__file__).resolve().parent
RESULT = HERE / "scaling.json"
MIB = 2**20
DIGITS = [
    "experiment=quick/digits", "dataset.max_per_class=30", "report=false", "sweep.num_samples=24",
    "sweep.space={training.epochs: {choice: [2, 4, 8]}, learner.synthesis.iterations: {choice: [25, 50, 100, 200]}, "
    "learner.w_idc: {choice: [0.0, 1.0]}}",
]  # fmt: skip
"""The sweep whose trials are the sample."""


# measure


def standin(count: int, tasks: int, wait: float, top_k: int = 2) -> list[str]:
    """A sweep of `count` trials in all, `top_k` of them in phase 2."""
    arguments = ["_target_=standin.run", "+quality=0.5", f"+wait={wait}", f"+tasks={tasks}", "+fault=none"]
    arguments += ["sweep.space={quality: {uniform: [0, 0.9]}}", f"sweep.num_samples={count - top_k}"]
    return [*arguments, "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0]", f"sweep.top_k={top_k}"]


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


class Watch(threading.Thread):
    """Looks once a second: trials ended, seconds of CPU and MiB of memory of the driver, the GCS and the raylets."""

    def __init__(self, folder: Path, driver: int, nodes: Nodes) -> None:
        super().__init__(daemon=True)
        self.journal, self.driver = folder / "journal.jsonl", psutil.Process(driver)
        self.gcs, self.raylets = psutil.Process(nodes.gcs), [psutil.Process(pid) for pid in nodes.raylets]
        self.seen: list[dict[str, float]] = []

    def run(self) -> None:
        while True:
            try:
                ended = self.journal.read_text().count('"end"') if self.journal.exists() else 0
                memory = self.driver.memory_full_info()
                self.seen.append({
                    "ended": ended, "driver": cpu(self.driver), "mib": memory.uss / MIB, "gcs": cpu(self.gcs),
                    "gcs_mib": self.gcs.memory_info().rss / MIB, "raylets": sum(map(cpu, self.raylets)),
                    "writes": self.driver.io_counters().write_chars, "time": time.time(),
                })  # fmt: skip
            except psutil.Error:  # the driver has ended
                return
            time.sleep(1)


@contextlib.contextmanager
def swept(arguments: list[str], raylets: int = 2) -> Iterator[tuple[Path, Watch, Nodes, Command]]:
    """A sweep that has been started on a cluster of so many raylets; on leaving it is waited for."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        folder, nodes = Path(home) / "s", Nodes(Path(home), raylets)
        try:
            sweep = Command(Path(home), [*arguments, f"ray.address={nodes.address}", f"sweep.dir={folder}"])
            watch = Watch(folder, sweep.process.pid, nodes)
            watch.start()
            yield folder, watch, nodes, sweep
        finally:
            nodes.stop()


def done(sweep: Command, watch: Watch) -> None:
    assert sweep.wait(3000) == 0, sweep.said
    watch.join()


def idle(count: int, tasks: int) -> Figures:
    """What trials cost that do nothing, on two raylets."""
    with swept(standin(count, tasks, 0.0)) as (folder, watch, nodes, sweep):
        while sweep.process.poll() is None and (not watch.seen or watch.seen[-1]["ended"] < count / 2):
            time.sleep(1)
        store = stored(nodes)
        done(sweep, watch)
        size = sum(path.stat().st_size for path in folder.glob("runs/*/*"))
        journal = (folder / "journal.jsonl").stat().st_size
    begun = [one for one in watch.seen if 0 < one["ended"] < count]  # starting, tables and plots left out
    first, last = begun[0], begun[-1]
    trials = last["ended"] - first["ended"]
    each: Figures = {name: (last[name] - first[name]) / trials for name in ("driver", "gcs", "raylets")}
    # the driver's seconds as a quadratic in trials: how a trial's cost grows with those before it
    twice, _, _ = np.polyfit([one["ended"] for one in begun], [one["driver"] for one in begun], 2)
    settled = [one for one in begun if one["ended"] >= min(50, count / 4)]
    return {
        "trials": count, "tasks": tasks, "cpu_seconds_each": each, "driver_grows_by": 2 * float(twice),
        "wall_each": (last["time"] - first["time"]) / trials,
        "driver_mib": [settled[0]["mib"], settled[-1]["mib"]], "gcs_mib": [settled[0]["gcs_mib"], last["gcs_mib"]],
        "driver_writes_each": (last["writes"] - first["writes"]) / trials, "journal_bytes_each": journal / count,
        "folder_bytes_each": size / count, "object_store": store,
    }  # fmt: skip


def stored(nodes: Nodes) -> str:
    """What Ray says of its object stores."""
    ask = [sys.executable, "-m", "ray.scripts.scripts", "memory", "--stats-only", "--address", nodes.address]
    said = subprocess.run(ask, capture_output=True, text=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"}).stdout
    return next((line.strip() for line in said.splitlines() if "Plasma memory usage" in line), "unknown")


def sleeping(raylets: int, seconds: float = 2.0) -> Figures:
    """Eight trials for each raylet, one of them in phase 2."""
    with swept(standin(8 * raylets, 1, seconds, top_k=raylets), raylets) as (folder, watch, _, sweep):
        done(sweep, watch)
        runs = list(folder.glob("runs/p?-*"))
        spans = [((r / "starts.txt").stat().st_mtime, (r / "result.json").stat().st_mtime) for r in runs]
        pids = [int((run / "starts.txt").read_text().split()[0]) for run in runs]
    began, end = min(start for start, _ in spans), max(end for _, end in spans)
    workers = {pid: sorted(span for span, p in zip(spans, pids, strict=True) if p == pid) for pid in pids}
    gaps = [after[0] - before[1] for mine in workers.values() for before, after in pairwise(mine)]
    return {
        "raylets": raylets, "trials": len(runs), "seconds": seconds, "wall": end - began, "ideal": 8 * seconds,
        "worker_starts": sorted(mine[0][0] - began for mine in workers.values()), "gap": statistics.median(gaps),
    }  # fmt: skip


def waiting() -> Figures:
    """CPU seconds of one `ray.wait` as Tune calls it, for each future that is not ready; wall of a worker's start."""
    ask = """
import json, random, time, ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
@ray.remote(num_cpus=0)
class Sleeper:
    def sleep(self, seconds): time.sleep(seconds)
    def nothing(self): pass
busy, idle = Sleeper.remote(), Sleeper.remote()
told = {}
for count in (10, 100, 300, 1000):
    futures = [busy.sleep.remote(1000) for _ in range(count)]
    ray.get(idle.nothing.remote())
    began = time.process_time()
    for _ in range(200):
        every = list({*futures, idle.nothing.remote()})
        random.shuffle(every)
        ready, _ = ray.wait(every, timeout=1, num_returns=1)
    told[count] = (time.process_time() - began) / 200
@ray.remote(num_cpus=1)
class Worker:
    def __init__(self): import ccsi.experiment, ccsi.sweep.execution.trainable
    def there(self): pass
began = time.time()
ray.get(Worker.remote().there.remote())
told["worker"] = time.time() - began
print(json.dumps(told))
ray.kill(busy)
"""
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        env = os.environ | {"HOME": home, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        said = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=True).stdout
    told = json.loads(said.splitlines()[-1])
    worker = told.pop("worker")
    slope, _ = np.polyfit(list(map(int, told)), list(told.values()), 1)
    return {"seconds": told, "per_future": float(slope), "worker_start": worker}


def checkpoint(model: str) -> Figures:
    """The largest checkpoint of a small run with a network, and its folder in the end."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        folder = Path(home) / "run"
        settings = [f"model={model}", "experiment=quick/digits", "dataset.max_per_class=20", "training.epochs=1"]
        settings += ["training.first_epochs=1", "learner.synthesis.iterations=2", "report=false", f"run_dir={folder}"]
        settings += ["checkpoint_every=0.1", "tracking.console.quiet=true"]
        process, largest = subprocess.Popen([sys.executable, "-m", "ccsi", *settings], cwd=home), 0
        while process.poll() is None:
            with contextlib.suppress(OSError):
                largest = max(largest, (folder / "checkpoint.pt").stat().st_size)
            time.sleep(0.01)
        assert process.returncode == 0
        return {"bytes": largest, "folder": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())}


def sample(folder: Path) -> list[list[tuple[float, float]]]:
    """Of every finished run of a sweep: each task's seconds, and the val average incremental accuracy after it."""
    runs = []
    for result in sorted(folder.glob("runs/*/result.json")):
        lines = map(json.loads, (result.parent / "metrics.jsonl").read_text().splitlines())
        ends = [line for line in lines if line["phase"] == "task_end"]
        clock = [0.0, *(line["seconds"] for line in ends)]
        scores = [line["val_average_incremental"] for line in ends]
        runs.append([(round(b - a, 2), round(s, 4)) for (a, b), s in zip(pairwise(clock), scores, strict=True)])
    return runs


def digits() -> Figures:
    """The sample, from a sweep on this machine."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as home:
        sweep = Command(Path(home), [*DIGITS, f"sweep.dir={home}/s"])
        assert sweep.wait(3600) == 0, sweep.said
        return {"command": f"python tune/sweep.py {' '.join(DIGITS)}", "runs": sample(Path(home) / "s")}


def measure(options: argparse.Namespace) -> None:
    """Every part that was asked for, written as soon as it is there."""
    parts = {
        "trials": lambda: idle(options.trials, 1),
        "reports": lambda: idle(40, 25),
        "raylets": lambda: [sleeping(raylets) for raylets in options.raylets],
        "waiting": waiting,
        "checkpoints": lambda: {model: checkpoint(model) for model in ("ccsi_small", "resnet18")},
        "sample": digits,
    }
    figures = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only or parts:
        before = os.getloadavg()[0]
        told = parts[name]()
        figures[name] = {"load": [round(before, 1), round(os.getloadavg()[0], 1)], "figures": told}
        figures["machine"] = f"{psutil.cpu_count()} × {platform.processor() or platform.machine()}, {sys.platform}"
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
        print(name, json.dumps(figures[name]) if name != "sample" else len(told["runs"]), flush=True)


# simulate


def costs_of(measured: Figures) -> Costs:
    """What this machine's figures say a sweep costs, storage and failures left out."""
    trivial, reports = measured["trials"]["figures"], measured["reports"]["figures"]
    grows = max(0.0, trivial["driver_grows_by"])
    base = trivial["cpu_seconds_each"]["driver"] - grows * trivial["trials"] / 2
    report = max(0.0, reports["cpu_seconds_each"]["driver"] - base) / (reports["tasks"] - 1)
    per_place, worker = (measured["waiting"]["figures"][name] for name in ("per_future", "worker_start"))
    hop = max(0.0, measured["raylets"]["figures"][0]["gap"] - base)
    return Costs(
        start=base / 2, end=base / 2, report=report, per_trial=grows / 2, per_place=per_place, hop=hop, worker=worker
    )


def drawn(runs: list[list[tuple[float, float]]], count: int, length: float, seed: int) -> list[Trial]:
    """So many trials drawn from a sample, scaled to `length` seconds on average; each score with a seed's noise."""
    rng = np.random.default_rng(seed)
    scale = length / statistics.fmean(sum(seconds for seconds, _ in run) for run in runs)
    chosen = [runs[number] for number in rng.integers(len(runs), size=count)]
    noise = rng.normal(0, 0.01, count)
    return [
        Trial(tuple(s * scale for s, _ in run), tuple(float(np.clip(score + e, 0, 1)) for _, score in run))
        for run, e in zip(chosen, noise, strict=True)
    ]


def limits(costs: Costs, trials: list[Trial], each: int) -> tuple[float, float]:
    """Places at which the driver, and the storage, has as much to do as there is time, with `each` trials a place."""
    length = statistics.fmean(sum(trial.seconds) for trial in trials)
    tasks = round(statistics.fmean(len(trial.seconds) for trial in trials))
    low, high = 0.0, 1e9
    for _ in range(60):
        places = (low + high) / 2
        asked = places * costs.driver_seconds(tasks, places * each / 2, places)  # halfway through the sweep
        low, high = (places, high) if asked < length + costs.hop else (low, places)
    written = statistics.fmean(costs.checkpoints(trial) for trial in trials) * costs.checkpoint
    return low, (length + costs.hop) * costs.bandwidth / written if written else math.inf


def predicted(measured: Figures, costs: Costs) -> Table:
    """The simulation of the raylets that were measured."""
    table = Table("raylets", "trials", "ideal, s", "measured", "predicted", "difference", "… without worker starts")
    for row in measured["raylets"]["figures"]:
        trials = [Trial((row["seconds"],), (0.9 - n / 1000,)) for n in range(row["trials"] - row["raylets"])]
        rules = Rules(top_k=row["raylets"], reporting=1)
        here = replace(costs, worker=row["worker_starts"])
        wall = Sweep(trials, row["raylets"], 1, rules, here).run().makespan - costs.start - costs.hop
        warm = Sweep(trials, row["raylets"], 1, rules, replace(here, worker=0.0)).run().makespan
        off = f"{100 * (wall / row['wall'] - 1):+.1f} %"
        numbers = [f"{row['ideal']:.1f}", f"{row['wall']:.1f}", f"{wall:.1f}", off, f"{warm:.1f}"]
        table.add_row(str(row["raylets"]), str(row["trials"]), *numbers)
    return table


def simulate(options: argparse.Namespace) -> None:
    """Tables of what is predicted, and the picture."""
    measured, console = json.loads(options.measured.read_text()), Console(width=120)
    runs = sample(options.sweep) if options.sweep else measured["sample"]["figures"]["runs"]
    costs = costs_of(measured)
    console.print(f"Costs from {options.measured}: {costs}\n", highlight=False)
    console.print(predicted(measured, costs))
    costs = replace(costs, interval=60.0, bandwidth=options.bandwidth, mtbf=options.mtbf_days * 86400)
    sizes = {name: one["bytes"] for name, one in measured["checkpoints"]["figures"].items()}
    table = Table("network", "trial", "nodes", "trials", "ASHA", "makespan", "bound", "efficiency", "no overheads")
    for name in ("driver", "storage", "lost", "pruned"):
        table.add_column(name)
    curves: dict[tuple[str, float], list[tuple[Outcome, Outcome]]] = {}
    marks: dict[tuple[str, float], tuple[float, float]] = {}
    for (network, size), minutes in [(s, m) for s in sizes.items() for m in options.minutes]:
        here = replace(costs, checkpoint=size)
        marks[network, minutes] = limits(here, drawn(runs, 1000, 60 * minutes, 0), options.each)
        for nodes in options.nodes:
            count = nodes * options.per_node * options.each
            for asha in (False, True) if nodes == max(options.nodes) else (False,):
                rules = Rules(top_k=2, reporting=3, asha=asha)
                sweeps = [
                    [Sweep(drawn(runs, count, 60 * minutes, seed), nodes, options.per_node, rules, c, seed).run()
                     for seed in range(options.seeds)]
                    for c in (here, Costs())
                ]  # fmt: skip
                real, free = map(mean, sweeps)
                if not asha:
                    curves.setdefault((network, minutes), []).append((real, free))
                shares = [
                    f"{100 * share:.0f} %" for share in (real.efficiency, free.efficiency, real.driver, real.storage)
                ]
                lost = f"{100 * real.lost / real.work:.1f} %"
                spans = [f"{seconds / 3600:.2f} h" for seconds in (real.makespan, real.bound)]
                what = [network, f"{minutes:g} min", str(nodes), str(count), "yes" if asha else "no"]
                table.add_row(*what, *spans, *shares, lost, f"{100 * real.pruned / count:.0f} %")
    console.print(table)
    for (network, minutes), (driver, storage) in marks.items():
        console.print(f"{network}, {minutes:g} min: the driver is full at {driver:.0f} places, "
                      f"the storage at {storage:.0f}", highlight=False)  # fmt: skip
    with tempfile.TemporaryDirectory() as home:  # the PDF that comes with it is not kept
        draw(Path(home) / "scaling.png", options, curves, marks)
        shutil.copy(Path(home) / "scaling.png", options.picture)


def draw(
    picture: Path,
    options: argparse.Namespace,
    curves: dict[tuple[str, float], list[tuple[Outcome, Outcome]]],
    marks: dict[tuple[str, float], tuple[float, float]],
) -> None:
    """Efficiency against nodes, a panel for each network, with the limits."""
    from ccsi.report.style import COLOURS, INK, LINES, MARKERS, figure

    networks = list(dict.fromkeys(network for network, _ in curves))
    with figure(picture, 6.5, 2.8) as fig:
        panels = fig.subplots(1, len(networks), sharey=True, squeeze=False)[0]
        for ax, network in zip(panels, networks, strict=True):
            for number, minutes in enumerate(options.minutes):
                real = [one.efficiency for one, _ in curves[network, minutes]]
                label = f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"
                ax.plot(options.nodes, real, color=COLOURS[number], marker=MARKERS[number], label=f"trials of {label}")
                for limit, line in zip(marks[network, minutes], LINES[1::2], strict=True):
                    if limit / options.per_node <= max(options.nodes) * 3:
                        ax.axvline(limit / options.per_node, color=COLOURS[number], linestyle=line, linewidth=0.8)
            free = [one.efficiency for _, one in curves[network, options.minutes[0]]]
            ax.plot(options.nodes, free, color=INK, linewidth=0.8, alpha=0.5, label="no overheads at all")
            ax.set(xscale="log", xlabel=f"nodes ({options.per_node} trial each)", ylim=(0, 1.02), title=network)
        panels[0].set_ylabel("efficiency: bound / makespan")
        panels[0].legend(loc="lower left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure", help="what a sweep costs on this machine")
    parts = ("trials", "reports", "raylets", "waiting", "checkpoints", "sample")
    command.add_argument("--only", nargs="+", choices=parts, help="of the parts above; the others' figures are kept")
    command.add_argument("--trials", type=int, default=1000, help="that do nothing")
    command.add_argument("--raylets", type=int, nargs="+", default=[1, 2, 4, 8])
    command.add_argument("--out", type=Path, default=RESULT)
    command.set_defaults(call=measure)
    command = commands.add_parser("simulate", help="clusters of 10 to 1,000 nodes")
    command.add_argument("--measured", type=Path, default=RESULT)
    command.add_argument("--sweep", type=Path, help="a sweep's folder: draw the trials from its runs")
    command.add_argument("--nodes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    command.add_argument("--per-node", type=int, default=1, help="trials at a time on a node")
    command.add_argument("--each", type=int, default=10, help="trials of phase 1 for each place")
    command.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0, 60.0], help="a trial's mean length")
    command.add_argument("--bandwidth", type=float, default=1e9, help="of the storage, bytes/s")
    command.add_argument("--mtbf-days", type=float, default=30.0, help="of a node")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--picture", type=Path, default=HERE.parents[1] / "docs" / "scaling.png")
    command.set_defaults(call=simulate)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
