"""How Tune's events and decisions are handled; no Ray is started."""

import contextlib
import errno
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("ray")

from commands import sweep as main

from ccsi.errors import UserError
from ccsi.sweep import selection
from ccsi.sweep.compose import compose
from ccsi.sweep.events import JobId
from ccsi.sweep.execution import cluster, tuner
from ccsi.sweep.execution.failures import WORKER_DIED
from ccsi.sweep.execution.tuner import JournalCallback, TrialSearcher
from ccsi.sweep.progress import ProgressPrinter
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder

STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
NOBODY: Any = None


def callback_of(recorder: SweepRecorder, searcher: TrialSearcher) -> JournalCallback:
    return JournalCallback(recorder, searcher, ProgressPrinter(recorder, Console(quiet=True)))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):  # set by the command; put back afterwards
        monkeypatch.setenv(name, os.environ.get(name, "disabled"))


def test_a_trial_that_tune_gave_up_silently_is_booked_and_makes_room(tmp_path: Path) -> None:
    (tmp_path / "s/runs").mkdir(parents=True)
    space = "sweep.space={quality: {grid: [0.3]}}"
    recorder = SweepRecorder(with_folder(compose([*STANDIN, space, "sweep.search=grid"]), tmp_path / "s"))
    searcher = TrialSearcher(iter([{"name": "p1-c00"}]), 1)
    searcher.suggest("id")
    events = callback_of(recorder, searcher)
    trial = SimpleNamespace(status="ERROR", trial_id="id", config={"name": "p1-c00"}, error_file=None)
    assert not selection.is_search_finished(recorder.state)
    for _ in range(2):  # recorded once
        events.on_step_end(1, [trial])
    assert selection.is_search_finished(recorder.state)
    assert recorder.state.trial_status(1, 0) == "failed"
    assert searcher.live == set()
    assert (tmp_path / "s/journal.jsonl").read_text().count("failed") == 1


def test_a_trial_given_to_an_idle_worker_that_died_is_offered_once_more(tmp_path: Path) -> None:
    (tmp_path / "s/runs").mkdir(parents=True)
    (tmp_path / "error.txt").write_text("The actor died unexpectedly before finishing this task.\n")
    space = "sweep.space={quality: {grid: [0.3]}}"
    recorder = SweepRecorder(
        with_folder(compose([*STANDIN, space, "sweep.search=grid", "sweep.max_failures=1"]), tmp_path / "s")
    )
    searcher = TrialSearcher(iter([{"name": "p1-c00"}]), 1)
    events = callback_of(recorder, searcher)
    for number, ends in enumerate(("incomplete", "failed")):
        offered = searcher.suggest(str(number))
        assert offered == {"name": "p1-c00"}
        searcher.on_trial_complete(str(number), error=True)
        trial = SimpleNamespace(status="ERROR", trial_id=str(number), config=offered, error_file=tmp_path / "error.txt")
        events.on_trial_error(1, [trial], trial)
        assert recorder.state.trial_status(1, 0) == ends
    assert searcher.suggest("2") == "FINISHED"


def test_what_ray_knows_of_a_workers_end_is_told_when_the_trial_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "s/runs").mkdir(parents=True)
    killed = (
        "Failure # 1\nTask was killed due to the node running low on memory.\nMemory on the node was 15.9GB / 16GB\n"
    )
    (tmp_path / "error.txt").write_text(killed)
    space = "sweep.space={quality: {grid: [0.3]}}"
    recorder = SweepRecorder(with_folder(compose([*STANDIN, space, "sweep.search=grid"]), tmp_path / "s"))
    events = callback_of(recorder, TrialSearcher(iter([]), 1))
    trial = SimpleNamespace(
        trial_id="0", config={"name": "p1-c00"}, error_file=tmp_path / "error.txt", last_result={"error": WORKER_DIED}
    )
    events.on_trial_recover(1, [trial], trial)
    events.on_trial_complete(1, [trial], trial)
    assert "ran low on memory" in recorder.state.ends[JobId(1, 0)].reason


def test_the_supply_stays_open_while_a_trial_may_come_back() -> None:
    searcher = TrialSearcher(iter([{"name": "p1-c00"}]), 2)
    searcher.suggest("0")
    assert searcher.suggest("1") is None
    searcher.on_trial_complete("0")
    assert searcher.suggest("1") == "FINISHED"


def test_trials_of_several_workers_that_do_not_fit_are_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "live_nodes", lambda: [{"CPU": 4.0}, {"CPU": 3.0, "GPU": 1.0}])
    assert cluster.count_trials(2.0, 0.0, workers=3) == 1
    with pytest.raises(UserError) as refused:
        cluster.count_trials(2.0, 0.0, workers=4)
    assert str(refused.value) == (
        "resources: 4 workers want 2 CPUs and 0 GPUs each, but there is room for 3 (there is: 4 CPUs and 0 GPUs; "
        "3 CPUs and 1 GPUs)."
    )


def test_trials_of_several_workers_are_refused_where_ray_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "check_cluster", lambda address: None)
    joined = SimpleNamespace(dashboard_url="", address_info={"webui_url": ""})
    monkeypatch.setattr(cluster.ray, "init", lambda **arguments: joined)
    config = compose([*STANDIN, "ray.address=10.0.0.1:6379"]).ray
    with cluster.start_ray(config, Console(quiet=True)):
        pass
    with pytest.raises(UserError) as refused, cluster.start_ray(config, Console(quiet=True), dashboard=True):
        pass
    assert "trials of several workers need Ray's dashboard" in str(refused.value)
    assert "the cluster at 10.0.0.1:6379 has none; start it with `ray start --head" in str(refused.value)


def test_an_autoscaled_cluster_is_sent_its_trials_before_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "")  # put back afterwards
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(tuner.tune.Tuner, "__init__", lambda self, *a, **k: arguments.update(k))
    monkeypatch.setattr(tuner.tune.Tuner, "fit", lambda self: None)
    monkeypatch.setattr(cluster, "count_trials", lambda *wanted: pytest.fail("the nodes that are there do not matter"))
    monkeypatch.setattr(cluster, "check_nodes", lambda *wanted: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:9"))
    (tmp_path / "s/runs").mkdir(parents=True)
    autoscaled = ["ray.autoscale=true", "ray.address=auto", "sweep.max_concurrent=16"]
    definition = with_folder(compose([*STANDIN, "sweep.space={quality: {choice: [0.3]}}", *autoscaled]), tmp_path / "s")
    trials: Any = ({"name": f"p1-c{n}"} for n in range(100))
    recorder = SweepRecorder(definition)
    tuner.run_jobs(recorder, ProgressPrinter(recorder, Console(quiet=True)), trials)
    searcher = arguments["tune_config"].search_alg
    assert sum(searcher.suggest(str(n)) is not None for n in range(100)) == 17  # one waits, so that no worker idles
    assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "16"


def test_when_nodes_come_and_go_the_trials_at_a_time_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [4, 1, 0, 3]
    searcher = TrialSearcher(({"name": f"t{number}"} for number in range(99)), 2, lambda: there.pop(0))
    monkeypatch.setattr(tuner, "COUNT_SECONDS", -1.0)

    def live() -> int:
        while (trial := searcher.suggest(str(len(searcher.live)))) is not None:
            assert trial != "FINISHED"
            monkeypatch.setattr(tuner, "COUNT_SECONDS", 1e9)
        return len(searcher.live)

    assert live() == 4
    monkeypatch.setattr(tuner, "COUNT_SECONDS", -1.0)
    assert live() == 4  # one node is left: nothing new until three have ended
    for number in range(4):
        searcher.on_trial_complete(str(number))
    assert live() == 0
    assert live() == 3


def test_a_head_that_falls_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_SILENCE", 0.3)
    lost = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with cluster.watch_head(address, lost.set):
            assert not lost.wait(0.6)
            head.close()
            assert lost.wait(30)
    lost.clear()
    with cluster.watch_head(address, lost.set):
        pass
    assert not lost.wait(0.6)  # nobody watches after the end


@pytest.mark.parametrize(
    ("cpu", "gpu", "fits"),
    [(1, 0, 10), (2, 0, 4), (3, 0, 3), (1, 1, 3), (1, 0.5, 6), (1, 0.4, 6), (2, 0.25, 3), (8, 0, 0), (0.5, 2, 1)],
)
def test_how_many_workers_fit_is_counted_by_node_and_card(cpu: float, gpu: float, fits: int) -> None:
    nodes = [{"CPU": 7.0, "GPU": 3.0}, {"CPU": 3.0}, {"memory": 1.0}]
    assert cluster.count_slots(nodes, cpu, gpu) == fits


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (tuner.tune.TuneError("Traceback …\n  File …\nValueError: boom"), "ValueError: boom"),
    ],
)
def test_a_sweep_that_breaks_off_says_so_in_a_sentence_and_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fit(self: Any) -> None:
        raise error

    monkeypatch.setattr(tuner.tune.Tuner, "__init__", lambda self, *a, **k: None)
    monkeypatch.setattr(tuner.tune.Tuner, "fit", fit)
    monkeypatch.setattr(cluster, "start_ray", lambda *arguments, dashboard: contextlib.nullcontext())
    monkeypatch.setattr(cluster, "count_trials", lambda *wanted: 1)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:9"))
    assert main([*STANDIN, f"sweep.dir={tmp_path / 's'}"]) == 1
    said = capsys.readouterr().err.strip()
    assert message in said
    assert f"resume={tmp_path / 's'}" in said
    assert "\n" not in said
    assert main([f"resume={tmp_path / 's'}"]) == 1  # it gets as far as before


def test_a_sweep_without_ray_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("cluster", "metrics", "tuner"):
        monkeypatch.delitem(sys.modules, f"ccsi.sweep.execution.{name}", raising=False)
    monkeypatch.delattr("ccsi.sweep.execution.tuner", raising=False)
    assert main([*STANDIN, f"sweep.dir={tmp_path / 's'}"]) == 2
    assert "needs the package ray: pip install 'ccsi[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
