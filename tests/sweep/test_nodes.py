"""A node dies in the middle of a sweep, and the table is that of a sweep in which nothing happened."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from launcher import Sweep, until
from nodes import Nodes
from rich.console import Console

from ccsi.sweep.book import Book
from ccsi.sweep.definition import compose, placed
from ccsi.sweep.tables import write_trials
from ccsi.sweep.trial import execute

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

SPACE = "sweep.space={quality: {grid: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}}"
TWELVE = [
    "_target_=standin.run", "+quality=0.5", "+wait=1.0", "+tasks=3", "+fault=none", SPACE, "sweep.search=grid",
    "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0,1]", "sweep.top_k=2",
]  # fmt: skip


def table(folder: Path) -> pd.DataFrame:
    """The trials, without what tells where and how long."""
    return pd.read_csv(folder / "trials.csv").drop(columns=["seconds", "run_dir"])


def quiet_table(folder: Path) -> pd.DataFrame:
    """What the sweep must come to: the same trials one after another in this process."""
    (folder / "runs").mkdir(parents=True)
    book = Book(placed(compose([*TWELVE, "wait=0.0"]), folder), Console(quiet=True))
    for phase, settings in ((1, range(8)), (2, None)):
        for setting in book.best() if settings is None else settings:
            for seed, run in book.runs(phase, setting):
                execute(book.config(phase, setting, seed, run), lambda event: None)
    write_trials(book)
    return table(folder)


def test_a_killed_node_changes_nothing(start: Callable[..., Sweep], tmp_path: Path) -> None:
    folder, nodes = tmp_path / "s", Nodes(tmp_path)
    try:
        sweep = start(*TWELVE, f"ray.address={nodes.address}", f"sweep.dir={folder}")
        assert until(lambda: len(list(folder.glob("runs/*/checkpoint.pt"))) >= 3)
        assert not list(folder.glob("runs/p2-*"))
        nodes.kill_node(1)
        assert sweep.wait() == 0, sweep.said
    finally:
        nodes.stop()
    pd.testing.assert_frame_equal(table(folder), quiet_table(tmp_path / "quiet"))
    assert len(table(folder)) == 12
