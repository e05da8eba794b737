"""Bad input is found before Ray starts, and leaves nothing behind."""

from pathlib import Path

import pytest
from commands import sweep as main


@pytest.mark.parametrize("debug", ["true", "false"])
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dataset=npz", "dataset.path=/nowhere/at_all.npz"], "/nowhere/at_all.npz does not exist"),
        (["scenario.classes_per_task=3"], "scenario.classes_per_task=3"),
        (["model.groups=32"], "model.groups=32"),
        (["learner.idc.target=as_released"], "learner.idc.target=as_released trains on test images"),
    ],
)
def test_what_does_not_fit_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], told: str, debug: str
) -> None:
    folder = tmp_path / "sweep"
    assert main([*overrides, f"sweep.debug={debug}", f"sweep.dir={folder}"]) == 2
    assert told in capsys.readouterr().err
    assert not folder.exists()
