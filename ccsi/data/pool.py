"""The images that a stage of training draws from, and the order of an epoch's draws."""

import torch
from torch import Tensor

from ccsi.data.dataset import Labelled


class Pool:
    """A task's training images, followed by those that are replayed."""

    def __init__(self, train: Labelled, replay: Labelled | None) -> None:
        parts = [train] if replay is None else [train, replay]
        self.labels = torch.cat([part.labels for part in parts])
        self.images = [part.images for part in parts]
        if replay is not None and self.labels.device.type != "cpu":  # separate parts would make each batch wait for it
            self.images = [torch.cat(self.images)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at `indices`, int64 [n]."""
        if len(self.images) == 1:
            return self.images[0][indices], self.labels[indices]
        first, second = self.images  # separate on a CPU: other processes may share the memory of the real ones
        own = indices < len(first)
        images = first.new_empty((len(indices), *first.shape[1:]))
        images[own], images[~own] = first[indices[own]], second[indices[~own] - len(first)]
        return images, self.labels[indices]


def draws_per_epoch(n: int, n_train: int, ratio: float | None) -> int:
    """Images of an epoch: all `n`, or N_new / (1 − ratio) draws (METHOD section 5)."""
    return n if ratio is None or n == n_train else round(n_train / (1 - ratio))


def epoch_order(n: int, n_train: int, ratio: float | None, generator: torch.Generator) -> Tensor:
    """Indices of one epoch, int64: a permutation of all n, or draws with replacement.

    Of the draws, exactly the share `ratio` falls on the replayed images, [n_train, n).
    """
    if ratio is None or n == n_train:
        return torch.randperm(n, generator=generator)
    draws = draws_per_epoch(n, n_train, ratio)
    n_replay = round(ratio * draws)
    new = torch.randint(0, n_train, (draws - n_replay,), generator=generator)
    replay = torch.randint(n_train, n, (n_replay,), generator=generator)
    return torch.cat([new, replay])[torch.randperm(draws, generator=generator)]
