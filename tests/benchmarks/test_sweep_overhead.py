"""What Ray costs: 30 trials that sleep two seconds on two CPUs would ideally take 30 seconds."""

import contextlib
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sweep"))
from launcher import Sweep, until

pytest.importorskip("ray")
IDEAL = 30.0
USUAL = 0.35
"""Seconds that `count` takes where this limit was set; the same host was seen to take 0.9 for minutes."""


def count() -> float:
    """Seconds of five million additions: how slow the host is just now."""
    began, total = time.perf_counter(), 0
    for number in range(5_000_000):
        total += number
    return time.perf_counter() - began


def cpu_seconds(sweep: Sweep) -> float:
    """Processor time of everything a sweep has started and that lives: unlike wall time, whatever else is running."""
    total = 0.0
    for process in sweep.family():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(tmp_path: Path) -> tuple[float, list[float], float]:
    """Of one sweep: seconds from the first start to the last end, from each end to the next start, of CPU to start."""
    folder = tmp_path / "s"
    arguments = ["_target_=standin.run", "+quality=0.5", "+wait=2", "+tasks=1", "+fault=none", f"sweep.dir={folder}"]
    arguments += ["sweep.space={quality: {uniform: [0, 0.8]}}", "sweep.num_samples=28", "sweep.seeds.tuning=[100]"]
    began = time.time()
    sweep = Sweep(tmp_path, [*arguments, "sweep.top_k=2", "sweep.seeds.reporting=[0]"])
    try:
        assert until(lambda: list(folder.glob("runs/*/starts.txt")))
        to_start = cpu_seconds(sweep)
        assert sweep.wait() == 0, sweep.said
        whole = time.time() - began
        assert until(lambda: not sweep.family(), 10)
    finally:
        for process in sweep.family():
            process.kill()
    runs = list((folder / "runs").glob("p?-*"))
    first = min((run / "starts.txt").stat().st_mtime for run in runs)
    last = max((run / "result.json").stat().st_mtime for run in runs)
    print(
        f"first trial after {first - began:.1f} s, {to_start:.1f} s of CPU; trials {last - first:.1f} s of {IDEAL:.0f}"
    )
    print(f"tables, plots and shutdown {began + whole - last:.1f} s; whole command {whole:.1f} s")
    ends = sorted((run / "result.json").stat().st_mtime for run in runs)
    starts = sorted((run / "starts.txt").stat().st_mtime for run in runs)[2:]  # two workers start first
    gaps = [start - end for start, end in zip(starts, ends[:-2], strict=True)]
    print(f"from a trial's end to the next one's start {sum(gaps) / len(gaps):.2f} s, at most {max(gaps):.2f} s")
    assert len(runs) == 30
    return last - first, gaps, to_start


@pytest.mark.slow
@pytest.mark.alone
def test_sleeping_trials_take_at_most_a_tenth_more_and_start_at_once(tmp_path: Path) -> None:
    """The trials themselves keep to the tenth; what starting and ending cost is shown, and bounded in CPU time.

    Starting is Python importing torch, Hydra and Ray in the driver, in five processes of Ray's and in two workers. It
    is the same for two trials and for two thousand, so the whole command keeps to a tenth only from some length on.
    The host is shared: the best of three sweeps counts, and where it counts slower than usual, it may add more.
    """
    for attempt in range(3):
        (tmp_path / str(attempt)).mkdir()
        before = count()
        seconds, gaps, to_start = measure(tmp_path / str(attempt))
        most = IDEAL * (1 + 0.10 * max(1.0, (before + count()) / 2 / USUAL))
        if seconds <= most:
            break
    assert seconds <= most
    assert max(gaps) < 1
    assert to_start <= 80  # 52 were seen beside three other busy processes
