"""From confusion matrices and scores to every figure (METHOD section 8). Fractions in [0, 1]; NumPy only.

R[i][j] is the accuracy on the classes of task j after task i (0-based here), a row for each task i with
i + 1 entries. confusion[i][a][b] counts images of class a called b after task i.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = Sequence[Sequence[float]]


def mean(values: Sequence[float], empty: float = float("nan")) -> float:
    """The mean of the values; `empty` if there are none."""
    return float(np.mean(values)) if len(values) else empty


def confusion_matrix(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Counts [n, n]: of images [N] with a label (row) that were called a class (column)."""
    return np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)


def accuracy_row(confusion: npt.ArrayLike, sizes: Sequence[int]) -> list[float]:
    """R[i] from confusion[i]: recall averaged over the images of each task seen so far.

    Args:
        sizes: number of classes of each task; may include tasks that were not learned yet.
    """
    counts = np.asarray(confusion)
    ends = [end for end in accumulate(sizes) if end <= len(counts)]
    tasks = [slice(*bounds) for bounds in pairwise([0, *ends])]
    return [float(counts[task, task].trace() / counts[task].sum()) for task in tasks]


def micro(confusion: npt.ArrayLike) -> float:
    """Share of all images that are classified correctly: Σ_a n_aa / Σ_ab n_ab."""
    counts = np.asarray(confusion)
    return float(np.trace(counts) / counts.sum())


def forgetting(r: Matrix) -> float:
    """Mean over j < T of max_{j <= i < T} R[i][j] − R[T][j]. May be negative. 0 for a single task."""
    return mean([max(row[j] for row in r[j:-1]) - last for j, last in enumerate(r[-1][:-1])], empty=0.0)


def forgetting_nonnegative(r: Matrix) -> float:
    """The definition with the final row inside the max: mean over j < T of max_{i <= T} R[i][j] − R[T][j]."""
    return mean([max(row[j] for row in r[j:]) - last for j, last in enumerate(r[-1][:-1])], empty=0.0)


def backward_transfer(r: Matrix) -> float:
    """Mean over j < T of R[T][j] − R[j][j] (Lopez-Paz & Ranzato, 2017). 0 for a single task."""
    return mean([r[-1][j] - row[j] for j, row in enumerate(r[:-1])], empty=0.0)


def forward_transfer(r: Matrix, reference: Sequence[float]) -> float:
    """Mean over j > 1 of R[j][j] − reference[j]: what earlier tasks are worth to a new one. 0 for a single task.

    The form for growing classifiers (Wang et al., TPAMI 2024), for which Lopez-Paz and Ranzato's R[j−1][j] (2017) is 0.
    `reference` is the accuracy on each new task of a model that did not learn the tasks in sequence; if it is joint
    training, this is minus Chaudhry et al.'s (2018) intransigence.
    """
    return mean([r[j][j] - reference[j] for j in range(1, len(r))], empty=0.0)


def recall_per_class(confusion: npt.ArrayLike) -> list[float]:
    """Recall of each class: n_aa / Σ_b n_ab; NaN for a class without images."""
    return [float(row[c] / row.sum()) if row.any() else float("nan") for c, row in enumerate(np.asarray(confusion))]


def macro_over_classes(recalls: Sequence[float]) -> float:
    """Balanced accuracy: the mean recall of the classes that have images (no NaN); NaN if none has."""
    known = [recall for recall in recalls if recall == recall]
    return fmean(known) if known else float("nan")


def auc(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    """MedMNIST's AUC for multi-class sets: the mean over classes of the one-against-rest ROC area.

    labels: [N]. probabilities: [N, n], or scores that rank alike. A class without images, or with all of them, has no
    area; the mean is over the others.
    """
    from sklearn.metrics import roc_auc_score

    counts = np.bincount(labels, minlength=probabilities.shape[1])
    classes = np.flatnonzero((counts > 0) & (counts < len(labels)))
    return mean([roc_auc_score(labels == c, probabilities[:, c]) for c in classes])


def figures(confusions: Sequence[npt.ArrayLike], sizes: Sequence[int], aucs: Sequence[float]) -> dict[str, Any]:
    """Every figure of a run so far, under the one name it has everywhere.

    `macro_over_tasks` is the mean over tasks of the last row of R (LifeLonger's final accuracy),
    `macro_over_classes` is balanced accuracy, `average_incremental` the mean over i of the micro accuracy after task i.
    `confusions` and `aucs` have an entry for each task done.
    """
    r = [accuracy_row(confusion, sizes) for confusion in confusions]
    micros = [micro(confusion) for confusion in confusions]
    recalls = recall_per_class(confusions[-1])
    return {
        "macro_over_tasks": mean(r[-1]),
        "macro_over_classes": macro_over_classes(recalls),
        "micro": micros[-1],
        "average_incremental": mean(micros),
        "forgetting": forgetting(r),
        "forgetting_nonnegative": forgetting_nonnegative(r),
        "backward_transfer": backward_transfer(r),
        "auc": aucs[-1],
        "accuracy_matrix": r,
        "accuracy_after_task": micros,
        "auc_after_task": list(aucs),
        "recall_per_class": recalls,
        "confusion": [np.asarray(confusion).tolist() for confusion in confusions],
    }


EMPTY: dict[str, None] = dict.fromkeys(figures([[[1]]], [1], [1.0]))
"""The figures' names, for a split that was not evaluated."""
SCALARS = (
    "macro_over_tasks", "macro_over_classes", "micro", "average_incremental", "forgetting", "forgetting_nonnegative",
    "backward_transfer", "auc",
)  # fmt: skip
"""The figures that are one number; with their split as in `val_micro` where they are not nested under it."""
