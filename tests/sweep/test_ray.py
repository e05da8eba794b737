"""Whole sweeps on Ray: what is killed ends as if nothing had happened, and nothing is left behind."""

import json
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from commands import status
from driver import execute_phase
from launcher import Sweep, until
from nodes import Nodes
from rich.console import Console

import ccsi.config
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.execution.context import execute
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder
from ccsi.sweep.runs import finished_runs
from ccsi.sweep.tables.comparison import write_comparison
from ccsi.sweep.tables.rows import collect_results

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
DIGITS = [
    "experiment=rivals/digits", "dataset.max_per_class=30", "scenario.classes_per_task=[4,3,3]", "training.epochs=1",
    "training.first_epochs=2",
    "report=false", "checkpoint_every=0.2", "sweep.seeds.reporting=[0,1]",
    "sweep.space={learner: {each: {icarl: null, ccsi: {learner.w_idc: {choice: [0.0, 1.0]}}, acil: null}}}",
]  # fmt: skip

Start = Callable[..., Sweep]


def sums(folder: Path) -> dict[str, tuple[str, Any, Any]]:
    """Of every finished run of a sweep: the weights' SHA-256, the accuracy matrices."""
    results = {path.parent.name: json.loads(path.read_text()) for path in (folder / "runs").glob("*/result.json")}
    return {
        run: (r["weights_sha256"], r["test"]["accuracy_matrix"], r["val"]["accuracy_matrix"])
        for run, r in results.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the digits sweep must come to: the same runs one after another in this process, as `python -m ccsi` does."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "runs").mkdir()
    recorder = SweepRecorder(with_folder(compose(DIGITS), folder))
    execute_phase(recorder, 1, (1, 2))
    execute_phase(recorder, 2, selection.best_trials(recorder.state))
    (folder / "journal.jsonl").unlink()  # the runs' folders are enough
    again = SweepRecorder(recorder.definition)
    again.start(finished_runs(again.definition))
    write_comparison(collect_results(again), Console(quiet=True))
    return sums(folder) | {"table": table(folder)}


def table(folder: Path) -> dict[str, Any]:
    """The comparison, but for what a run cost."""
    found = pd.read_csv(folder / "comparison.csv", index_col="learner")
    rows: dict[str, Any] = (
        found.drop(columns=["seconds", "peak_memory_bytes"]).astype(object).fillna("").to_dict("index")
    )
    return rows


def test_a_killed_driver_and_killed_workers_change_nothing(
    start: Start, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "s"
    sweep = start(*DIGITS, f"sweep.dir={folder}")
    assert until(lambda: list(folder.glob("runs/p1-*/result.json")) or sweep.process.poll() is not None), sweep.said
    assert sweep.process.poll() is None, sweep.wait() or sweep.said
    sweep.process.kill()
    sweep.wait()
    assert until(lambda: not sweep.workers())
    done = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/checkpoint.pt")}
    again = start(f"resume={folder}")
    assert until(lambda: any(p.stat().st_mtime_ns != before.get(p) for p in folder.glob("runs/*/checkpoint.pt")))
    killed = again.workers()
    assert killed
    for worker in killed:
        worker.kill()
    assert until(lambda: set(again.workers()) - set(killed))  # Tune starts the trials again in others
    assert again.wait() == 0, again.said
    assert [*sweep.left(), *again.left()] == []
    assert sums(folder) | {"table": table(folder)} == undisturbed
    assert len(undisturbed) == 2 + 3 * 2 + 1 and set(undisturbed["table"]) == {"icarl", "ccsi", "acil"}
    assert {path: path.stat().st_mtime_ns for path in done} == done  # what was finished was not run again
    assert set(pd.read_csv(folder / "runs.csv")["status"]) == {"done"}
    assert {path.name for path in sweep.home.iterdir()} <= {"mpl"}
    left = {"best", "journal.jsonl", "leaderboard.csv", "leaderboard.md", "plots", "runs", "sweep.yaml"}
    left |= {"comparison.csv", "comparison.md", "comparison.tex", "trials.csv", "runs.csv", "runs.parquet"}
    left |= {"split.csv", "summary.txt"}
    assert {path.name for path in folder.iterdir()} == left
    assert (folder / "plots/comparison.png").stat().st_size > 10_000
    best = ccsi.config.from_arguments([str(folder / "best/ccsi.yaml")]) | {"run_dir": str(tmp_path / "again")}
    second = next(run for run in undisturbed if run.startswith(("p2-c01", "p2-c02")) and run.endswith("s0"))
    assert execute(best, lambda event: None)["weights_sha256"] == undisturbed[second][0]


def test_asha_prunes_whole_settings_which_optuna_suggested(start: Start, tmp_path: Path) -> None:
    sweep = start(
        *STANDIN, "tasks=4", "sweep.space={quality: {uniform: [0, 0.8]}}", "sweep.search=optuna",
        "sweep.num_samples=8",
        "sweep.scheduler=asha", "sweep.seeds.tuning=[10,11]", "sweep.seeds.reporting=[0]",
        f"sweep.dir={tmp_path / 's'}",
    )  # fmt: skip
    assert sweep.wait() == 0, sweep.said
    table = pd.read_csv(tmp_path / "s/runs.csv")
    first = table[table["phase"] == 1]
    statuses = first.groupby("trial")["status"].agg(lambda s: "pruned" if "pruned" in set(s) else s.iloc[0])
    assert len(statuses) == 8
    assert set(statuses) == {"done", "pruned"}
    pruned = first[first["trial"].isin(statuses[statuses == "pruned"].index)]
    assert (pruned.groupby("trial")["tasks_done"].sum() < 8).all()
    second = table[table["phase"] == 2]
    assert set(second["status"]) == {"done"}
    assert all(statuses[trial] == "done" for trial in second["trial"])


def test_a_straggler_nobody_needs_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    sweep = start(
        *STANDIN, "tasks=4", "sweep.space={fault: {grid: [none, hang]}}", "sweep.search=grid", "sweep.top_k=1",
        "sweep.seeds.reporting=[0]", f"sweep.dir={tmp_path / 's'}",
    )  # fmt: skip
    assert sweep.wait() == 0, sweep.said  # it hangs for 1,000 s
    assert sweep.left() == []
    table = pd.read_csv(tmp_path / "s/runs.csv").set_index("run")
    assert list(table["status"]) == ["done", "pruned", "done"]
    sentence = "because it could no longer reach the best 1 after task 2 of seed 100"
    assert table.loc["p1-c01-s100", "pruned"] == sentence
    assert sentence in " ".join(sweep.said.split())


@pytest.mark.parametrize("signum", [signal.SIGINT])  # SIGTERM goes the same way
def test_ray_keeps_to_this_machine_and_ctrl_c_stops_it_cleanly_and_says_how_to_go_on(
    start: Start, tmp_path: Path, signum: int
) -> None:
    folder = tmp_path / "s"
    sweep = start(
        *STANDIN,
        "wait=3",
        "sweep.space={quality: {grid: [0.1, 0.2, 0.3, 0.4]}}",
        "sweep.search=grid",
        f"sweep.dir={folder}",
    )
    assert sweep.process.stdout is not None
    address = next(line.split()[-1] for line in sweep.process.stdout if line.startswith("Metrics for Prometheus"))

    def scraped() -> str:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.read().decode()

    assert until(lambda: "ray_ccsi_val_average_incremental" in scraped())
    ours = r'^ray_ccsi_phase{.*phase="training",run="p1-c0\d-s100",sweep="s",trial="p1-c0\d"} [01]'
    assert re.search(ours, scraped(), re.MULTILINE)
    assert "ray_ccsi_tasks_done_total{" in scraped()
    port = int(address.removesuffix("/metrics").rpartition(":")[2])
    everywhere = {c.laddr.ip for c in psutil.net_connections() if c.laddr and c.laddr.port == port}
    assert everywhere == {"127.0.0.1"}
    titles = {process.cmdline()[0] for process in sweep.workers()}
    assert all(title.startswith("ray::Trial") for title in titles)
    assert until(lambda: list(folder.glob("runs/*/result.json")))
    addresses = sweep.listening()
    assert addresses
    assert all(address.is_loopback for address in addresses), addresses
    sweep.process.send_signal(signum)
    assert sweep.wait() == 130, sweep.said
    assert f"resume={folder}" in sweep.said.replace("\n", "")
    assert "Traceback" not in sweep.said
    assert set(pd.read_csv(folder / "runs.csv")["status"]) == {"done", "incomplete"}
    assert sweep.left() == []
    assert not sweep.listening()


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_when_ray_dies_the_sweep_says_so_and_is_resumed_and_extended(start: Start, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "s"
    space = "sweep.space={quality: {uniform: [0, 0.9]}}"
    more = ["sweep.num_samples=2", "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0]", "sweep.top_k=4"]
    sweep = start(*STANDIN, "wait=0.7", "tasks=3", space, *more, f"sweep.dir={folder}")
    assert until(lambda: list(folder.glob("runs/*/checkpoint.pt")) or sweep.process.poll() is not None), sweep.said
    (folder / ".data").mkdir(exist_ok=True)
    (victim,) = [process for process in sweep.family() if process.name() == name]
    victim.kill()
    assert sweep.wait() == 1, sweep.said
    message = f"ccsi: interrupted: Ray's process {name} has died; resume with ccsi sweep resume={folder}"
    assert message in sweep.said.splitlines()
    assert sweep.left(10) == []
    assert {path.name for path in folder.iterdir()} <= {"journal.jsonl", "runs", "sweep.yaml", ".lock"}
    again = start(f"resume={folder}", "sweep.num_samples=3", "sweep.seeds.reporting=[0,1]")
    assert again.wait() == 0, again.said
    starts = [path.read_text().splitlines() for path in folder.glob("runs/*/starts.txt")]
    assert max(map(len, starts)) == 2  # from its checkpoint
    table = pd.read_csv(folder / "runs.csv")
    assert list(table["phase"]) == [1] * 3 + [2] * 6 and set(table["status"]) == {"done"}
    last = start(f"resume={folder}", "sweep.num_samples=4", "sweep.seeds.reporting=[0,1,2]")
    done = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    assert last.wait() == 0, last.said
    assert {path: path.stat().st_mtime_ns for path in done} == done  # of a finished sweep nothing is run again
    assert len(list(folder.glob("runs/p1-*/result.json"))) == 4
    assert "extended from 2 to 3 samples and [0] to [0, 1] reporting seeds" in (folder / "leaderboard.md").read_text()


def test_a_signal_while_ray_starts_is_answered_with_how_to_resume(start: Start, tmp_path: Path) -> None:
    sweep = start(*STANDIN, "sweep.space={}", f"sweep.dir={tmp_path / 's'}")
    assert until(lambda: any(process.name() == "gcs_server" for process in sweep.family()))
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.wait() == 130, sweep.said
    assert f"ccsi sweep resume={tmp_path / 's'}" in sweep.said and "Traceback" not in sweep.said
    assert sweep.left() == []


def test_status_ends_what_a_killed_driver_left(start: Start, tmp_path: Path) -> None:
    sweep = start(*STANDIN, "wait=1", "tasks=9", "sweep.space={}", f"sweep.dir={tmp_path / 's'}")
    assert until(lambda: list(tmp_path.glob("s/runs/*/checkpoint.pt")) or sweep.process.poll() is not None), sweep.said
    sweep.process.kill()
    sweep.wait()
    assert sweep.family()
    assert status([str(tmp_path / "s"), "--end"]) == 0
    assert sweep.left(5) == []


def test_on_a_running_cluster_failures_are_told_and_others_go_on(start: Start, tmp_path: Path) -> None:
    cluster = Nodes(tmp_path)
    address = cluster.address
    try:
        space = ["sweep.space={fault: {grid: [none, once, crash, user]}}", "sweep.search=grid"]
        more = ["sweep.seeds.reporting=[0]", "sweep.max_failures=1", f"ray.address={address}"]
        keep = f"sweep.storage=file://{tmp_path}/kept"  # as if the nodes shared no folder
        sweep = start(*STANDIN, *space, *more, keep, f"sweep.dir={tmp_path / 's'}")
        assert sweep.wait() == 0, sweep.said
        assert sweep.left() == []
        greedy = start(
            *STANDIN, f"ray.address={address}", "resources.cpu=2", "sweep.space={}", f"sweep.dir={tmp_path / 't'}"
        )
        assert greedy.wait() == 2, greedy.said
        assert "no machine has them (there is: 1 CPUs and 0 GPUs; 1 CPUs and 0 GPUs)" in greedy.said
        assert not (tmp_path / "t").exists()
        assert cluster.process.poll() is None
    finally:
        cluster.stop()
    table = pd.read_csv(tmp_path / "s/runs.csv").set_index("run")
    assert list(table["status"]) == ["done", "done", "failed", "failed", "done", "done"]
    assert table.loc["p1-c02-s100", "error"] == "ValueError: boom"
    assert table.loc["p1-c03-s100", "error"] == "quality is not to my liking."
    assert "boom" in (tmp_path / "s/runs/p1-c02.error.txt").read_text()
    starts = (tmp_path / "kept/runs/p1-c01-s100/starts.txt").read_text().splitlines()
    assert [line.split()[1] for line in starts] == ["0", "1"]  # the second time from its checkpoint
    said = sweep.said.lower().replace("starting ray", "")
    assert "ray" not in said, sweep.said  # no noise


OWN_LEARNER = """
from ccsi.learners import Finetune

class Mine(Finetune):
    default_name = "mine"
"""


def test_a_sweep_with_ones_own_learner(start: Start, tmp_path: Path) -> None:
    """The workers build it; a resume must be allowed to."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "own.py").write_text(OWN_LEARNER)
    tiny = ["dataset.size=8", "dataset.max_per_class=5", "training.epochs=1", "report=false"]
    sweep = ["learner=finetune", "learner._target_=own.Mine", "sweep.num_samples=1", "sweep.seeds.reporting=[0]"]
    sweep += ["sweep.space={training.lr: {choice: [0.1, 0.2]}}", f"sweep.dir={tmp_path}/swept"]
    first = start(*tiny, *sweep)
    assert first.wait() == 0, first.said
    (tmp_path / "swept" / "runs" / "p2-c00-s0" / "result.json").unlink()
    again = start(f"resume={tmp_path}/swept")
    assert again.wait() == 2 and "put CCSI_TRUST=own before the command" in again.said
    trusted = start(f"resume={tmp_path}/swept", trust="own")
    assert trusted.wait() == 0, trusted.said
