"""metrics.jsonl: what is written comes back, and a resumed run continues at the checkpoint's line."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccsi.errors import UserError
from ccsi.tracking import Files, Progress, RunStart, TaskEnd


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(files: Files, steps: range) -> None:
    for step in steps:
        files.progress(Progress(1, "training", step, 100, {"loss": 1 / step}))


def test_lines_are_as_documented(run: RunStart) -> None:
    files = Files()
    files.start(run)
    files.progress(Progress(0, "synthesis", 3, 10, {"loss": 0.5, "loss_ce": 0.25}))
    kept = [{"kind": "class means", "count": 2, "bytes": 64}]
    files.task_end(TaskEnd(0, 2, {"val_micro": 0.75, "seconds": 2.0}, {"val": [[1, 0], [0, 1]]}, None, kept, 8.5))
    assert files.lines == 2
    assert read(run.folder) == [
        {"task": 1, "phase": "synthesis", "step": 3, "steps": 10, "loss": 0.5, "loss_ce": 0.25},
        {"task": 1, "phase": "task_end", "val_micro": 0.75, "seconds": 2.0, "left": 8.5, "stored": kept},
    ]


def test_every_line_is_in_the_file_before_the_next_step(run: RunStart) -> None:
    files = Files()
    files.start(run)
    write(files, range(1, 4))
    assert len(read(run.folder)) == 3  # without finish: a kill -9 may come now


def test_a_resumed_run_ends_with_the_file_of_one_never_interrupted(run: RunStart) -> None:
    whole = Files()
    whole.start(run)
    write(whole, range(1, 21))
    whole.finish(None)
    expected = (run.folder / "metrics.jsonl").read_bytes()

    killed = Files()
    killed.start(run)  # a fresh start empties the file
    write(killed, range(1, 11))
    checkpoint = killed.lines
    write(killed, range(11, 15))  # written after the checkpoint, then killed in the middle of a line
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"task": 2, "ph')

    resumed = Files()
    resumed.start(dataclasses.replace(run, resumed_at=checkpoint))
    assert resumed.lines == 10
    write(resumed, range(11, 21))
    resumed.finish({})
    assert (run.folder / "metrics.jsonl").read_bytes() == expected
    assert [path.name for path in run.folder.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("content", [None, b"", b'{"task": 1}\n{"task": 1}\n', b"{}\n{}\n{}"])
def test_fewer_lines_than_the_checkpoint_counted_is_an_error_and_nothing_is_touched(
    run: RunStart, content: bytes | None
) -> None:
    path = run.folder / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl holds [02] whole lines, but .* after 3"):
        Files().start(dataclasses.replace(run, resumed_at=3))
    assert (path.read_bytes() if path.exists() else None) == content


@given(value=st.floats())
def test_any_float_is_strict_json(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    folder = tmp_path_factory.mktemp("run")
    files = Files()
    files.start(RunStart("n", folder, {}, (("a",),)))
    files.progress(Progress(0, "training", 1, 1, {"loss": value}))
    files.finish(None)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    loss = json.loads((folder / "metrics.jsonl").read_text(), parse_constant=refuse)["loss"]
    assert loss == (value if math.isfinite(value) else None)
