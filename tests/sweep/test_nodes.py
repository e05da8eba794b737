"""A node dies in the middle of a sweep, then the cluster, and the table is as if nothing had happened."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from driver import execute_phase
from launcher import Sweep, until
from nodes import Nodes

from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder
from ccsi.sweep.tables.rows import collect_results, write_rows

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SPACE = "sweep.space={quality: {grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}}"
TWELVE = [
    "_target_=standin.run", "+quality=0.5", "+wait=1.0", "+tasks=3", "+fault=none", SPACE, "sweep.search=grid",
    "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0,1]", "sweep.top_k=2",
]  # fmt: skip


def outcome(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The trials, without what tells where and how long; and what each run learned."""
    results = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}
    learned = {run: result["weights_sha256"] for run, result in results.items()}
    return pd.read_csv(folder / "runs.csv").drop(columns=["seconds", "run_dir"]), learned


def quiet(folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """What the sweep must come to: the same trials one after another in this process."""
    (folder / "runs").mkdir(parents=True)
    recorder = SweepRecorder(with_folder(compose([*TWELVE, "wait=0.0"]), folder))
    execute_phase(recorder, 1, range(8))
    execute_phase(recorder, 2, selection.best_trials(recorder.state))
    write_rows(collect_results(recorder))
    return outcome(folder)


def begun(folder: Path) -> list[list[int]]:
    """Of each run: after how many tasks each of its attempts began."""
    files = folder.glob("runs/*/starts.txt")
    return [[int(line.split()[1]) for line in file.read_text().splitlines()] for file in files]


def under_way(folder: Path) -> list[str]:
    """The runs that have learned the first of their three tasks, and not yet the second."""
    return [path.parent.name for path in folder.glob("runs/*/checkpoint.pt") if len(json.loads(path.read_text())) == 1]


def test_a_killed_node_and_then_a_killed_cluster_change_nothing(start: Callable[..., Sweep], tmp_path: Path) -> None:
    folder, nodes = tmp_path / "s", Nodes(tmp_path)
    try:
        sweep = start(*TWELVE, f"ray.address={nodes.address}", f"sweep.dir={folder}")
        assert until(lambda: len(list(folder.glob("runs/*/checkpoint.pt"))) >= 3)
        assert not list(folder.glob("runs/*/result.json"))[4:]
        nodes.kill_node(1)
        assert until(lambda: any(len(starts) > 1 for starts in begun(folder)))
        assert until(lambda: len(list(folder.glob("runs/*/result.json"))) >= 6 and under_way(folder))
        nodes.kill_head()
        sweep.process.kill()
        sweep.wait()
    finally:
        nodes.stop()
    assert not (folder / "runs.csv").exists()
    nodes = Nodes(tmp_path)
    try:
        again = start(f"resume={folder}", f"ray.address={nodes.address}")
        assert again.wait() == 0, again.said
    finally:
        nodes.stop()
    trials, learned = outcome(folder)
    assert len(trials) == 12
    expected, expected_learned = quiet(tmp_path / "quiet")
    pd.testing.assert_frame_equal(trials, expected)
    assert learned == expected_learned
    gone_on = [starts for starts in begun(folder) if len(starts) > 1]
    assert any(starts[-1] > 0 for starts in gone_on), begun(folder)  # from their checkpoints
    assert sorted(starts for starts in begun(folder) if len(starts) == 1) == [[0]] * (12 - len(gone_on))
