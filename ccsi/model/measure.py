"""What is measured of a model: figures on labelled images, the temperature, and how familiar its images are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.evaluation import metrics
from ccsi.evaluation.calibration import (
    class_balanced_weights,
    expected_calibration_error,
    fit_temperature,
    moved_features,
)
from ccsi.evaluation.evaluator import log_odds, score_images
from ccsi.learners.base import NetLearner
from ccsi.learners.replay import ReplayLearner
from ccsi.model.record import Calibration, Figures

MOST_VALUES = 2**24
"""Values of the images that are scored at a time: 64 MB as float32."""
BATCH = 512


def images_at_a_time(channels: int, size: int, most: int = BATCH) -> int:
    """How many images of the network's input are scored at a time: `most`, fewer of large ones, at least one."""
    return max(1, min(most, MOST_VALUES // (channels * size * size)))


@dataclass(frozen=True)
class Scored:
    """Images of some tasks, as the model scores them. scores: float64 [N, n]; labels: int64 [N] of its classes."""

    scores: Tensor
    labels: Tensor

    def of(self, classes: range) -> "Scored":
        """The images of some classes."""
        keep = (self.labels >= classes.start) & (self.labels < classes.stop)
        return Scored(self.scores[keep], self.labels[keep])

    def __len__(self) -> int:
        return len(self.labels)


def score(learner: NetLearner, part: Labelled) -> Scored:
    """Score images on the learner's device; UserError if scores are not finite."""
    every, n_tasks = torch.arange(len(part)), len(learner.heads)
    batch = images_at_a_time(*part.images.shape[1:3])
    if not len(part):
        n = sum(map(len, learner.heads))
        return Scored(torch.empty(0, n, dtype=torch.float64), part.labels.cpu())
    return Scored(score_images(learner, part.images, every, learner.device, n_tasks, batch), part.labels.cpu())


def figures_of(scored: Scored, classes: range) -> Figures | None:
    """Figures on the images of `classes`; None if there are none."""
    own = scored.of(classes)
    if not len(own):
        return None
    labels, n = own.labels.numpy(), own.scores.shape[1]
    rows = metrics.confusion_matrix(labels, own.scores.argmax(1).numpy(), n)
    recalls = metrics.recall_per_class(rows)[classes.start : classes.stop]
    auc = metrics.auc(labels, log_odds(own.scores).numpy()) if n > 1 else math.nan
    return Figures(
        images=len(own),
        accuracy=metrics.micro(rows),
        macro_recall=metrics.macro_over_classes(recalls),
        auc=None if math.isnan(auc) else auc,
        recall_per_class=[None if math.isnan(recall) else recall for recall in recalls],
        confusion=rows[classes.start : classes.stop].tolist(),
    )


def accuracy(scored: Scored) -> float | None:
    """The share of images that are classified correctly; None if there are none."""
    return float((scored.scores.argmax(1) == scored.labels).double().mean()) if len(scored) else None


def stand_ins(learner: NetLearner, val: Labelled, classes: range, means: Tensor) -> tuple[Scored, str]:
    """Scores that stand for images of old classes, and what they are of: exemplars, or `moved_features`.

    Args:
        val: images of the new `classes`. means: mean feature of each class, old ones first.
    """
    if isinstance(learner, ReplayLearner):
        kept = score(learner, Labelled(learner.kept_images.cpu(), learner.kept_labels.cpu()))
        return kept.of(range(classes.start)), "exemplars"
    features = learner.features(val.images.to(learner.device))
    moved, labels = moved_features(features, val.labels.to(features.device), classes, means.to(features.device))
    with torch.no_grad():
        scores = learner.classify_features(moved).double().cpu()
    return Scored(scores, labels.cpu()), "kept statistics"


def measure_calibration(
    learner: NetLearner, part: Labelled, val: Scored, means: Tensor
) -> tuple[float, list[Calibration]]:
    """The temperature, and the calibration error of each task.

    It is fitted on val of the last task's classes and on what stands for the old ones, each class with the same weight.

    Args:
        part, val: images of the last task, and their scores. means: mean feature of each class.
    """
    *old_tasks, newest = learner.heads
    whole, kind = val, ""
    if old_tasks:
        old, kind = stand_ins(learner, part, newest, means)
        whole = Scored(torch.cat([val.scores, old.scores]), torch.cat([val.labels, old.labels]))
    temperature = fit_temperature(whole.scores, whole.labels, class_balanced_weights(whole.labels))
    found = []
    for number, classes in enumerate(learner.heads, start=1):
        own, errors = whole.of(classes), list[float | None]([None, None])
        if len(own):
            errors = [expected_calibration_error((own.scores / t).softmax(1), own.labels) for t in (1.0, temperature)]
        found.append(Calibration(number, "val" if classes == newest else kind, len(own), *errors))
    return temperature, found
