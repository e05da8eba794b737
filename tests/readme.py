"""The commands README gives, and what makes them short enough for a test."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = [words for line in BLOCKS.splitlines() if (words := shlex.split(line, comments=True))]
RUNS = [words[2:] for words in COMMANDS if words[:2] == ["ccsi", "run"]]
OF_MODELS = ("fit", "predict", "extend", "evaluate", "show", "export")
STORY = [words[1:] for words in COMMANDS if words[0] == "ccsi" and words[1] in OF_MODELS]
"""The life of a model, in README's order."""
INSTALL = [words for words in COMMANDS if words[0] == "pip"]
ON_RAY = [words[1:] for words in COMMANDS if words[0] == "ccsi" and words[1] not in ("run", *OF_MODELS)]
"""Sweeps and their kin, tried one after another by `test_installed_package.py`."""
MAKE = [words[1] for words in COMMANDS if words[0] == "make"]

SHORT = ["dataset.max_per_class=10", "training.epochs=1", "training.first_epochs=1"]
"""What makes a run short, whatever it does."""
FEW_IMPRESSIONS = ["learner.synthesis.iterations=2", "learner.synthesis.per_class=4"]
SMALL_SWEEP = [
    *("sweep.num_samples=1", "sweep.seeds.reporting=[0]", "sweep.top_k=1", "ray.num_cpus=2"),
    *("scenario.classes_per_task=5", *SHORT, *FEW_IMPRESSIONS),
]
SMALL_TRAINING = ["ray.num_cpus=2", "report=false", "scenario.classes_per_task=5", *SHORT, *FEW_IMPRESSIONS]
