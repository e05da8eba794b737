"""Does a sweep survive its driver? `python tests/benchmarks/survive_driver.py [--kills 50] [--seed 0]`.

A sweep of stand-in trials on Ray, undisturbed; then sweeps like it whose driver is killed with -9 at random moments,
from its start on, and resumed at once, while workers of the killed one still live. Shown: whether every one of them
ends with the same tables.
"""

import sys
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep, kill_options

SWEEP = [
    "_target_=standin.run", "+quality=0.5", "+wait=0.5", "+tasks=4", "+fault=none", "report=false",
    "sweep.space={quality: {uniform: [0, 0.8]}}", "sweep.num_samples=10", "sweep.seeds.tuning=[100]", "sweep.top_k=10",
    "sweep.seeds.reporting=[0,1]",
]  # fmt: skip
"""All trials are reported: none is stopped as dominated, which depends on when others end (and on nothing reported)."""
TABLES = ("runs.csv", "trials.csv", "leaderboard.csv")


def tables(folder: Path) -> list[pd.DataFrame]:
    """The tables of a sweep, without what they say of where and how long."""
    found = [pd.read_csv(folder / name) for name in TABLES]
    return [one[[head for head in one if head != "run_dir" and "seconds" not in head]] for one in found]


def main() -> None:
    n_kills, home, rng = kill_options(__doc__, 50)
    began = time.monotonic()
    sweep = Sweep(home, [*SWEEP, f"sweep.dir={home / 'undisturbed'}"])
    assert sweep.wait(600) == 0, sweep.said
    expected, seconds = tables(home / "undisturbed"), time.monotonic() - began
    print(f"undisturbed: {len(expected[0])} runs in {seconds:.0f} s", flush=True)
    kills = n_sweeps = n_same = n_working = 0
    while kills < n_kills:
        folder, n_sweeps, before = home / str(n_sweeps), n_sweeps + 1, kills
        sweep = Sweep(home, [*SWEEP, f"sweep.dir={folder}"])
        while kills < n_kills:
            time.sleep(rng.uniform(0, 0.4 * seconds))
            if sweep.process.poll() is not None:
                break
            n_working += any(path.parent.name.startswith("p") for path in folder.glob("runs/*/starts.txt"))
            sweep.process.kill()
            sweep.wait()
            kills += 1
            arguments = [f"resume={folder}"] if (folder / "sweep.yaml").exists() else [*SWEEP, f"sweep.dir={folder}"]
            sweep = Sweep(home, arguments)
        assert sweep.wait(600) == 0, sweep.said
        same = all(map(pd.DataFrame.equals, tables(folder), expected))
        n_same += same
        said = "the same tables" if same else "NOT THE SAME"
        print(f"sweep {n_sweeps}: driver killed {kills - before} times: {said}", flush=True)
    print(f"{kills} kills, {n_working} of them after trials had begun")
    print(f"{n_same} of {n_sweeps} sweeps have the same tables")
    sys.exit(n_same < n_sweeps)


if __name__ == "__main__":
    main()
