"""How familiar an image is: where its score ranks among those of validation images of its class."""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 100
"""Quantiles kept of each class: at 0, 1, …, 99 %."""


def energy(scores: Tensor, temperature: float) -> Tensor:
    """T · logsumexp(scores / T), float64 [N, n] to [N]: high for images that some class has a high score for.

    The negative free energy of Liu et al., NeurIPS 2020.
    """
    return temperature * (scores.double() / temperature).logsumexp(1)


def reference_quantiles(values: Tensor, labels: Tensor, classes: range) -> Tensor:
    """Quantiles of the values of each class's images, float64 [len(classes), 100]: what is kept of them.

    Of m values, in ascending order v_1 … v_m and with v_0 = −∞, the quantile at k % is v_i with i = ⌊k (m + 1) / 100⌋.
    A class without images has NaN.

    Args:
        values: of validation images, [N], not of training images, which the net knows. labels: int64 [N].
    """
    rows = []
    for label in classes:
        own = values[labels == label].detach().double().sort().values
        which = torch.arange(LEVELS, device=own.device) * (len(own) + 1) // LEVELS
        lowest = -torch.inf if len(own) else torch.nan
        rows.append(F.pad(own, (1, 0), value=lowest)[which])
    return torch.stack(rows) if rows else values.new_empty(0, LEVELS, dtype=torch.float64)


def familiarity(values: Tensor, predicted: Tensor, quantiles: Tensor) -> Tensor:
    """The percentile of each value among its predicted class's, float64 [N] in [1, 100]; NaN for a class without any.

    The share of the class's quantiles that are not above the value. It is the conformal p-value (1 + the number of its
    m images that have no higher value) / (m + 1), rounded up to a whole percent: an image that is like them has a
    familiarity of at most a % with a probability of at most a %, and none has less than 100 / (m + 1), however
    strange: few images do not show what is rare (Vovk et al., 2005; Bates et al., Annals of Statistics 2023).

    Args:
        values: [N], computed as those of `quantiles` were. predicted: int64 [N], rows of `quantiles`.
        quantiles: [n, 100], of `reference_quantiles`.
    """
    own = quantiles.to(values.device)[predicted]
    shares = (own <= values.detach().double()[:, None]).double().mean(1)
    return torch.where(own[:, 0].isnan(), torch.nan, 100 * shares)
