"""How many trials share a GPU; no Ray is started, and no GPU is needed."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("ray")
import torch

from ccsi.errors import UserError
from ccsi.sweep.compose import compose
from ccsi.sweep.execution import gpu_packing
from ccsi.sweep.execution.context import TrialContext
from ccsi.sweep.recorder import SweepRecorder
from ccsi.sweep.resume import with_folder

GIB = 2**30
CONTEXT = TrialContext(1, 2.0, 1.0, 4)
DIGITS = ["dataset=digits", "dataset.max_per_class=10", "scenario.classes_per_task=[4,3,3]", "resources.gpu=auto"]
DIGITS += ["sweep.space={learner.w_idc: {choice: [0.0, 1.0]}}", "learner.synthesis.per_class=4", "training.epochs=50"]


def recorder_of(folder: Path) -> SweepRecorder:
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    return SweepRecorder(with_folder(compose(DIGITS), folder))


@pytest.mark.parametrize(
    ("used", "total", "n"), [(1, 16, 13), (4, 16, 3), (3.3, 16, 4), (8, 16, 1), (15, 16, 1), (20, 16, 1)]
)
def test_as_many_as_fit_with_a_margin_share_a_gpu(used: float, total: float, n: int) -> None:
    assert gpu_packing.packing(int(used * GIB), int(total * GIB)) == n
    assert n == 1 or n * used * 1.2 <= total < (n + 1) * used * 1.2


def test_the_share_is_measured_once_told_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def measured(config: dict[str, Any], context: TrialContext) -> tuple[int, int]:
        asked.append(config)
        return 3 * GIB, 16 * GIB

    monkeypatch.setattr(gpu_packing, "run_warm_up", measured)
    console = Console(file=io.StringIO(), width=200)
    nodes: list[Mapping[str, float]] = [{"CPU": 64.0}, {"CPU": 32.0, "GPU": 2.0}]
    recorder = recorder_of(tmp_path)
    assert gpu_packing.measure_gpu_share(recorder, CONTEXT, nodes, console) == 1 / 4
    assert "a trial took 3.0 of 16.0 GiB, so 4 share a GPU" in console.file.getvalue()  # type: ignore[attr-defined]
    assert (asked[0]["device"], asked[0]["evaluate_test"], asked[0]["training"]["epochs"]) == ("cuda", False, 1)
    assert Path(asked[0]["run_dir"]) == tmp_path / "runs/.warm-up"
    assert json.loads((tmp_path / "journal.jsonl").read_text())["share"] == 0.25
    assert gpu_packing.measure_gpu_share(recorder_of(tmp_path), CONTEXT, nodes, console) == 1 / 4  # a resumed sweep
    assert len(asked) == 1
    # the CPUs may be what is scarce
    assert (
        gpu_packing.measure_gpu_share(recorder_of(tmp_path / "b"), CONTEXT, [{"CPU": 5.0, "GPU": 1.0}], console)
        == 1 / 2
    )


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"CPU": 64.0}, {"CPU": 8.0}], "of the 2 there none has a GPU"),
        ([{"CPU": 4.0, "GPU": 4.0}], "of the 1 there none with a GPU has the 2 CPUs of a trial for each"),
    ],
)
def test_without_a_gpu_it_says_so(tmp_path: Path, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gpu_packing.measure_gpu_share(recorder_of(tmp_path), CONTEXT, nodes, Console(quiet=True))


def test_the_warm_up_learns_two_tasks_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, events = recorder_of(tmp_path), []
    build = gpu_packing.ccsi.config.build

    def noted(config: dict[str, Any]) -> Any:
        run = build(config)

        def with_notes(on_task_end: Any) -> Any:
            return run(on_task_end=lambda event: (events.append(event.task), on_task_end(event)))

        return with_notes

    monkeypatch.setattr(gpu_packing.ccsi.config, "build", noted)
    monkeypatch.setattr(gpu_packing, "reset_process", lambda seed, gpu: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * GIB, 16 * GIB))
    config = gpu_packing.warm_up_config(recorder.state) | {"device": "cpu"}
    assert gpu_packing.warm_up(config, CONTEXT) == (4 * GIB, 16 * GIB)
    assert events == [0, 1]
    assert list((tmp_path / "runs").iterdir()) == []


def test_auto_is_a_sweeps_and_of_one_worker() -> None:
    with pytest.raises(UserError, match=r"resources\.gpu=auto: the share is measured with one worker"):
        compose([*DIGITS, "resources.workers=2"])
    with pytest.raises(UserError, match=r"resources\.gpu=most"):
        compose([*DIGITS, "resources.gpu=most"])
    assert compose([*DIGITS, "device=cuda"]).device({"device": "auto"}) == "cuda"
