"""FeTrIL: feature translation for incremental learning (Petit et al., WACV 2023)."""

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.checks import Positive
from ccsi.data import Task
from ccsi.learners.frozen import FrozenLearner
from ccsi.learners.parts.prototypes import class_means
from ccsi.learners.parts.solvers import interruptible
from ccsi.precision import float64_on


@dataclass(kw_only=True, eq=False)
class FeTrIL(FrozenLearner):
    """A linear classifier on features of new images, and on the same translated to the means of old classes.

    Each old class gets the features of the new class with the most similar mean. It keeps each class's mean feature.
    The backbone is trained on the first task, which in the paper has half of the classes.

    Args:
        c: inverse regularisation of scikit-learn's linear support vector machine, whose default is 1; with very large
            ones it takes minutes.
    """

    default_name = "fetril"
    stored_buffers: ClassVar = {"means": "class mean features", "classifier": ""}

    c: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.means = torch.empty_like(self.net.new)
        self.classifier = torch.empty_like(F.pad(self.means, (0, 1)), dtype=float64_on(self.device))  # weights, bias

    def _stored_like(self) -> Mapping[str, Any]:
        n = self.heads[-1].stop
        return {name: getattr(self, name).new_empty(n, *getattr(self, name).shape[1:]) for name in self.stored_buffers}

    def update_statistics(self, task: Task, features: Tensor) -> None:
        new = class_means(features, task.train.labels, task.classes)
        x, y = [features], [task.train.labels]
        for old, mean in enumerate(self.means):
            like = int(F.cosine_similarity(mean[None], new).argmax())
            moved = features[task.train.labels == task.classes.start + like] - new[like] + mean  # eq. 1
            x.append(moved)
            y.append(torch.full((len(moved),), old).to(y[0]))
        self.means = torch.cat([self.means, new])
        self.classifier = linear_svm(F.normalize(torch.cat(x)), torch.cat(y), self.c).to(self.classifier)

    def classify_features(self, features: Tensor) -> Tensor:
        return F.normalize(features).to(self.classifier) @ self.classifier[:, :-1].T + self.classifier[:, -1]


def linear_svm(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Weights and bias of each class against the rest, [n, D+1]: features [N, D], labels [N] with all of 0 … n−1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    n = int(y.max()) + 1
    if n == 1:
        return torch.zeros(1, x.shape[1] + 1)
    svm, images, labels = LinearSVC(C=c, dual=False), x.cpu().double().numpy(), y.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it names no key of ours
        interruptible(lambda: svm.fit(images, labels))
    if svm.n_iter_ >= svm.max_iter:
        print(
            f"ccsi: learner=fetril: the support vector machine stopped after {svm.max_iter} iterations without having "
            f"converged; a smaller learner.c than {c:g} converges sooner.",
            file=sys.stderr,
        )
    weights = np.hstack([svm.coef_, svm.intercept_[:, None]])
    return torch.from_numpy(np.vstack([-weights, weights]) if n == 2 else weights)
