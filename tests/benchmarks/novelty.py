"""How well `familiarity` tells images of known classes from those of classes to come, and what a temperature brings.

    python tests/benchmarks/novelty.py pbcblood_28.npz [key=value …] --learners acil lwf ccsi --seeds 0 1 2

For each learner and each seed, which draws the order of the classes, a model is fitted on two classes and extended by
two at a time (`experiment=quick/pbcblood`). Before each extension all test images of the known classes and of the next
two are predicted. The area under the ROC curve is 0.5 for a value that says nothing, and 1 where every image of a known
class has a higher value than every image of a coming one. The calibration error is that of all test images of the known
classes, right after the task. A table shows means over seeds, and for the areas the smallest and the largest.
"""

import argparse
import contextlib
import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ccsi
from ccsi.evaluation.calibration import expected_calibration_error
from ccsi.model.predict import Predictions

HEAD = [
    *("learner", "classes known", "AUROC familiarity", "AUROC probability", "known below 5", "coming below 5"),
    *("accuracy", "calibration error without", "with temperature"),
]
STEP = 2  # classes of a task


def one_model(source: Path, learner: str, seed: int, typed: Sequence[str]) -> list[list[float]]:
    """A row of figures after each task, in %: those in `HEAD` from the third on; NaN where no class is to come."""
    with np.load(source) as file:
        images, labels = file["test_images"], file["test_labels"].ravel()
    order = np.random.default_rng(seed).permutation(labels.max() + 1)
    positions = order.argsort()[labels]  # of each image's class in the model
    common = ["dataset=pbcblood", "report=false", "tracking.console.quiet=true"]
    method = ["experiment=quick/pbcblood", f"learner={learner}", f"seed={seed}", "threads=1", "device=cpu", *typed]
    rows, model = [], None
    for known in range(STEP, len(order) + 1, STEP):
        chosen = f"classes={order[known - STEP : known].tolist()}"
        if model is None:
            model = ccsi.fit(source, overrides=[*common, *method, chosen])
        else:
            model = model.extend(source, overrides=[*common, chosen])
        shown = positions < known + STEP
        found, truth = model.predict(images[shown]), torch.from_numpy(positions[shown])
        rows.append(figures(found, truth, known, model.record.temperature))
    return rows


def figures(found: Predictions, truth: torch.Tensor, known: int, temperature: float) -> list[float]:
    """The figures of predictions, some of them of coming classes, whose positions are `known` or above."""
    is_known = truth.numpy() < known
    probabilities, own = torch.from_numpy(found.probabilities[is_known]), truth[torch.from_numpy(is_known)]
    plain = (probabilities.log() * temperature).softmax(1)  # of the scores as they are
    below, nan = 100 * (found.familiarity < 5), float("nan")
    areas, coming = [nan, nan], nan
    if not is_known.all():
        values = found.familiarity, found.probabilities.max(1)
        areas = [100 * float(roc_auc_score(is_known, value)) for value in values]
        coming = float(below[~is_known].mean())
    accuracy = 100 * float((probabilities.argmax(1) == own).double().mean())
    errors = [100 * expected_calibration_error(one, own) for one in (plain, probabilities)]
    return [*areas, float(below[is_known].mean()), coming, accuracy, *errors]


def quiet_model(source: Path, learner: str, seed: int, typed: Sequence[str]) -> list[list[float]]:
    """`one_model` without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return one_model(source, learner, seed, typed)


def cells(rows: Sequence[Sequence[float]]) -> list[str]:
    """One cell a figure, from the rows of all seeds."""
    texts = []
    for number, values in enumerate(zip(*rows, strict=True)):
        mean = f"{fmean(values):.1f}"
        spread = f" ({min(values):.1f} to {max(values):.1f})" if number < 2 and len(values) > 1 else ""
        texts.append("–" if np.isnan(values).any() else mean + spread)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--learners", nargs="+", default=["acil"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    options, typed = parser.parse_known_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with ProcessPoolExecutor(options.processes) as pool:
        submitted = {
            learner: [pool.submit(quiet_model, options.source, learner, seed, typed) for seed in options.seeds]
            for learner in options.learners
        }
        for learner, models in submitted.items():
            for number, rows in enumerate(zip(*(model.result() for model in models), strict=True), start=1):
                print(f"| {' | '.join([learner, str(STEP * number), *cells(rows)])} |", flush=True)


if __name__ == "__main__":
    main()
