"""`ccsi sweep --dry-run` and `--show`: what a sweep would do, with nothing done."""

from pathlib import Path

import pytest
import yaml
from commands import sweep

from ccsi.sweep.compose import compose
from ccsi.sweep.resume import with_folder


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["sweep.space={learner.w_idc: {choice: [0.5]}, learner.w_margin: {grid: [0.5, 1.0]}}"],
            ["Search: grid, by mean", "2 trials"],  # nothing is left to be drawn
        ),
        (
            [],
            [
                "Search: random, by mean",
                "6 trials x 1 tuning seeds = 6 runs",
                "the best 2 x 3 reporting seeds = 6 runs",
                "1 CPUs and 0 GPUs",
            ],
        ),
        (
            ["sweep.search=grid", "sweep.space={learner.w_idc: {grid: [0.0, 1.0]}}", "sweep.seeds.tuning=[7,8]"],
            ["2 trials x 2 tuning seeds = 4 runs", "learner.w_idc: grid [0.0, 1.0]"],
        ),
        (
            ["sweep.space={learner: {each: {ncm: null, ewc: null}}}", "sweep.top_k=1"],
            ["at most 0 trials", "the best 2 x 3 reporting seeds = 6 runs"],
        ),
        (["experiment=rivals/digits"], ["132 trials x 1", "the best 22 x 5 reporting seeds = 110 runs"]),
        (["resources.gpu=auto", "sweep.name=mine"], ["auto GPUs (measured first)", "sweeps/mine"]),
    ],
)
def test_a_dry_run_counts_runs_and_does_nothing(
    arguments: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(["--dry-run", *arguments]) == 0
    said = capsys.readouterr().out
    assert all(text in " ".join(said.split()) for text in expected), said
    assert max(map(len, said.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_sweep_as_it_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(["--show", "sweep.top_k=1"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["sweep"]["top_k"] == 1 and shown["bases"][""]["learner"]["_target_"] == "ccsi.learners.CCSI"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s").mkdir()
    (tmp_path / "s/sweep.yaml").write_text(with_folder(compose(["sweep.top_k=3"]), tmp_path / "s").dump())
    assert sweep(["--show", "resume=s"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["sweep"]["top_k"] == 3
