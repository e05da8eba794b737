"""Statistics of features by class: means, covariances, distances."""

import torch
from torch import Tensor


def class_means(features: Tensor, labels: Tensor, classes: range) -> Tensor:
    """The mean feature of each class: features [N, D], labels int64 [N] to [len(classes), D]."""
    return torch.stack([features[labels == c].mean(0) for c in classes])


def class_covariances(features: Tensor, labels: Tensor, classes: range) -> Tensor:
    """The covariance (divided by N) of each class's features: [len(classes), D, D]."""
    return torch.stack([torch.cov(features[labels == c].T, correction=0) for c in classes])


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Scores of classes by their means: minus the squared distance, [N, D] and [n, D] to [N, n]."""
    return -torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist").square()
