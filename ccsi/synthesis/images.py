"""Functions of groups of images, [G, B, C, S, S]."""

import torch
from torch import Tensor


def transformed(x: Tensor, shifts: list[list[int]], flips: list[bool]) -> Tensor:
    """x̃: each group of [G, B, C, S, S] shifted (cyclically) and flipped."""
    groups = []
    for group, (dy, dx), flip in zip(x, shifts, flips, strict=True):
        moved = group.roll((dy, dx), (-2, -1)) if dy or dx else group
        groups.append(moved.flip(-1) if flip else moved)
    return torch.stack(groups)


def total_variation(x: Tensor) -> Tensor:
    """Sum of the Frobenius norms of the four difference images of each group: [G, B, C, H, W] to [G].

    Horizontal, vertical and both diagonal neighbours, over the whole group (DeepInversion's TV-l2).
    """
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    norms = [torch.linalg.vector_norm(d.flatten(1), dim=1) for d in differences]
    return torch.stack(norms).sum(0)
