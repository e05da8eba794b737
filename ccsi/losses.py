"""Losses (METHOD section 5): pure functions of tensors to a scalar.

If several workers share a batch (`process_group`), each passes its own images, and the loss is the sum of results.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.distributed import ProcessGroup

ONE_WORKER = ProcessGroup()


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float, process_group: ProcessGroup = ONE_WORKER
) -> Tensor:
    """Mean cross-entropy of logits [N, n_classes], each image weighted by its class's weight; labels int64 [N]."""
    losses = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="none")
    if weights is None:
        return process_group.mean(losses)
    own = weights[labels]
    return process_group.mean(losses / own, own)


def exact(features: Tensor, old_features: Tensor) -> tuple[Tensor, Tensor]:
    """Features of two nets in at least float32, because their difference is small."""
    wide = torch.promote_types(features.dtype, torch.float32)
    return features.to(wide), old_features.to(wide)


def distillation(features: Tensor, old_features: Tensor, process_group: ProcessGroup = ONE_WORKER) -> Tensor:
    """Less-forget distillation: mean(1 − cos(f(x), f_{t−1}(x))). Both [N, D]. LUCIR, eq. 6."""
    with torch.autocast(features.device.type, enabled=False):
        return process_group.mean(1 - F.cosine_similarity(*exact(features, old_features)))


def knowledge_distillation(
    logits: Tensor, old_logits: Tensor, temperature: float = 2.0, process_group: ProcessGroup = ONE_WORKER
) -> Tensor:
    """KL(p_old ‖ p) at a temperature, mean over images; logits [N, n]. Hinton et al. 2015, without T²; LwF, eq. 2-3."""
    old, new = old_logits / temperature, logits / temperature
    return process_group.mean((F.softmax(old, 1) * (F.log_softmax(old, 1) - F.log_softmax(new, 1))).sum(1))


def binary_cross_entropy(logits: Tensor, targets: Tensor, process_group: ProcessGroup = ONE_WORKER) -> Tensor:
    """Sigmoid cross-entropy, summed over classes, mean over images; logits and targets (in [0, 1]) are [N, n]."""
    return process_group.mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1))


def margin(
    cosines: Tensor, labels: Tensor, n_old: int, m: float = 0.3, k: int = 1, process_group: ProcessGroup = ONE_WORKER
) -> Tensor:
    """Mean over old images and their K nearest new classes of max(0, m − s_y + s_new); 0 without old. LUCIR, eq. 8.

    Args:
        cosines: [N, n_classes], before σ. labels: int64 [N]. n_old: classes below it are old.
        m: margin in cosine units. k: new classes per image (at most n_new count).
    """
    k = min(k, cosines.shape[1] - n_old)
    own = cosines.gather(1, labels[:, None])
    hardest = cosines[:, n_old:].topk(k, dim=1).values
    violations = F.relu(m - own + hardest).mean(1)
    return process_group.mean(violations, (labels < n_old).to(cosines.dtype))


def class_centroids(
    scores: Tensor, labels: Tensor, n_classes: int, process_group: ProcessGroup = ONE_WORKER
) -> tuple[Tensor, Tensor]:
    """Each class's mean scores in all workers' batch, [N, n] to [n, n] (0 if absent); bool [n]: which are present."""
    # a matrix product with one-hot rows: deterministic on every device, unlike index_add
    member = F.one_hot(labels, n_classes).to(scores.dtype)
    counts = process_group.all_reduce(member.sum(0))
    return process_group.sum(member.T @ scores) / counts.clamp(min=1)[:, None], counts > 0


def moving_centroids(before: Tensor, seen: Tensor, batch: Tensor, present: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """S ← (1−ρ)·S + ρ·s_batch for classes in the batch; a class's first batch sets its row. Returns S and `seen`.

    Args:
        before, seen: S [n, n], and which of its rows are set, bool [n]. batch, present: from `class_centroids`.
    """
    moved = torch.where(seen[:, None], (1 - rho) * before.detach() + rho * batch, batch)
    return torch.where(present[:, None], moved, before.detach()), seen | present


def intra_domain_conservative(
    target: Tensor, source: Tensor, both: Tensor, tau: float, form: Literal["sum", "per_class"] = "sum"
) -> Tensor:
    """IdC: pulls a target class's centroid to its source centroid, away from the other classes'.

    `sum`: −log Σ_c e^{cos(T_c,S_c)/τ} + log Σ_{c,c'} e^{cos(T_c,S_c')/τ} (the paper's);
    `per_class`: mean over c of −log softmax_{c'}(cos(T_c,S_c')/τ)_c (InfoNCE). 0 if `both` is empty.

    Args:
        target, source: T and S, [n, n] rows per class; both: bool [n], classes that have both centroids.
    """
    similarity = F.normalize(target) @ F.normalize(source).T / tau
    # finite, so that an empty `both` has a zero gradient, not NaN
    masked = similarity.masked_fill(~(both[:, None] & both[None, :]), -1e9)
    own = similarity.diagonal().masked_fill(~both, -1e9)
    if form == "sum":
        loss = masked.flatten().logsumexp(0) - own.logsumexp(0)
    else:
        loss = ((masked.logsumexp(1) - own) * both).sum() / both.sum().clamp(min=1)
    return loss * both.any()
