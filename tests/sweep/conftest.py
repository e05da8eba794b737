from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launcher import Sweep


@pytest.fixture(autouse=True)
def stand_ins_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests name `standin.run` and `tinynet.tiny`."""
    monkeypatch.setattr("ccsi.config.trust.TRUSTED", {"standin", "tinynet"})


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder for sweeps whose trials, and whose kills, are made up."""
    monkeypatch.setattr("ccsi.sweep.journal.os.fsync", lambda descriptor: None)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Starts sweeps; whatever still lives at the end of the test is ended, by id."""
    started: list[Sweep] = []

    def begin(*arguments: str, script: str = "sweep.py", trust: str = "") -> Sweep:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        started.append(Sweep(home, list(arguments), script, trust))
        return started[-1]

    yield begin
    for sweep in started:
        for process in sweep.family():
            process.kill()
        if sweep.process.stdout is not None:
            sweep.process.stdout.close()
        sweep.process.wait()
