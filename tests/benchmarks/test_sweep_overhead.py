"""What Ray costs: 40 trials that sleep two seconds on two CPUs would ideally take 40 seconds."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep, until

pytest.importorskip("ray")


@pytest.mark.slow
def test_forty_sleeping_trials_take_at_most_a_quarter_more(tmp_path: Path) -> None:
    arguments = [
        "_target_=standin.run",
        "+quality=0.5",
        "+wait=2",
        "+tasks=1",
        "+fault=none",
        f"sweep.dir={tmp_path / 's'}",
    ]
    arguments += ["sweep.space={quality: {uniform: [0, 1]}}", "sweep.num_samples=38", "sweep.seeds.tuning=[100]"]
    began = time.time()
    sweep = Sweep(tmp_path, [*arguments, "sweep.top_k=2", "sweep.seeds.reporting=[0]"])
    try:
        assert sweep.wait() == 0, sweep.said
    finally:
        for process in sweep.family():
            process.kill()
    whole = time.time() - began
    runs = list((tmp_path / "s/runs").glob("p?-*"))
    ends = [(run / "result.json").stat().st_mtime for run in runs]
    first = min(ends) - 2
    print(f"first trial to last result: {max(ends) - first:.1f} s of 40; whole command: {whole:.1f} s")
    assert len(ends) == 40
    assert max(ends) - first <= 1.25 * 40
    assert until(lambda: not sweep.family(), 10)
