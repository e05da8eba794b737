"""What is measured of a model: figures on labelled images, the temperature, and how familiar its images are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.evaluation import metrics
from ccsi.evaluation.calibration import class_balanced_weights, expected_calibration_error, fit_temperature
from ccsi.evaluation.evaluator import log_odds, score_images
from ccsi.evaluation.familiarity import energy, familiarity
from ccsi.learners.base import NetLearner
from ccsi.learners.replay import ReplayLearner
from ccsi.model.record import Calibration, Figures

BATCH = 512


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
    if not len(part):
        n = sum(map(len, learner.heads))
        return Scored(torch.empty(0, n, dtype=torch.float64), part.labels.cpu())
    return Scored(score_images(learner, part.images, every, learner.device, n_tasks, BATCH), part.labels.cpu())


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


def old_images(learner: NetLearner, impressions: Labelled | None) -> tuple[Labelled | None, str]:
    """Images of old classes to measure on, and what they are: impressions, exemplars, or none ("")."""
    if impressions is not None:
        return Labelled(impressions.images.cpu(), impressions.labels.cpu()), "impressions"
    if isinstance(learner, ReplayLearner) and len(learner.kept_labels):
        return Labelled(learner.kept_images.cpu(), learner.kept_labels.cpu()), "exemplars"
    return None, ""


def measure_calibration(
    learner: NetLearner, val: Scored, tasks: list[range], impressions: Labelled | None
) -> tuple[float, list[Calibration]]:
    """The temperature, fitted on val of the last task, and the calibration error of each task.

    Old classes are measured on impressions or exemplars, where the learner has any.

    Args:
        val: of the last task's classes. tasks: the classes of each. impressions: those made for the last task.
    """
    temperature = fit_temperature(val.scores, val.labels, class_balanced_weights(val.labels))
    others, kind = old_images(learner, impressions)
    old = None if others is None else score(learner, others)
    found = []
    for number, classes in enumerate(tasks, start=1):
        newest = number == len(tasks)
        own = val if newest else old.of(classes) if old is not None else None
        errors: list[float | None] = [None, None]
        if own is not None and len(own):
            errors = [expected_calibration_error((own.scores / t).softmax(1), own.labels) for t in (1.0, temperature)]
        n = len(own) if own is not None else 0
        found.append(Calibration(number, ("val" if newest else kind) if n else "", n, *errors))
    return temperature, found


def familiarity_of(learner: NetLearner, quantiles: Tensor, images: Tensor, scores: Tensor) -> Tensor:
    """How familiar images are, float64 [N] in [0, 100]; see `ccsi.evaluation.familiarity`.

    Args:
        quantiles: of the model. images: uint8 [N, C, S, S]. scores: float64 [N, n], the learner's.
    """
    return familiarity(energy(scores, 1.0), scores.argmax(1), quantiles)
