"""Interrupting is normal: kill it anywhere, and the next start ends with the same bits."""

import json
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import Server
from tiny_run import TINY, run_tiny, tiny

from ccsi.__main__ import main
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.tracking import TaskEnd

# everything that a checkpoint must carry is in use: momentum, plateau, best epoch, augmentation, several groups
BUSY = [
    *TINY,
    "training.epochs=2",
    "training.momentum=0.9",
    "training.schedule=plateau",
    "training.plateau_patience=0",
    "training.select=best_val",
    "training.augment.shift=1",
    "learner.synthesis.group_size=10",
]
EACH_STEP = "checkpoint_every=0"
Undisturbed = tuple[dict[str, Any], list[str | None]]
Whole = tuple[dict[str, Any], list[TaskEnd]]


def left_by(folder: Path) -> dict[str, Any]:
    """What a finished run's files say, without what time does to them."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    arrays: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as file:
            arrays |= {f"{path.name} {key}": file[key].tolist() for key in file.files}
    same = ("weights_sha256", "impressions_sha256", "test", "val", "stored", "stored_after_task")
    return {
        **{key: result[key] for key in same},
        "lines": [{key: value for key, value in line.items() if key not in ("seconds", "left")} for line in lines],
        "arrays": arrays,
        "tables": {name: (folder / name).read_text() for name in ("split.csv", "predictions.csv", "summary.txt")},
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    }


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, ccsi_process: Server
) -> tuple[dict[str, Any], list[str | None]]:
    """What a run leaves that is not interrupted, and the stage of each checkpoint if one is written at each step."""
    folder, other = tmp_path_factory.mktemp("run") / "undisturbed", tmp_path_factory.mktemp("run") / "each"
    assert ccsi_process(*BUSY, f"run_dir={folder}")["rc"] == 0
    each = ccsi_process(*BUSY, f"run_dir={other}", EACH_STEP)
    assert each["rc"] == 0
    left = left_by(folder)
    assert left == left_by(other)  # checkpoints touch nothing
    assert len(left["impressions_sha256"]) == 2 and {"training", "synthesis", None} <= set(each["stages"])
    return left, each["stages"]


@pytest.mark.parametrize(
    ("stage", "when"),
    [("training", "after"), ("synthesis", "after"), (None, "after"), (None, "before"), ("training", "half")],
)
def test_killed_at_a_random_moment(
    stage: str | None, when: str, undisturbed: Undisturbed, ccsi_process: Server, tmp_path: Path
) -> None:
    expected, stages = undisturbed
    moments = [n for n, name in enumerate(stages, start=1) if name == stage]
    at = random.Random(f"{stage} {when}").choice(moments)
    command = [*BUSY, EACH_STEP, f"run_dir={tmp_path / 'run'}"]
    killed = ccsi_process(*command, at=at, when=when, signal=signal.SIGKILL)
    assert killed["rc"] == -signal.SIGKILL and len(killed["stages"]) == at
    again = ccsi_process(*command)
    assert again["rc"] == 0, again["stderr"]
    assert len(again["stages"]) <= len(stages) - at + 1  # it resumed, it did not start over
    assert left_by(tmp_path / "run") == expected


@pytest.mark.parametrize("stage", ["training", "synthesis"])
def test_steps_since_the_last_checkpoint_are_done_again(
    stage: str, undisturbed: Undisturbed, ccsi_process: Server, tmp_path: Path
) -> None:
    """A checkpoint each third step, killed before one is in place: three steps are lost, and their log lines cut."""
    expected, _ = undisturbed
    folder = tmp_path / "run"
    stages = ccsi_process(*BUSY, f"run_dir={tmp_path / 'whole'}", every=3)["stages"]
    at = max(n for n, name in enumerate(stages, start=1) if name == stage and stages[n - 2] == stage)
    command = [*BUSY, f"run_dir={folder}"]
    assert ccsi_process(*command, every=3, at=at, when="before", signal=signal.SIGKILL)["rc"] == -signal.SIGKILL
    assert ccsi_process(*command)["rc"] == 0
    assert left_by(folder) == expected


def test_killed_while_the_pictures_are_drawn(tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = tmp_path / "run", list[Any]()
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(sys.modules["ccsi.experiment.run"], "draw", lambda *_: stop(None))
        patch.setattr("ccsi.tracking.Trackers.finish", lambda self, result: results.append(result))
        run_tiny(folder, "report=true")
    assert [result["weights_sha256"] for result in results] == [whole[0]["weights_sha256"]]  # it is finished
    before = (folder / "result.json").read_bytes()
    assert run_tiny(folder, "report=true")["weights_sha256"] == whole[0]["weights_sha256"]
    assert (folder / "result.json").read_bytes() == before and not (folder / "plots").exists()


def test_killed_again_and_again(undisturbed: Undisturbed, ccsi_process: Server, tmp_path: Path) -> None:
    expected, stages = undisturbed
    command = [*BUSY, EACH_STEP, f"run_dir={tmp_path / 'run'}"]
    chance = random.Random(1)
    starts, rc = 0, -signal.SIGKILL
    while rc == -signal.SIGKILL:
        at = chance.randint(len(stages) // 6, len(stages) // 2)
        rc = ccsi_process(*command, at=at, when=chance.choice(["half", "before", "after"]), signal=signal.SIGKILL)["rc"]
        starts += 1
    assert rc == 0 and starts > 2
    assert left_by(tmp_path / "run") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_resume(number: int, undisturbed: Undisturbed, ccsi_process: Server, tmp_path: Path) -> None:
    expected, stages = undisturbed
    command = [*BUSY, EACH_STEP, f"run_dir={tmp_path / 'run'}"]
    stopped = ccsi_process(*command, at=len(stages) // 2, when="after", signal=number)
    assert stopped["rc"] == 130
    assert stopped["stderr"].startswith("ccsi: interrupted; the same command ") and stopped["stderr"].count("\n") == 1
    assert stopped["stderr"].endswith("; the same command resumes it.\n")
    if number == signal.SIGTERM:
        assert ccsi_process(*command)["rc"] == 0
        assert left_by(tmp_path / "run") == expected


class StopError(Exception):
    """Ends a run after its first task."""


def stop(event: Any) -> None:
    raise StopError


@pytest.fixture(scope="module")
def begun_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun") / "begun"
    with pytest.raises(StopError):
        run_tiny(folder, on_task_end=stop)
    return folder


@pytest.fixture
def begun(begun_once: Path, tmp_path: Path) -> Path:
    """The folder of a run that has done its first task."""
    return Path(shutil.copytree(begun_once, tmp_path / "begun"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[TaskEnd]]:
    """The figures of a run that is not interrupted, and the events that its driver received."""
    events: list[TaskEnd] = []
    return run_tiny(tmp_path_factory.mktemp("whole") / "run", on_task_end=events.append), events


def test_a_tasks_end_is_reported_again_after_a_resume(begun: Path, whole: Whole) -> None:
    """The driver may have died with the run, between the checkpoint and receiving the event."""
    events: list[Any] = []
    run_tiny(begun, on_task_end=events.append)
    assert [event.task for event in events] == [event.task for event in whole[1]] == [0, 1, 2]
    figures = [
        [{k: v for k, v in one.figures.items() if k != "seconds"} for one in seen] for seen in (events, whole[1])
    ]
    assert figures[0] == figures[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *overrides: str, base: list[str] = TINY) -> str:
    """The message of a start that must be refused and must change no file."""
    before = contents(folder)
    assert main([*base, f"run_dir={folder}", *overrides]) == 2
    assert contents(folder) == before
    message = capsys.readouterr().err
    assert message.startswith("ccsi: ") and message.count("\n") == 1 and message.endswith(".\n")
    return message


def test_the_callback_finds_its_task_on_disk(tmp_path: Path) -> None:
    done = []

    def look(event: TaskEnd) -> None:
        state = Checkpoints(tmp_path / "run", 0).load()
        assert state is not None
        done.append((event.task + 1, state["tasks_done"]))

    run_tiny(tmp_path / "run", on_task_end=look)
    assert done == [(1, 1), (2, 2), (3, 3)]


def test_settings_that_do_not_touch_the_result_may_change(begun: Path, whole: Whole) -> None:
    figures = run_tiny(begun, "tracking.wandb.project=other", "checkpoint_every=5")
    assert figures["weights_sha256"] == whole[0]["weights_sha256"]
    assert figures["seconds"]["total"] >= sum(v for k, v in figures["seconds"].items() if k != "total")


def test_every_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on under another commit or version says so."""
    folder = tmp_path / "run"
    for number in (1, 2):
        with monkeypatch.context() as patch, pytest.raises(StopError):
            patch.setattr("ccsi.experiment.environment.commit", lambda number=number: f"commit {number}")
            patch.setattr("ccsi.experiment.environment.versions", lambda number=number: {"torch": f"{number}.0"})
            run_tiny(folder, on_task_end=lambda event, number=number: event.task == number - 1 and stop(event))
    figures = run_tiny(folder)
    starts = figures["starts"]
    assert [start["commit"] for start in starts] == ["commit 1", "commit 2", figures["commit"]]
    assert [start["versions"] for start in starts] == [{"torch": "1.0"}, {"torch": "2.0"}, figures["versions"]]
    assert all(start["seconds"] > 0 and start["cores"] >= 1 and start["threads"] == 1 for start in starts)
    assert sum(start["seconds"] for start in starts) == pytest.approx(figures["seconds"]["total"], abs=0.5)
    assert {start["device"] for start in starts} == {figures["device"]}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lr=0.05", "training.lr=0.1, not 0.05"),
        ("seed=1", "seed=0, not 1"),
        ("learner.imprint=false", "learner.imprint=true, not false"),
        ("training.clip_norm=1.0", "training.clip_norm=null, not 1.0"),
        ("scenario.classes_per_task=[5,5]", "scenario.classes_per_task=[4, 3, 3], not [5, 5]"),
        ("learner=finetune", "learner._target_=ccsi.learners.CCSI, not ccsi.learners.Finetune"),
    ],
)
def test_other_settings_are_named(begun: Path, override: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny("finetune") if override.startswith("learner=") else TINY
    assert words in refused(capsys, begun, override, base=base)


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda content: content[:-1], lambda content: b"", lambda content: b"x"]
)
def test_a_damaged_checkpoint_is_left_alone(begun: Path, damage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = begun / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    assert "checkpoint.pt is damaged" in refused(capsys, begun)


@pytest.mark.parametrize("content", ["", "- a list", "seed: [", "a: ${b}"])
def test_a_damaged_config_is_named(begun: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (begun / "config.yaml").write_text(content)
    message = refused(capsys, begun)
    assert "config.yaml is not a run's configuration" in message or "was begun with" in message


def test_a_checkpoint_of_other_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(seed: int) -> None:
        draw = np.random.default_rng(seed)
        arrays: dict[str, Any] = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_images"] = draw.integers(0, 256, (20, 8, 8), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(20) % 4
        np.savez(tmp_path / "data.npz", **arrays)

    command = [o for o in TINY if not o.startswith(("dataset", "scenario"))]
    command += ["dataset=npz", f"dataset.path={tmp_path / 'data.npz'}", "dataset.size=8"]
    write(0)
    with pytest.raises(StopError):
        run_tiny(tmp_path / "run", base=command, on_task_end=stop)
    write(1)
    before = contents(tmp_path / "run")
    assert main([*command, f"run_dir={tmp_path / 'run'}"]) == 2
    assert "other images" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
    write(0)
    assert main([*command, f"run_dir={tmp_path / 'run'}"]) == 0


def test_a_checkpoint_from_another_kind_of_device(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = Checkpoints(begun, 0).load()
    assert state is not None and state["device"] == "cpu"
    Checkpoints(begun, 0).save(state | {"device": "cuda"})
    assert "was begun on device=cuda, not cpu" in refused(capsys, begun)


def test_lines_the_checkpoint_counted_must_be_there(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (begun / "metrics.jsonl").write_text("")
    assert "metrics.jsonl holds 0 whole lines" in refused(capsys, begun)


def test_what_a_kill_leaves_before_the_first_file_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".config.yaml.part").write_text("se")
    run_tiny(folder)
    assert not list(folder.glob("*.part"))
