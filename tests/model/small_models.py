"""Small folders of images, and models of them, for the tests of models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ccsi.model import Model, fit

QUIET = ["tracking.console.quiet=true", "report=false"]
TINY = ["learner=ncm", "dataset.size=8", "training.epochs=1", "training.first_epochs=1", "device=cpu", *QUIET]


def write_images(folder: Path, counts: dict[str, int], colour: bool = False, seed: int = 0) -> Path:
    """A folder with a sub-folder for each class; the images of a class are alike."""
    for name, count in counts.items():
        draw = np.random.default_rng([seed, *name.encode()])
        base = draw.integers(0, 256, (8, 8, 3) if colour else (8, 8))
        for number in range(count):
            noisy = np.clip(base + draw.integers(-30, 31, base.shape), 0, 255).astype(np.uint8)
            file = folder / name / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(file)
    return folder


def extended(old: Model, folder: Path, *overrides: str, out: Path | None = None) -> Model:
    return old.extend(folder, out=out, overrides=[*QUIET, *overrides])


def fitted(folder: Path, *overrides: str, out: Path | None = None, base: Sequence[str] = TINY) -> Model:
    return fit(folder, out=out, overrides=[*base, *overrides])


LEARNERS = {
    "ncm": [], "acil": ["learner.expansion=16"], "er": ["learner.budget.per_class=2"], "fecam": [],
    "ccsi": ["learner.synthesis.iterations=2", "learner.synthesis.warmup=1", "learner.synthesis.per_class=4"],
    "ewc": ["learner.fisher_images=4"],
}  # fmt: skip
