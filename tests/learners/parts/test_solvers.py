"""A long call into a compiled solver is left at once when a signal comes, and gives the same bits."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from ccsi.learners.fetril import linear_svm
from ccsi.learners.parts.solvers import interruptible


def test_a_signal_ends_the_wait_for_a_solver() -> None:
    go = threading.Event()

    def solve() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        go.wait(60)  # without signals: not in the main thread

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interruptible(solve)
    assert time.monotonic() - started < 30
    go.set()


def test_results_and_errors_come_through() -> None:
    assert interruptible(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(90, 20, generator=draws), torch.arange(90) % 3


def test_the_support_vector_machine_is_scikit_learns_to_the_bit() -> None:
    from sklearn.svm import LinearSVC

    x, y = problem()
    svm = LinearSVC(C=1.0, dual=False).fit(x.double().numpy(), y.numpy())
    assert np.array_equal(linear_svm(x, y, 1.0).numpy(), np.hstack([svm.coef_, svm.intercept_[:, None]]))


@pytest.mark.filterwarnings("error")
def test_a_support_vector_machine_that_does_not_converge_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sklearn.svm import LinearSVC

    monkeypatch.setattr(LinearSVC.__init__, "__kwdefaults__", LinearSVC.__init__.__kwdefaults__ | {"max_iter": 1})
    linear_svm(*problem(), 100.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "stopped after 1 iterations" in said and "learner.c than 100" in said
