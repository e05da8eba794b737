"""How familiar an image is: where it ranks among validation images of each class, and the best of these ranks.

Everything is computed from one net that stays as it is, that of the first task, and for each class from the Gaussians
of the classes that were known when it was learned. So what is kept of a class's images stays valid when others are
added: `layer_moments` of an image, their mean for each class and one covariance for each task (`ClassGaussians`), and
for each class the quantiles of its validation images' values (`reference_quantiles`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.models import IncrementalNet, Tap
from ccsi.precision import float64_on
from ccsi.synthesis.moments import group_moments, map_moments

LEVELS = 100
"""Quantiles kept of each class: at 0, 1, …, 99 %."""
SHRINKAGE = 0.5
"""Share by which correlations are shrunk to 0; from 0.1 to 0.7 the results differ little."""


@torch.no_grad()
def layer_moments(net: IncrementalNet, images: Tensor, batch_size: int = 64) -> Tensor:
    """Means and log variances of the channel groups of every norm layer's input, float64 [N, D] on the CPU.

    Those of early layers know what tells apart images of classes that the net was not trained on; its last features
    do less. A layer has 8 groups, or those of its group normalization: D = 144 for `ccsi_small`.

    Args:
        net: is in eval mode afterwards. images: uint8 [N, C, S, S].
        batch_size: images whose maps of all layers are in memory at once.
    """
    net.eval()
    rows, exact = [], float64_on(images.device)  # of the sums; the maps themselves stay as they are, for speed
    for part in images.split(batch_size):
        taps: list[Tap] = []
        net.features(part.to(net.scale.dtype) / 255, taps)
        columns = []
        for tap in taps:
            groups = tap.norm.groups or math.gcd(8, tap.input.shape[1])
            first, second = map_moments(tap.input)
            mean, variance = group_moments(first.to(exact), second.to(exact), groups)
            columns += [mean, (variance + 1e-8).log()]
        rows.append(torch.cat(columns, 1).cpu().double())
    return torch.cat(rows)


@dataclass(frozen=True)
class ClassGaussians:
    """The means of classes and their common covariance: one Gaussian a class, of vectors with D numbers.

    Attributes:
        means: float64 [n, D]. scatter: Σ (x − mean of its class)(x − mean of its class)ᵀ over all images, float64
            [D, D]; it and the number of images are sums, to which classes can be added. count: int64 [].
    """

    means: Tensor
    scatter: Tensor
    count: Tensor

    @classmethod
    def empty(cls, d: int) -> "ClassGaussians":
        """Those of no class, for vectors with `d` numbers."""
        nothing = torch.zeros(d + 1, d, dtype=torch.float64)
        return cls(nothing[:0], nothing[1:], torch.tensor(0))

    def extended(self, x: Tensor, labels: Tensor, classes: range) -> "ClassGaussians":
        """With new classes: x [N, D], labels int64 [N] in `classes`.

        Raises:
            ValueError: a class without images, or numbers that are not finite.
        """
        x, labels = x.to(self.means), labels.to(self.means.device)
        if labels.unique().tolist() != list(classes) or not x.isfinite().all():
            raise ValueError(f"expected images of each of the classes {list(classes)}, and finite numbers of them.")
        new = torch.stack([x[labels == c].mean(0) for c in classes])
        residuals = x - new[labels - classes.start]
        scatter = self.scatter + residuals.T @ residuals
        return ClassGaussians(torch.cat([self.means, new]), scatter, self.count + len(x))

    def relative_distances(self, x: Tensor) -> Tensor:
        """See `Distances.__call__`."""
        return self.distances()(x)

    def distances(self) -> "Distances":
        """The distances from these Gaussians, ready to be computed."""
        centre = self.means.mean(0)
        spread = self.means - centre
        within = self.scatter / self.count.clamp(min=1)
        return Distances(self.means, centre, whitening(within), whitening(within + spread.T @ spread / len(spread)))


@dataclass(frozen=True)
class Distances:
    """Squared Mahalanobis distances from each class, minus that from all classes together.

    Attributes:
        means: [n, D]. centre: their mean, [D]. root, root_of_all: `whitening` of the classes' common covariance, and of
            the total one, [D, D].
    """

    means: Tensor
    centre: Tensor
    root: Tensor
    root_of_all: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[N, D] to [N, n].

        All classes together are one Gaussian with the classes' mean and the total covariance; the difference is better
        than the distance itself where new classes are like known ones (Ren et al., arXiv 2106.09022). The covariances'
        correlations are shrunk by `SHRINKAGE`, so they can be inverted however few the images are.
        """
        x = x.to(self.means)
        far = (x - self.centre) @ self.root_of_all
        distances = [((x - mean) @ self.root).square().sum(1) for mean in self.means]
        return torch.stack(distances, 1) - far.square().sum(1, keepdim=True)


def whitening(covariance: Tensor, shrinkage: float = SHRINKAGE) -> Tensor:
    """A matrix W [D, D] with |x W|² = xᵀ S⁻¹ x, where S is `covariance` [D, D] with correlations times 1 − shrinkage.

    Deviations are at least a thousandth of their mean: what is constant in few images must not decide.
    """
    deviations = covariance.diagonal().clamp(min=0).sqrt()
    deviations = deviations.clamp(min=max(1e-3 * float(deviations.mean()), 1e-9))
    correlations = (1 - shrinkage) * covariance / (deviations[:, None] * deviations)
    correlations.diagonal().fill_(1)
    lower = torch.linalg.cholesky(correlations)
    eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye, upper=False).T / deviations[:, None]


def reference_quantiles(values: Tensor, labels: Tensor, classes: range) -> Tensor:
    """Quantiles of the values of each class's images, float64 [len(classes), 100]: what is kept of them.

    Of m values, in ascending order v_1 … v_m and with v_0 = −∞, the quantile at k % is v_i with i = ⌊k (m + 1) / 100⌋.
    A class without images has NaN.

    Args:
        values: high for what is familiar, of validation images, [N], not of training images, which the net knows.
        labels: int64 [N].
    """
    rows = []
    for label in classes:
        own = values[labels == label].detach().double().sort().values
        which = torch.arange(LEVELS, device=own.device) * (len(own) + 1) // LEVELS
        lowest = -torch.inf if len(own) else torch.nan
        rows.append(F.pad(own, (1, 0), value=lowest)[which])
    return torch.stack(rows) if rows else values.new_empty(0, LEVELS, dtype=torch.float64)


def familiarity(values: Tensor, quantiles: Tensor) -> Tensor:
    """The highest percentile of an image among those of each class, float64 [N] in [1, 100]; NaN if no class has any.

    An image's percentile among a class's is the share of the class's quantiles that are not above its value. It is the
    conformal p-value (1 + the number of the class's m images that have no higher value) / (m + 1), rounded up to a
    whole percent: an image that is like them has one of at most a % with a probability of at most a %, and none has
    less than 100 / (m + 1), however strange: few images do not show what is rare (Vovk et al., 2005; Bates et al.,
    Annals of Statistics 2023). The highest one is no smaller, so this holds for it, too.

    Args:
        values: [N, n], for each class computed as those of its quantiles were. quantiles: [n, 100], of
            `reference_quantiles`.
    """
    shares = []
    for own, of_class in zip(values.detach().double().T, quantiles.to(values.device), strict=True):
        share = torch.searchsorted(of_class, own.contiguous(), right=True) * (100 / LEVELS)
        shares.append(torch.where(of_class.isnan().any(), -1.0, share.double()))
    highest = torch.stack(shares).max(0).values
    return torch.where(highest < 0, torch.nan, highest)
