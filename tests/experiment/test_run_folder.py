"""A run's folder: who makes it, who removes it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ccsi.errors import UserError
from ccsi.experiment import folder as folders
from ccsi.experiment.folder import LOCK, lock_run_dir
from ccsi.io.locks import locked


def test_a_folder_that_another_run_locked_first_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, winner = tmp_path / "runs" / "run", ExitStack()

    @contextmanager
    def too_late(path: Path) -> Iterator[bool]:
        winner.enter_context(locked(path))
        with locked(path) as held:
            yield held

    monkeypatch.setattr(folders, "locked", too_late)
    with winner:
        with pytest.raises(UserError, match="is in use by another process"), lock_run_dir(run_dir, {"seed": 0}):
            pass
        assert (run_dir / LOCK).exists()


def test_a_folder_made_for_nothing_is_removed_with_its_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_atomically", full)
    with pytest.raises(UserError, match="cannot be written"), lock_run_dir(tmp_path / "runs" / "run", {"seed": 0}):
        pass
    assert list(tmp_path.iterdir()) == []
