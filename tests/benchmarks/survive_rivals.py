"""Does a table of all learners survive? `python tests/benchmarks/survive_rivals.py`, 30 minutes on two cores.

The comparison of all learners on digits twice, two settings of each and two reporting seeds: undisturbed; and with a
trial's worker, or the driver with all it started, killed with -9 at random moments, and resumed. Shown: whether both
have the same comparison.csv (but for seconds and memory) and the same weights.
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep, kill_options

SWEEP = [
    "experiment=rivals/digits", "dataset.max_per_class=40", "training.epochs=1", "training.first_epochs=3",
    "report=false", "checkpoint_every=0.5", "sweep.num_samples=2", "sweep.seeds.reporting=[0,1]",
    "sweep.max_failures=9",
]  # fmt: skip
COSTS = ["seconds", "peak_memory_bytes"]


def outcome(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table, without what a run cost; and the weights of every run."""
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}
    table = pd.read_csv(folder / "comparison.csv").drop(columns=COSTS)
    return table, {run: result["weights_sha256"] for run, result in results.items()}


def main() -> None:
    n_kills, home, rng = kill_options(__doc__, 12)
    (home / "home").mkdir()
    began = time.monotonic()
    sweep = Sweep(home / "home", [*SWEEP, f"sweep.dir={home / 'undisturbed'}"])
    assert sweep.wait(3000) == 0, sweep.said
    table, weights = outcome(home / "undisturbed")
    seconds = time.monotonic() - began
    print(f"undisturbed: {len(table)} learners, {len(weights)} runs, {seconds:.0f} s", flush=True)
    assert set(table["status"]) == {"done"}, sweep.said

    folder, began, kills = home / "killed", time.monotonic(), {"worker": 0, "driver": 0}
    sweep = Sweep(home / "home", [*SWEEP, f"sweep.dir={folder}"])
    while sum(kills.values()) < n_kills and sweep.process.poll() is None:
        time.sleep(rng.uniform(0.5, 1.5) * seconds / n_kills)  # all along the way
        workers = sweep.workers()
        if not workers or sweep.process.poll() is not None:
            continue
        what = rng.choice(["worker", "worker", "driver"])
        kills[what] += 1
        if what == "worker":
            rng.choice(workers).kill()
            continue
        sweep.process.kill()
        sweep.wait()
        assert sweep.left() == []
        print(f"driver killed after {len(list(folder.glob('runs/*/result.json')))} of {len(weights)} runs", flush=True)
        sweep = Sweep(home / "home", [f"resume={folder}"])
    assert sweep.wait(3000) == 0, sweep.said
    again, others = outcome(folder)
    same = again.equals(table) and others == weights
    print(
        f"{kills['worker']} workers and {kills['driver']} drivers killed: "
        f"{'the same table and weights' if same else 'NOT THE SAME'}, {time.monotonic() - began:.0f} s"
    )
    sys.exit(not same or min(kills.values()) == 0)


if __name__ == "__main__":
    main()
