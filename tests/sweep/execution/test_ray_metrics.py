"""A run's progress as Ray metrics, the dashboard file that shows them, and how Ray is found; none is started."""

import io
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("ray")
import ray.util.metrics

from ccsi.sweep.execution import metrics as ray_metrics
from ccsi.sweep.execution.cluster import print_addresses
from ccsi.sweep.execution.metrics import GAUGES, TASKS_DONE, RayMetrics
from ccsi.tracking import Progress, RunStart, TaskEnd

ROOT = Path(__file__).resolve().parents[3]
Exported = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    """What is exported to Ray, in order; Ray's own check that no tag is missing is kept."""
    kept: Exported = []

    def record(self: Any, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self._tag_keys)
        kept.append((self._name, value, tags))

    monkeypatch.setattr(ray.util.metrics.Metric, "_record", record)
    monkeypatch.setattr(ray._raylet, "setproctitle", lambda text: kept.append(("title", 0, {"text": text})))
    return kept


def begun(tmp_path: Path, **config: Any) -> RayMetrics:
    metrics = RayMetrics("mysweep")
    metrics.start(RunStart("digits-ccsi-s100", tmp_path / "p1-c03-s100", config, (("0", "1"), ("2", "3"))))
    return metrics


def test_a_run_is_told_with_its_names_and_an_ended_one_is_silent(
    tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(time=50.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.time)
    monkeypatch.setattr(ray_metrics, "SECONDS_BETWEEN_BEATS", 0.02)
    metrics = begun(tmp_path, training={"batch_size": 40})
    run = {"sweep": "mysweep", "trial": "p1-c03", "run": "p1-c03-s100"}
    metrics.progress(Progress(0, "training", 50, 150, {"loss": 3.0, "loss_ce": 2.0, "loss_margin": 1.0, "lr": 0.1}))
    assert ("ccsi_task", 1, run) in exported
    assert ("ccsi_phase", 1, run | {"phase": "training"}) in exported
    assert ("ccsi_loss", 3.0, run | {"phase": "training", "part": "total"}) in exported
    assert ("ccsi_loss", 1.0, run | {"phase": "training", "part": "margin"}) in exported
    assert "ccsi_images_per_second" not in {name for name, _, _ in exported}  # one point gives no speed
    now.time += 4
    metrics.progress(Progress(0, "training", 150, 150, {"loss": 2.0, "val_accuracy": 0.75}))
    assert ("ccsi_images_per_second", 1000.0, run) in exported  # 100 batches of 40 in 4 s
    assert ("ccsi_val_accuracy", 0.75, run) in exported
    figures = {"val_micro": 0.5, "val_macro_over_tasks": 0.25, "val_average_incremental": 0.6, "test_micro": 0.1}
    metrics.task_end(TaskEnd(0, 2, figures, {}))
    assert (TASKS_DONE, 1.0, {"sweep": "mysweep"}) in exported
    assert ("ccsi_val_average_incremental", 0.6, run) in exported
    exported.clear()
    metrics.progress(Progress(1, "synthesis", 50, 100, {"loss_tv": 1.5}))
    assert ("ccsi_phase", 0, run | {"phase": "training"}) in exported
    assert ("ccsi_phase", 1, run | {"phase": "synthesis"}) in exported
    assert [tags["part"] for name, _, tags in exported if name == "ccsi_loss"] == ["tv"]
    exported.clear()
    assert until(lambda: ("ccsi_task", 2, run) in exported)  # again and again without news, or Ray would forget it
    assert ("title", 0, {"text": "ray::Trial p1-c03-s100 task 2 synthesis"}) in exported
    metrics.finish(None)
    time.sleep(0.1)
    assert exported[-1] == ("ccsi_phase", 0, run | {"phase": "synthesis"})


def until(condition: Any, seconds: float = 5) -> bool:
    for _ in range(int(seconds / 0.01)):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_metrics_that_fail_do_not_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no agent")

    for name in ("__init__", "_record"):
        with monkeypatch.context() as patch:
            patch.setattr(ray.util.metrics.Metric, name, fail)
            metrics = begun(tmp_path)
            metrics.progress(Progress(0, "training", 1, 2, {"loss": 1.0}))
            metrics.progress(Progress(0, "training", 1, 2, {"loss": 1.0}))
            metrics.task_end(TaskEnd(0, 1, {"val_micro": 1.0}, {}))
            metrics.finish(None)


def test_grafana_shows_every_metric_and_no_other() -> None:
    board = json.loads((ROOT / "tune/cluster/grafana.json").read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries.append(variables["sweep"]["query"]["query"])
    shown = set(re.findall(r"ray_ccsi_\w+", " ".join(queries)))
    assert shown == {f"ray_{name}" for name in GAUGES} | {f"ray_{TASKS_DONE}_total"}
    phases = set(re.findall(r'phase="(\w+)"', " ".join(queries)))
    assert phases == {"training", "synthesis"}
    for panel in board["panels"]:
        uids = [panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])]
        assert set(uids) == {"${datasource}"}
        (target,) = panel["targets"]
        tags = {"sweep", "trial", "run", "phase", "part"}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= tags
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    positions = [tuple(panel["gridPos"][key] for key in "xywh") for panel in board["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in positions)
    cells = [(x + i, y + j) for x, y, w, h in positions for i in range(w) for j in range(h)]
    assert len(set(cells)) == len(cells)  # no panel lies on another


@pytest.mark.parametrize(("terminal", "shown"), [(True, "(token: s3cret)"), (False, "shown on a terminal only")])
def test_the_token_is_shown_on_a_terminal_and_kept_out_of_logs(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "127.0.0.1", "MetricsExportPort": 4711}])
    file = io.StringIO()
    print_addresses(Console(file=file, force_terminal=terminal, width=50, highlight=False), "127.0.0.1:8265")
    metrics, dashboard = file.getvalue().splitlines()
    assert metrics == "Metrics for Prometheus: http://127.0.0.1:4711/metrics"
    assert dashboard.startswith("Dashboard: http://127.0.0.1:8265 ")
    assert shown in dashboard
    assert ("s3cret" in dashboard) == terminal


def test_gpu_memory_is_told_where_there_is_a_gpu(
    tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_reserved=lambda: 2**30)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    metrics = begun(tmp_path)
    metrics.progress(Progress(0, "training", 1, 2, {"loss": 1.0}))
    metrics.finish(None)
    assert [value for name, value, _ in exported if name == "ccsi_gpu_memory_bytes"] == [2**30]
