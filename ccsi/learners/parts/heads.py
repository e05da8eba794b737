"""Which classes share a softmax: `heads` are the class ranges of the tasks so far."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ccsi.distributed import ProcessGroup
from ccsi.losses import knowledge_distillation


def local_start(classes: range) -> int:
    """The first class of a task's own ("local") cross-entropy; 0 for a single class: its softmax has no gradient."""
    return classes.start if len(classes) > 1 else 0


def separate_heads(heads: Sequence[range]) -> list[range]:
    """The heads that are distilled separately: one a task, or one of all classes if a task has one class only."""
    return joined_head(heads) if any(len(head) == 1 for head in heads) else list(heads)


def joined_head(heads: Sequence[range]) -> list[range]:
    """One head of all classes so far; none before the first task."""
    return [range(heads[-1].stop)] if heads else []


def head_distillation(
    heads: Sequence[range], logits: Tensor, old_logits: Tensor, temperature: float, process_group: ProcessGroup
) -> Tensor:
    """The sum over heads of the `knowledge_distillation` of their columns of both logits, [N, n] and [N, n_old]."""
    columns = [slice(head.start, head.stop) for head in heads]
    distances = [knowledge_distillation(logits[:, c], old_logits[:, c], temperature, process_group) for c in columns]
    return torch.stack(distances).sum()
