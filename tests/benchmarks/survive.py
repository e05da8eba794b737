"""Does a sweep survive? `python tests/benchmarks/survive.py [--kills 20] [--seed 0]`, some minutes on two cores.

One sweep of 12 trials of digits (8 settings, then 2 settings on 2 fresh seeds) four times: undisturbed; with so many
kill -9 of a trial's worker at random moments; with a node of a two-node cluster killed; with the whole cluster and the
driver killed, and resumed on a new cluster. Shown: whether the tables and the weights are those of the undisturbed
sweep, and of each killed worker how much work was done twice, in seconds, against the checkpoint interval.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep, kill_options, until
from nodes import Nodes

INTERVAL = 0.5
STEP = 0.1
"""A checkpoint comes with the first step after the interval, and takes its time to write."""
SWEEP = [
    "dataset=digits", "dataset.max_per_class=30", "scenario.classes_per_task=[4,3,3]", "training.epochs=3",
    "training.batch_size=10", "report=false", "learner.synthesis.iterations=40", "learner.synthesis.per_class=10",
    f"checkpoint_every={INTERVAL}", "sweep.search=grid", "sweep.top_k=2", "sweep.max_failures=9",
    "sweep.space={learner.w_idc: {grid: [0.0, 1.0]}, learner.distillation: {grid: [1.0, 2.0, 4.0, 8.0]}}",
    "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0,1]",
]  # fmt: skip


def outcome(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The runs, without what tells where and how long; and the weights of every run."""
    table = pd.read_csv(folder / "runs.csv").drop(columns=["seconds", "run_dir"])
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}
    return table, {run: result["weights_sha256"] for run, result in results.items()}


def lost(folder: Path, when: float) -> dict[Path, float]:
    """Of each run that is under way at a time: the seconds since its last checkpoint, which a kill now would lose."""
    runs = [path for path in folder.glob("runs/*/checkpoint.pt") if not (path.parent / "result.json").exists()]
    return {path.parent: when - path.stat().st_mtime for path in runs}


def run(home: Path, name: str, disturb: Callable[[Sweep, Path], None], *more: str) -> tuple[Path, Sweep]:
    """A sweep in a folder of this name, which `disturb` may do anything to."""
    folder = home / name
    (home / "home").mkdir(exist_ok=True)
    sweep = Sweep(home / "home", [*SWEEP, f"sweep.dir={folder}", *more])
    disturb(sweep, folder)
    return folder, sweep


def main() -> None:
    n_kills, home, rng = kill_options(__doc__, 20)
    began = time.monotonic()
    folder, sweep = run(home, "undisturbed", lambda sweep, folder: None)
    assert sweep.wait(900) == 0, sweep.said
    quiet, weights = outcome(folder)
    print(f"undisturbed: {len(quiet)} trials in {time.monotonic() - began:.0f} s", flush=True)

    failed = [False]

    def compare(name: str, folder: Path, seconds: float, more: str = "") -> None:
        table, others = outcome(folder)
        same = table.equals(quiet) and others == weights
        failed[0] |= not same
        print(f"{name}: {'the same table and weights' if same else 'NOT THE SAME'}, {seconds:.0f} s{more}", flush=True)

    losses, killed = list[float](), list[int]()

    def kill_workers(sweep: Sweep, folder: Path) -> None:
        while len(killed) < n_kills and sweep.process.poll() is None:
            time.sleep(rng.uniform(1, 6))
            workers = sweep.workers()
            if not workers or not list(folder.glob("runs/*/checkpoint.pt")):
                continue
            victim = rng.choice(workers)
            title = " ".join(victim.cmdline())  # the dashboard's, which names the run
            losses.extend(seconds for path, seconds in lost(folder, time.time()).items() if path.name in title)
            victim.kill()
            killed.append(victim.pid)

    began = time.monotonic()
    folder, sweep = run(home, "kills", kill_workers)
    assert sweep.wait(900) == 0, sweep.said
    worst = f"; since the last checkpoint at most {max(losses):.1f} s, interval {INTERVAL} s" if losses else ""
    compare(f"{len(killed)} workers killed", folder, time.monotonic() - began, worst)

    def begun(sweep: Sweep, folder: Path) -> None:
        assert until(lambda: len(list(folder.glob("runs/*/checkpoint.pt"))) >= 3)

    nodes, began = Nodes(home), time.monotonic()
    folder, sweep = run(home, "node", begun, f"ray.address={nodes.address}")
    nodes.kill_node(1)
    assert sweep.wait(900) == 0, sweep.said
    nodes.stop()
    compare("a node killed", folder, time.monotonic() - began)

    nodes, began = Nodes(home), time.monotonic()
    folder, sweep = run(home, "head", begun, f"ray.address={nodes.address}")
    nodes.kill_head()
    sweep.process.kill()
    sweep.wait()
    nodes.stop()
    nodes = Nodes(home)
    sweep = Sweep(home / "home", [f"resume={folder}", f"ray.address={nodes.address}"])
    assert sweep.wait(900) == 0, sweep.said
    nodes.stop()
    compare("head and driver killed, resumed", folder, time.monotonic() - began)
    if len(killed) < n_kills:
        print(f"NOT ENOUGH: {n_kills} workers were to be killed", flush=True)
    sys.exit(failed[0] or len(killed) < n_kills or max(losses, default=0.0) > INTERVAL + STEP)


if __name__ == "__main__":
    main()
