"""Folders and disks that cannot be written: one sentence, nothing lost, and the run resumes when they can.

Root may write anywhere, so most refusals are the system's own errors, raised where the file would be written.
"""

import errno
import os
import pathlib
from pathlib import Path
from typing import Any

import pytest
from tiny_run import run_tiny

from ccsi.errors import UserError
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.io.run_files import read_result


class Refusal:
    """Raises an error of the system for every `operation` on a path of a name, from the `first` time on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, operation: str, number: int) -> None:
        self.number, self.name, self.first, self.seen = number, "", 0, 0
        original = getattr(module, operation)

        def call(path: Any, *rest: Any, **options: Any) -> Any:
            if self.name and self.name in str(path):
                self.seen += 1
                if self.seen > self.first:
                    raise OSError(self.number, os.strerror(self.number), str(path))
            return original(path, *rest, **options)

        monkeypatch.setattr(module, operation, call)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    figures: dict[str, Any] = run_tiny(tmp_path_factory.mktemp("whole") / "run", "checkpoint_every=0")
    return figures


@pytest.mark.parametrize(
    ("name", "first", "number"),
    [
        ("checkpoint.pt", 0, errno.ENOSPC),
        ("checkpoint.pt", 3, errno.EROFS),
        ("checkpoint.pt", 9, errno.EDQUOT),
        ("result.json", 0, errno.EACCES),
    ],
)
def test_a_disk_that_refuses_costs_nothing(
    name: str, first: int, number: int, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        refusal = Refusal(patch, pathlib.Path, "open", number)
        refusal.name, refusal.first = f".{name}.part", first
        with pytest.raises(UserError) as caught:
            run_tiny(folder, "checkpoint_every=0")
    said = str(caught.value)
    assert os.strerror(number) in said and name in said and "\n" not in said
    assert read_result(folder) is None and not list(folder.glob(".*.part"))
    state = Checkpoints(folder, 0).load()
    assert (state is None) == (name == "checkpoint.pt" and first == 0)
    assert run_tiny(folder, "checkpoint_every=0")["weights_sha256"] == undisturbed["weights_sha256"]


@pytest.mark.parametrize("name", ["config.yaml", "class_means.npz", "task2.npz"])
def test_other_files_that_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "run"
    with monkeypatch.context() as patch:
        refusal = Refusal(patch, pathlib.Path, "open", errno.EACCES)
        refusal.name = f".{name}.part"
        with pytest.raises(UserError, match=rf"{name} cannot be written \(Permission denied\)"):
            run_tiny(folder)
    assert folder.exists() == (name != "config.yaml")  # nothing was written before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_parent_that_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal(monkeypatch, os, "mkdir", number)
    refusal.name = "runs"
    with pytest.raises(UserError, match=r"^run_dir=.* cannot be written \(") as caught:
        run_tiny(tmp_path / "runs" / "run")
    assert os.strerror(number) in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_or_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for parent in ("file", "link"):
        with pytest.raises(UserError, match=r"^run_dir="):
            run_tiny(tmp_path / parent / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_folder_in_place_of_impressions(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"

    def occupy(event: Any) -> None:
        if event.task == 0:
            (run_dir / "impressions").touch()

    with pytest.raises(UserError, match=r"impressions cannot be made \(File exists\)"):
        run_tiny(run_dir, on_task_end=occupy)
    (run_dir / "impressions").unlink()
    assert run_tiny(run_dir)["impressions_sha256"]


def test_the_folder_of_another_user(tmp_path: Path) -> None:
    """A child that gives up root, if this is root."""
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    if not (pid := os.fork()):
        code = 1
        try:
            os.setuid(65534)
            from ccsi.experiment.folder import check_run_dir

            check_run_dir(closed / "run", {})
        except UserError as error:
            code = 0 if "cannot be read (Permission denied)" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
