"""Several workers share a fit or an extension: `ccsi fit workers=2`, by Ray, and by gloo without Ray."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_models import TINY, write_images

from ccsi.model import Model, fit, load

DOUBLE = ["learner=ccsi", "training.precision=float64", "training.batch_size=4", "learner.synthesis.iterations=4"]
DOUBLE += ["learner.synthesis.warmup=1", "learner.synthesis.per_class=4"]


def shared(first: str, second: str, out: str) -> str:
    """A fit and an extension by this worker and another one; what is the same on both."""
    model = fit(first, out=f"{out}/one", overrides=[*TINY, *DOUBLE])
    model = model.extend(second, out=f"{out}/two", overrides=TINY[-2:])
    return json.dumps([task.weights_sha256 for task in model.record.tasks])


def weights(model: Model) -> np.ndarray:
    return np.concatenate([value.double().numpy().ravel() for value in model.learner.net.state_dict().values()])


@pytest.mark.alone
def test_two_workers_learn_what_one_does(tmp_path: Path, pair: Callable[..., list[str]]) -> None:
    """In float64, to rounding: sums are in another order."""
    first = write_images(tmp_path / "first", {"ant": 8, "bee": 8})
    second = write_images(tmp_path / "second", {"cat": 8})
    hashes = [json.loads(text) for text in pair(shared, str(first), str(second), str(tmp_path))]
    assert hashes[0] == hashes[1]
    alone = fit(first, overrides=[*TINY, *DOUBLE]).extend(second, overrides=TINY[-2:])
    together = load(tmp_path / "two")
    assert [task.weights_sha256 for task in together.record.tasks] == hashes[0]
    assert together.record.tasks[-1].workers == 2 and alone.record.tasks[-1].workers == 1
    assert np.allclose(weights(together), weights(alone), rtol=1e-6, atol=1e-8)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.alone
def test_the_command_with_two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    import subprocess
    import sys

    first = write_images(tmp_path / "first", {"ant": 8, "bee": 8})
    second = write_images(tmp_path / "second", {"cat": 8})
    options = ["workers=2", "ray.num_cpus=2"]

    def typed(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ccsi", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "ncm, 2 classes" in typed("fit", str(first), "out=one", *TINY, *options)
    assert "ncm, 3 classes, 1 new: cat" in typed("extend", "one", str(second), "out=two", *TINY[-2:], *options)
    model = load(tmp_path / "two")
    assert [task.workers for task in model.record.tasks] == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "one", "two"}
