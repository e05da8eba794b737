"""The kind of input that is a model's folder."""

import contextlib
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import kinds
import nasty
import numpy as np

from ccsi import config

sys.path.append(str(Path(__file__).parents[1] / "model"))  # helpers of the models' tests
import damage

LEARNERS = ["ncm", "acil", "er", "ccsi", "ewc", "bic", "pass"]
"""One of each base, and those that keep something of their own."""


def write_images(folder: Path, counts: dict[str, int]) -> Path:
    """A folder with a sub-folder for each class."""
    from PIL import Image

    draws = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


class ModelFolders:
    """`ccsi show|predict|evaluate|extend` with a model's folder in which something was changed."""

    @classmethod
    def prepare(cls, folder: Path) -> None:
        from ccsi.model import fit, load

        quiet = ["tracking.console.quiet=true", "report=false"]
        images = write_images(folder / "images", {"ant": 5, "bee": 5})
        new = write_images(folder / "new", {"cat": 5})
        for learner in LEARNERS:
            there = config.flat(config.load([f"learner={learner}", "dataset=digits"])["learner"])
            few = [f"learner.{key}={value}" for key, value in kinds.FEW.items() if key in there]
            tiny = ["dataset.size=8", "training.epochs=1", "training.first_epochs=1", "device=cpu"]
            fit(images, out=folder / learner, overrides=[f"learner={learner}", *tiny, *few, *quiet])
            if learner in ("ccsi", "ewc", "er"):
                load(folder / learner).extend(new, out=folder / f"{learner}2", overrides=quiet)

    def __init__(self, folder: Path) -> None:
        self.bases = sorted(path for path in folder.iterdir() if (path / "model.json").exists())
        self.folder = folder

    def case(self, draw: random.Random, folder: Path) -> list[str]:
        model = folder / "m"
        shutil.copytree(draw.choice(self.bases), model)
        for _ in range(draw.choice([1, 1, 1, 2])):
            with contextlib.suppress(Exception):  # an earlier change is in the way, or nothing can hold what it makes
                self.change(draw, model)
        images = write_images(folder / "images", {"ant": 2, "bee": 2})
        command = draw.choice(["show", "predict", "predict", "evaluate", "extend"])
        if command == "show":
            return ["show", "m"]
        if command == "predict":
            return ["predict", "m", str(images), "out=x.csv"]
        if command == "evaluate":
            return ["evaluate", "m", str(images), "out=x.json"]
        new = write_images(folder / "new", {"dog": 5})
        return ["extend", "m", str(new), "out=next", "report=false", "tracking.console.quiet=true"]

    def change(self, draw: random.Random, model: Path) -> None:
        names = ["model.json", *damage.TENSORS]
        path, how = model / draw.choice(names), draw.random()
        if how < 0.15:
            path.write_bytes(nasty.damage(draw, path.read_bytes()))
        elif how < 0.2:
            path.unlink()
            kinds.special(draw, path)
        elif how < 0.3:
            path = model / draw.choice(damage.TENSORS)
            damage.change_file(model, path.name, nasty.damage(draw, path.read_bytes()))
        elif how < 0.35:
            damage.change_file(model, path.name, (draw.choice(self.bases) / path.name).read_bytes())
        elif how < 0.7:
            content = damage.content_of(model)
            key = draw.choice([None, "config", "config", "tasks", "input"])
            parts = content if key is None else content[key]
            changed = nasty.mutate(draw, parts)
            content = changed if key is None else content | {key: changed}
            damage.seal(model, json.loads(json.dumps(content, skipkeys=True)))
        else:
            damage.change_tensors(model, lambda tensors: self.change_tensor(draw, tensors))

    @staticmethod
    def change_tensor(draw: random.Random, tensors: dict[str, Any]) -> None:
        """A tensor of another shape or type, with other values, under another name, or none."""
        import torch

        name = draw.choice(sorted(tensors))
        t = tensors.pop(name)
        changed = [
            t[None], t.reshape(-1)[:1], t.double(), t.half(), t.bool(), t.to(torch.uint8), t.to(torch.complex64), t * 0,
            t.new_empty(0), torch.cat([t.reshape(1, -1)] * 2), t[:1] if t.ndim else t, t + 300, t * 1e30, -t.double(),
            t * float("nan") if t.is_floating_point() else t - 5, t / 0, None, None,
        ]  # fmt: skip
        value = draw.choice(changed)
        if value is not None:
            tensors[draw.choice([name, name, name, f"{name}x", "net.x", "x"])] = value


KINDS = {**kinds.KINDS, "model": (ModelFolders, 0.1)}
"""Each kind, and its share of the cases."""
