"""`python tune/train.py`: a worker that dies, and what is refused before anything starts."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pandas as pd
import pytest

pytest.importorskip("ray")
from commands import train as main
from launcher import Sweep, until
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from tiny_run import TINY, run_tiny

import ccsi.config
from ccsi.distributed import AgreedError
from ccsi.errors import UserError
from ccsi.sweep.execution import data_parallel
from ccsi.sweep.execution.context import TrialContext
from ccsi.sweep.execution.failures import GivenUpError
from ccsi.sweep.recorder import SweepInterruptedError
from ccsi.sweep.train import show_progress, sole_driver, step_line

MORE = [*TINY, "training.batch_size=5", "checkpoint_every=0.3", "training.augment.shift=1"]


def undisturbed(folder: str) -> str:
    """One of two workers, joined by gloo without Ray."""
    return json.dumps(run_tiny(Path(folder), "workers=2", base=MORE))


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_worker_changes_nothing(tmp_path: Path, pair) -> None:
    whole = json.loads(pair(undisturbed, str(tmp_path / "whole"))[0])
    folder, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    train = Sweep(home, [*MORE, f"run_dir={folder}"], "train.py")
    try:
        assert until(lambda: (folder / "checkpoint.pt").exists())
        assert not (folder / "result.json").exists()
        killed = train.workers()
        assert len(killed) == 2
        killed[1].kill()
        assert train.wait() == 0, train.said
        assert train.left() == []
    finally:
        for process in train.family():
            process.kill()
    result = json.loads((folder / "result.json").read_text())
    for key in ("weights_sha256", "impressions_sha256", "test", "val"):
        assert result[key] == whole[key]
    assert "task 3 done" in train.said and "accuracy matrix, test" in train.said
    noise = [line for line in train.said.splitlines() if "ray" in line.lower() and "Starting Ray" not in line]
    assert all("A worker died or was killed" in line for line in noise), noise  # Ray's own word for what we did
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert {path.name for path in home.iterdir()} <= {"mpl"}


def the_best(file: str, folder: str) -> str:
    """A sweep's best.yaml, by two workers joined by gloo without Ray."""
    config = ccsi.config.from_arguments([file, "seed=0"]) | {"run_dir": folder}
    return json.dumps(ccsi.config.build(config)().figures)


@pytest.mark.slow
@pytest.mark.alone
def test_each_trial_of_a_sweep_may_have_several_workers(tmp_path: Path, pair, start) -> None:
    """One is stopped by ASHA and promoted later; and a driver that lags lets none hang."""
    folder, script = tmp_path / "s", str(Path(__file__).with_name("lagging_sweep.py"))
    space = ["sweep.space={learner.w_idc: {grid: [1.0]}}", "sweep.search=grid", "sweep.top_k=1"]
    more = ["sweep.scheduler=asha", "sweep.seeds.tuning=[100]", "sweep.seeds.reporting=[0]", "resources.workers=2"]
    sweep = start(*MORE, *space, *more, f"sweep.dir={folder}", script=script)
    assert sweep.wait(400) == 0, sweep.said
    assert sweep.left() == []
    assert '"status": "pruned"' in (folder / "journal.jsonl").read_text()
    table = pd.read_csv(folder / "runs.csv")
    assert list(table["status"]) == ["done", "done"]
    run = table["run"].iloc[1]
    result = json.loads((folder / "runs" / run / "result.json").read_text())
    alone = json.loads(pair(the_best, str(folder / "best.yaml"), str(tmp_path / "again"))[0])
    assert (result["workers"], alone["workers"]) == (2, 2)
    assert (result["weights_sha256"], result["test"]) == (alone["weights_sha256"], alone["test"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["workers=0"], "workers=0: expected a whole number >= 1 and <= 1000000."),
        (["max_failures=-1"], "max_failures=-1: expected a whole number >= 0 and <= 1000000."),
        (["resources.cpu=0"], "resources.cpu=0: expected a number > 0"),
        (["learner.w_idk=1"], "learner.w_idk is not a setting; did you mean learner.w_idc?"),
        (["scenario.classes_per_task=3"], "scenario.classes_per_task=3 makes 9 classes, but the data set has 10"),
        (["device=cuda"], "device=cuda, but resources.gpu is 0"),
        (["resources.gpu=0.5", "workers=2"], "resources.gpu=0.5: NCCL joins no two workers on one card"),
        (["ray.autoscale=true"], "ray.autoscale=true: expected ray.address of a cluster"),
        (["threads=abc"], "threads=abc: expected a whole number >= 1 and <= 1000000."),
        (["threads=null"], "threads=null: expected a whole number >= 1 and <= 1000000."),
        (["workers=two", "resources.gpu=0.5"], "workers=two: expected a whole number >= 1 and <= 1000000."),
        (["ray=auto"], "ray=auto: expected ray.<key>=…"),
        (["ray.address=here"], "ray.address=here: expected null, auto, or host:port of a running cluster."),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], message: str, capsys, tmp_path: Path) -> None:
    assert main([*TINY, f"run_dir={tmp_path / 'run'}", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("ccsi: ") == 1 and message in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_begun_again(tmp_path: Path, capsys) -> None:
    run_tiny(tmp_path / "run")
    before = (tmp_path / "run/result.json").read_bytes()
    assert main([*TINY, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "holds a finished run with workers=1, not 2" in capsys.readouterr().err
    assert main([*TINY, f"run_dir={tmp_path / 'run'}", "workers=1"]) == 0
    shown, said = capsys.readouterr()
    assert "accuracy matrix, test (%)" in shown and "Ray" not in said
    assert (tmp_path / "run/result.json").read_bytes() == before


def test_a_file_with_a_runs_configuration_is_taken_too(tmp_path: Path, monkeypatch, capsys) -> None:
    from ccsi.config import load, to_yaml
    from ccsi.sweep import train

    (tmp_path / "best.yaml").write_text(to_yaml(load([*TINY, "training.batch_size=7", "workers=2"])))
    asked = []

    def run_shared(*given: object) -> None:
        asked.append(given)
        raise SweepInterruptedError("said so")

    monkeypatch.setattr(train, "run_shared", run_shared)
    arguments = [str(tmp_path / "best.yaml"), "workers=3", "resources.cpu=2", "max_failures=1", "seed=5"]
    assert main([*arguments, f"run_dir={tmp_path / 'run'}"]) == 1
    config, context, *_ = asked[0]
    assert (config["workers"], config["threads"], config["seed"], config["training"]["batch_size"]) == (3, 2, 5, 7)
    assert (context.workers, context.cpu, context.max_failures) == (3, 2.0, 1)
    assert "resources" not in config
    assert "interrupted: said so" in capsys.readouterr().err
    assert main([str(tmp_path / "none.yaml")]) == 2


def test_a_second_driver_of_a_run_is_refused(tmp_path: Path, capsys) -> None:
    with sole_driver(tmp_path / "run"):
        assert main([*TINY, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "is in use: another process works on it" in capsys.readouterr().err
    with pytest.raises(UserError), sole_driver(tmp_path / "run"):
        raise UserError("not to my liking")
    assert list(tmp_path.iterdir()) == []


def test_workers_that_die_are_started_again_as_long_as_they_get_further(tmp_path: Path, monkeypatch) -> None:
    config, context = {"run_dir": str(tmp_path / "run")}, TrialContext(2, 1.0, 0.0, 2)
    (tmp_path / "run").mkdir()
    ends: list[Exception | None] = []
    monkeypatch.setattr(
        data_parallel, "run_workers", lambda *given: raised(ends.pop(0), tmp_path / "run/checkpoint.pt")
    )
    ends += [TrainingFailedError("died")] * 3
    with pytest.raises(GivenUpError, match="died"):
        data_parallel.run_workers_with_retries(config, context)
    assert ends == []
    ends += [
        TrainingFailedError("died"),
        TrainingFailedError("died"),
        RayError("further"),
        TrainingFailedError("died"),
        None,
    ]
    data_parallel.run_workers_with_retries(config, context)
    assert ends == []
    ends += [UserError("not to my liking")]
    with pytest.raises(UserError):
        data_parallel.run_workers_with_retries(config, context)
    ends += [OSError("no room")]
    with pytest.raises(OSError, match="no room"):  # not for another try
        data_parallel.run_workers_with_retries(config, context)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def raised(error: Exception | None, checkpoint: Path) -> None:
    """`further`: not without a new checkpoint."""
    if str(error) == "further":
        checkpoint.write_bytes(b"0" * 40)
    if error is not None:
        raise error


def test_each_attempt_meets_at_a_file_of_its_own(tmp_path: Path, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(data_parallel, "DataParallelTrainer", lambda *_, **given: made.append(given) or Mock())
    for _ in range(2):
        data_parallel.run_workers({"run_dir": str(tmp_path / "run")}, TrialContext(2, 1.0, 0.0, 2, local=True))
    assert len({given["train_loop_config"]["meet"] for given in made}) == 2


@pytest.mark.parametrize("is_main", [True, False])
def test_one_worker_writes_down_an_error_that_all_have(tmp_path: Path, monkeypatch, is_main: bool) -> None:
    group = SimpleNamespace(is_main=is_main, broadcast_object=Mock(side_effect=AgreedError("wrong")))
    monkeypatch.setattr(data_parallel.ProcessGroup, "current", lambda: group)
    config = json.dumps({"run_dir": str(tmp_path / "run"), "seed": 0})
    data_parallel.work({"config": config, "context": TrialContext(2, 1.0, 0.0, 2), "scratch": str(tmp_path)})
    assert (tmp_path / "error.txt").exists() is is_main


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    assert step_line(1, "training", 2, 9, loss=None, lr=0.5) == "task 1  training   2/9  lr 0.5"


def test_help_names_the_groups(capsys) -> None:
    assert main(["--help"]) == 0
    assert "workers=N" in capsys.readouterr().out


def test_the_end_of_a_task_says_how_long_the_rest_will_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = [{"task": n, "phase": "task_end", "val_micro": 0.5, "left": left} for n, left in ((1, None), (2, 75.0))]

    def job() -> None:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(end) + "\n" for end in ends))
        time.sleep(1)  # two looks

    show_progress(job, tmp_path)
    said = capsys.readouterr().err
    assert said == "task 1 done: val micro 50.0 %\ntask 2 done, about 1:15 left: val micro 50.0 %\n"
