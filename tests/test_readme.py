"""What README tells a reader to type works as it stands there."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_your_own_learner_is_one_file_that_runs(tmp_path: Path) -> None:
    section = README.partition("## Add your own learner")[2].partition("\n## ")[0]
    code, _, rest = section.partition("```python\n")[2].partition("```")
    (tmp_path / "l2.py").write_text(code)
    (command,) = [line.strip() for line in rest.splitlines() if line.startswith("    python -m ccsi")]
    few = ["dataset.max_per_class=10", "training.epochs=1", "training.first_epochs=1", "report=false", "run_dir=run"]
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:], *few],
        cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["learner"], result["kind"], result["data_free"]) == ("l2", "regularisation", True)
    assert '"loss_l2"' in (tmp_path / "run/metrics.jsonl").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 35
    refused = subprocess.run(
        [sys.executable, *shlex.split(command.replace("penalty=0.1", "penalty=-1"))[1:], *few],
        cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert refused.returncode == 2 and "learner.penalty=-1: expected a number >= 0" in refused.stderr
