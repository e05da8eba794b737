"""The machine: which device is taken, what is measured, and that nothing of one system only is needed to import."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ccsi.errors import UserError
from ccsi.experiment import environment
from ccsi.experiment.environment import commit, hardware, peak_memory, reset_peak_memory, torch_device


@pytest.mark.parametrize(("cuda", "mps"), [(False, False), (False, True), (True, False)])
def test_devices(cuda: bool, mps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_device("cpu").type == "cpu"
    assert torch_device("auto").type == ("cuda" if cuda else "cpu")  # an Apple GPU only by its name
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert torch_device(name).type == name  # type: ignore[arg-type]
        else:
            with pytest.raises(
                UserError, match=rf"^device={name}: this machine has no .*; expected device=cpu or auto"
            ):
                torch_device(name)  # type: ignore[arg-type]
    assert hardware(torch.device("mps")).startswith("Apple GPU, ")


def test_the_cpu_asks_for_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.cuda, torch.backends.mps):  # a driver that hangs costs no run on the CPU its start
        monkeypatch.setattr(module, "is_available", lambda: pytest.fail("asked"))
    assert torch_device("cpu").type == "cpu"


def test_peak_memory_counts_from_its_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    before = peak_memory(cpu)
    held = torch.ones(2**24)
    assert peak_memory(cpu) - before > 2**25
    del held
    reset_peak_memory(cpu)
    assert peak_memory(cpu) < before + 2**25

    def elsewhere(self: Path, *_: Any) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", elsewhere)
    assert peak_memory(cpu) > before // 2  # the process's, by `resource`
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "resource":
            raise ModuleNotFoundError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert peak_memory(cpu) == 0


def test_nothing_that_only_linux_has_is_imported() -> None:
    program = (
        "import sys, torch, numpy, torchvision, matplotlib.figure, hydra, rich.console;"
        "import filelock; sys.modules |= dict.fromkeys(['fcntl', 'resource', 'pwd', 'grp', 'termios']);"
        "import ccsi.experiment, ccsi.config, ccsi.report, ccsi.tracking, ccsi.evaluation"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commit_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
        assert str(commit()).removesuffix("+") == head.stdout.strip()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "ccsi" / "experiment" / "environment.py"))
    assert commit() is None
