"""Probabilities from a learner's scores: one temperature, and how far the probabilities are from what is observed.

When classes are added, there are validation images of the new ones only. A temperature fitted on these alone says
nothing of what was forgotten, and then is far too low. What stands for the old classes are exemplars where a learner
keeps them, and otherwise `moved_features`, each class with the same weight (`class_balanced_weights`). Class
impressions do not: a net is surer of them than of images.
"""

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-4, 1e4
"""Bounds of a temperature."""


def class_balanced_weights(labels: Tensor) -> Tensor:
    """A weight for each image, float64 [N], so that each class present in `labels` (int64 [N]) weighs the same.

    The weights sum to N.
    """
    _, which, counts = labels.unique(return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts.double()[which])


def fit_temperature(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """The temperature T in [1e-4, 1e4] for which softmax(scores / T) fits the labels best.

    It minimises the weighted mean negative log-likelihood (Guo et al., ICML 2017), where each label stands for the
    distribution (N · one-hot + uniform) / (N + 1), as Platt (1999) smooths labels: as if one more image, of a random
    class, had been seen. So T is finite and above 0 where all of few images are classified correctly. The loss is
    convex in 1/T; its minimum is found by bisection of its slope.

    Args:
        scores: [N, n] of any real scale, such as logits, negative distances or margins.
        labels: int64 [N] in [0, n).
        weights: of the images, positive [N]; by default all the same. Their scale has no influence.

    Returns:
        1.0 where no temperature is better than another: without images, with one class, or if all scores are equal.

    Raises:
        ValueError: shapes that do not fit, labels out of range, scores or weights that are not finite.
    """
    scores, labels = scores.detach().cpu().double(), labels.cpu()
    weights = torch.ones(len(scores)).double() if weights is None else weights.detach().cpu().double()
    check(scores, labels, weights)
    n = len(scores)
    if (scores == scores[:, :1]).all():
        return 1.0
    spread = scores - scores.mean(1, keepdim=True)
    # the label's score, relative to the mean of all: what the uniform part adds is 0
    wanted = spread.gather(1, labels[:, None])[:, 0] * n / (n + 1)

    def slope(log_temperature: float) -> float:
        """Of the loss, by 1/T: it rises with 1/T."""
        probabilities = (spread / math.exp(log_temperature)).softmax(1)
        return float((weights * ((probabilities * spread).sum(1) - wanted)).sum())

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)


def moved_features(features: Tensor, labels: Tensor, classes: range, means: Tensor) -> tuple[Tensor, Tensor]:
    """Features that stand for images of old classes, [M · n_old, D], and their labels, int64 [M · n_old].

    The features of new classes' images with the mean of their class replaced by that of each old class in turn
    (FeTrIL, Petit et al., WACV 2023, which moves training features to train a classifier). They are kept within the
    range of the features, so that those after a ReLU stay at or above 0.

    Args:
        features: [M, D] of images that were not trained on. labels: int64 [M] in `classes`, the new classes.
        means: mean feature of every class, [n_old + n_new, D], old classes first, as they were when learned.
    """
    own = features.to(means)
    residuals = own - means[labels]
    moved = [(residuals + mean).clamp(min=own.min()) for mean in means[: classes.start]]
    old = torch.arange(classes.start, device=labels.device)
    return torch.cat([own[:0], *moved]).to(features), old.repeat_interleave(len(labels))


def check(scores: Tensor, labels: Tensor, weights: Tensor) -> None:
    """Raise ValueError unless scores [N, n], labels [N] and weights [N] fit together and are finite."""
    if scores.ndim != 2 or not scores.shape[1] or labels.shape != scores.shape[:1] or weights.shape != labels.shape:
        shapes = ", ".join(str(list(one.shape)) for one in (scores, labels, weights))
        raise ValueError(f"scores, labels and weights have the shapes {shapes}; expected [N, n], [N] and [N].")
    if not scores.isfinite().all() or not weights.isfinite().all() or not (weights > 0).all():
        raise ValueError("scores or weights are not finite, or a weight is not positive.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise ValueError(f"labels are not all in [0, {scores.shape[1]}), the columns of scores.")


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, bins: int = 15, weights: Tensor | None = None
) -> float:
    """Σ_b (n_b / N) · |accuracy_b − confidence_b|, in [0, 1]; NaN without images.

    An image's confidence is its highest probability; bin b of `bins` equal ones has the images with a confidence in
    (b/bins, (b+1)/bins], and accuracy_b and confidence_b are the means over them (Guo et al., ICML 2017, eq. 3).

    Args:
        probabilities: [N, n], rows that sum to 1. labels: int64 [N].
        weights: of the images, positive [N], which then replace counts; by default all the same.
    """
    if not len(labels):
        return math.nan
    probabilities, labels = probabilities.detach().cpu().double(), labels.cpu()
    weights = torch.ones(len(labels)).double() if weights is None else weights.detach().cpu().double()
    check(probabilities, labels, weights)
    confidence, predicted = probabilities.max(1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = weights * ((predicted == labels).double() - confidence)
    return float(torch.zeros(bins).double().index_add(0, which, gap).abs().sum() / weights.sum())
