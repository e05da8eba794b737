"""A checkpoint with a right checksum and something else in it: one sentence that names the field."""

import copy
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import run_tiny

from ccsi.errors import UserError
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.experiment.folder import check_run_dir
from ccsi.io.run_files import read_result

Change = Callable[[dict[str, Any]], Any]
STAGES = ("between", "synthesis", "training")
WITH_KEPT = ["icarl", "acil", "si"]
MORE_WITH_KEPT = ["bic", "ewc", "pass", "ncm", "fecam", "fetril", "ds_al", "abd"]


class StopError(Exception):
    """Raised after a checkpoint."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a CCSI run, left after its first task, inside the synthesis, and inside the training after it."""
    root, kept = tmp_path_factory.mktemp("begun"), dict[str, Path]()
    save = Checkpoints.save

    def keep(self: Checkpoints, state: Any) -> None:
        save(self, state)
        stage = state["stages"]["name"] if state["stages"] is not None else "between"
        if state["tasks_done"] == 1 and stage not in kept:
            kept[stage] = root / stage
            shutil.copytree(self.path.parent, root / stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", keep)
        run_tiny(root / "run", "checkpoint_every=0")
    assert set(kept) == set(STAGES)
    for folder in kept.values():
        text = (folder / "config.yaml").read_text().replace(str(root / "run"), str(folder))
        (folder / "config.yaml").write_text(text)
    return kept


def resumed(folder: Path, tmp_path: Path, change: Change, *overrides: str) -> str:
    """What is said when a copy of a run whose checkpoint is changed is resumed."""
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    (copied / "config.yaml").write_text((copied / "config.yaml").read_text().replace(str(folder), str(copied)))
    checkpoints = Checkpoints(copied, 0)
    state = copy.deepcopy(checkpoints.load())
    assert state is not None
    changed = change(state)
    checkpoints.save(state if changed is None else changed)
    before = (copied / "checkpoint.pt").read_bytes()
    with pytest.raises(UserError) as caught:
        run_tiny(copied, "checkpoint_every=0", *overrides)
    assert (copied / "checkpoint.pt").read_bytes() == before
    return str(caught.value)


def put(*path: Any, value: Any) -> Change:
    def change(state: dict[str, Any]) -> None:
        place: Any = state
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value(place[path[-1]]) if callable(value) else value

    return change


def drop(*path: Any) -> Change:
    def change(state: dict[str, Any]) -> None:
        place: Any = state
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("between", lambda state: [1], "all of it: Input should be a valid dict"),
        ("between", drop("learner"), "learner: Field required"),
        ("between", put("tasks_done", value="1"), "tasks_done: Input should be a valid integer"),
        ("between", put("tasks_done", value=7), "tasks_done is 7 of 3, but its figures are of 1 to 7 tasks"),
        ("between", put("schema", value=9), "was written by a newer version of ccsi (schema 9, not 1); update ccsi"),
        ("between", put("schema", value="1"), "schema is 1; expected a whole number"),
        ("between", put("stages", value={"name": "training"}), "stages.done: Field required"),
        ("between", put("lines", value=None), "lines: Input should be a valid integer"),
        ("between", put("record", "stored_after_task", 0, value=[{"kind": "", "count": torch.ones(1), "bytes": 1}]),
         "record.stored_after_task.0.0.count: Input should be a valid integer"),
        ("between", put("starts", 0, "seconds", value=torch.ones(1)), "starts.0.seconds: input was not a valid JSON"),
        ("between", drop("learner", "net", "scale"), "the net has no scale"),
        ("between", put("learner", "net", "scale", value=torch.zeros(3)), "scale is a tensor float32 [3]; expected"),
        ("between", put("learner", "net", "new", value=lambda t: t[:, :5]), "expected a tensor [any, 256]"),
        ("between", put("learner", "heads", value=[0, 4]), "a head's classes is 0; expected 1 to 4"),
        ("between", put("learner", "heads", value="4"), "the heads is str '4'"),
        ("between", put("learner", "memory", "means", value=lambda t: t[:1]), "the class memory.means is"),
        ("between", put("learner", "memory", "group_vars", value=[]), "the class memory.group_vars is a list of 0"),
        ("between", put("evaluators", "val", "confusions", 0, 0, 0, value=99), "a confusion matrix does not count"),
        ("between", drop("evaluators", "test"), "the evaluators has no test"),
        ("synthesis", put("stages", "state", value={}), "the state of the synthesis has no chunks, done"),
        ("synthesis", put("stages", "state", "chunks", 0, "step", value=10**6), "the step of the synthesis is 1000000"),
        ("synthesis", put("stages", "state", "chunks", 0, "x", value=lambda t: t[..., :2]), "the synthesis.x"),
        ("training", put("stages", "done", "synthesis", "labels", value=lambda t: t + 4), "an impression's label is 4"),
        ("training", put("stages", "done", "synthesis", "images", value=lambda t: t.float()), "a tensor float32"),
        ("training", put("stages", "state", "epoch", value=5), "the epoch of the training is 5; expected 0 to 1"),
        ("training", put("stages", "state", "augmenting", value=lambda t: t[:9]), "the training.augmenting"),
        ("training", put("stages", "state", "augmenting", value=lambda t: t + 7), "no state of a random generator"),
        ("training", put("stages", "state", "objective", value={}), "the state of the training.objective has no"),
        ("training", put("stages", "state", "optimizer", "momentum", value=[]), "momentum is a list of 0"),
    ],
)  # fmt: skip
def test_a_field_that_is_missing_or_odd_is_named(
    stage: str, change: Change, said: str, begun: dict[str, Path], tmp_path: Path
) -> None:
    message = resumed(begun[stage], tmp_path, change)
    assert said in message and "\n" not in message and len(message) <= 600


@pytest.mark.parametrize("where", [(), ("record",), ("record", "stored_after_task", 0, 0), ("evaluators", "val")])
def test_a_field_that_is_not_known_goes_no_further(where: Any, begun: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun["between"], folder)
    state = Checkpoints(folder, 0).load()
    assert state is not None
    put(*where, "more", value=torch.zeros(2))(state)
    Checkpoints(folder, 0).save(state)
    assert "more" not in json.dumps(run_tiny(folder))


@pytest.mark.parametrize(
    "learner", [*WITH_KEPT, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE_WITH_KEPT)]
)
def test_what_a_learner_keeps_is_checked(learner: str, tmp_path: Path) -> None:
    """After the first task: each stored buffer cut by a row, and of another type."""
    chosen = [f"learner={learner}", "checkpoint_every=0", "scenario.classes_per_task=5"]

    def stop(event: Any) -> None:
        raise StopError

    with pytest.raises(StopError):
        run_tiny(tmp_path / "first", *chosen, on_task_end=stop)
    state = Checkpoints(tmp_path / "first", 0).load()
    assert state is not None
    kept = state["learner"]["kept"]
    assert (learner == "abd") == (not kept)
    for name, value in kept.items():
        cut = value[1:] if isinstance(value, list) or value.ndim else value[None]
        for number, odd in enumerate((cut, None, torch.zeros(2, 2, 2, 2, 2))):
            where = tmp_path / f"{name}{number}"
            message = resumed(tmp_path / "first", where, put("learner", "kept", name, value=odd), *chosen)
            assert name in message or "the number of kept_images" in message


def with_result(folder: Path, **fields: Any) -> Path:
    (folder / "result.json").write_text(json.dumps({"schema": 2, "val": {}, "test": {}} | fields))
    return folder


def test_a_result_of_a_newer_version_or_with_odd_fields(tmp_path: Path) -> None:
    assert read_result(with_result(tmp_path)) is not None
    with pytest.raises(UserError, match=r"result\.json was written by a newer version of ccsi \(schema 4, not 3\)"):
        read_result(with_result(tmp_path, schema=4))
    with pytest.raises(UserError, match=r"is damaged \(seed: Input should be a valid integer\)"):
        read_result(with_result(tmp_path, seed="0"))
    with pytest.raises(UserError, match=r"is damaged \(no 'val'\)"):
        (tmp_path / "result.json").write_text('{"schema": 1}')
        read_result(tmp_path)


@pytest.mark.parametrize("name", ["result.json", "checkpoint.pt", "config.yaml", "metrics.jsonl", ".lock"])
@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_what_is_no_file_never_hangs(name: str, what: str, begun: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun["between"], folder)
    (folder / name).unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(folder / name)
    elif what == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero")
    if name == ".lock" and what != "folder":
        return  # it is opened for reading and writing, which waits for no one
    with pytest.raises(UserError) as caught:
        run_tiny(folder)
    assert name in str(caught.value) or "finished run" in str(caught.value) or "cannot be written" in str(caught.value)


def test_a_part_left_by_another_program_is_not_written_through(begun: dict[str, Path], tmp_path: Path) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("mine")
    shutil.copytree(begun["between"], folder)
    (folder / ".checkpoint.pt.part").symlink_to(victim)
    os.mkfifo(folder / ".metrics.jsonl.part")
    Checkpoints(folder, 0).save({"a": 1})
    assert victim.read_text() == "mine" and not (folder / ".checkpoint.pt.part").exists()


def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, *rest: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    Checkpoints(tmp_path, 0).save({"a": 1})
    with_result(tmp_path)
    (tmp_path / "config.yaml").touch()
    monkeypatch.setattr(os, "open", refuse)
    for read in (Checkpoints(tmp_path, 0).load, lambda: read_result(tmp_path), lambda: check_run_dir(tmp_path, {})):
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); expected a"):
            read()
