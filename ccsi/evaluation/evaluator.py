"""The only place that holds images of other tasks: it calls the learner, which has no reference to it."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.data.scenario import relabelled
from ccsi.distributed import ProcessGroup
from ccsi.errors import UserError, diverged
from ccsi.evaluation import metrics
from ccsi.learners import NetLearner


class Evaluator:
    """Accuracy on one split (val or test, original labels) of all classes seen so far, once after each task.

    Each worker of a run scores a part of the images; all of them compute the figures from all scores.

    Attributes:
        order: the original number of each class, in the order they come.
        predicted, softmax: for each image scored after the latest task, in the split's order, the position in `order`
            of its highest score, and the softmax of that score; empty before, and not part of a checkpoint.
    """

    def __init__(self, split: Labelled, plan: Sequence[Sequence[int]], device: torch.device, batch: int = 512) -> None:
        self.plan, self.device, self.batch = plan, device, batch
        self.order = [c for classes in plan for c in classes]
        # no copy: processes may share them
        self.images = Labelled(split.images, relabelled(split.labels, self.order, 0))
        self.confusions: list[list[list[int]]] = []
        self.aucs: list[float] = []
        self.predicted, self.softmax = list[int](), list[float]()

    @torch.no_grad()
    def __call__(self, learner: NetLearner) -> None:
        """Score the images of the classes seen so far, and keep confusion matrix and AUC; UserError if not finite."""
        tasks = len(self.confusions) + 1
        n_seen = sum(map(len, self.plan[:tasks]))
        wanted = (self.images.labels < n_seen).nonzero()[:, 0]
        labels = self.images.labels[wanted]
        scores = score_images(learner, self.images.images, wanted, self.device, tasks, self.batch)
        predicted = scores.argmax(1)
        self.predicted = predicted.tolist()
        self.softmax = scores.softmax(1).gather(1, predicted[:, None])[:, 0].tolist()
        self.confusions.append(metrics.confusion_matrix(labels.numpy(), predicted.numpy(), n_seen).tolist())
        self.aucs.append(metrics.auc(labels.numpy(), log_odds(scores).numpy()))

    def figures(self) -> dict[str, Any]:
        """All figures after the tasks evaluated so far (see `ccsi.evaluation.metrics.figures`)."""
        return metrics.figures(self.confusions, [len(classes) for classes in self.plan], self.aucs)

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        return {"confusions": list(self.confusions), "aucs": list(self.aucs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; UserError unless its matrices count this split's images."""
        counts = torch.bincount(self.images.labels).tolist()
        for confusion, n_seen in zip(state["confusions"], accumulate(map(len, self.plan)), strict=False):
            square = len(confusion) == n_seen and all(len(row) == n_seen for row in confusion)
            if not square or [sum(row) for row in confusion] != counts[:n_seen]:
                raise UserError("checkpoint.pt: a confusion matrix does not count the images of the classes seen.")
        self.confusions, self.aucs = list(state["confusions"]), list(state["aucs"])


@torch.no_grad()
def score_images(
    learner: NetLearner, images: Tensor, wanted: Tensor, device: torch.device, tasks: int, batch: int = 512
) -> Tensor:
    """Class scores, float64 [M, n_seen] on the CPU, of the images (uint8 [N, C, S, S]) at M positions; workers share.

    The learner receives pixels in a buffer that is overwritten afterwards, so that it can keep no image.

    Raises:
        UserError: scores that are not finite; tasks: how many were learned, for the message.
    """
    process_group, shards = ProcessGroup.current(), []
    for part in wanted[process_group.shard(len(wanted))].split(batch):
        x = images[part].to(device).float() / 255
        shards.append(learner.scores(x).cpu().double())
        x.zero_()
    scores = process_group.all_gather_rows(torch.cat(shards))
    if not scores.isfinite().all():
        raise diverged(learner.name, "scores", tasks)
    return scores


def log_odds(scores: Tensor) -> Tensor:
    """log p/(1 − p) of the softmax p of scores, [N, n] to the same: it ranks images as p does.

    Distances make scores so far apart that p itself is 0 or 1 in float64 for most images, and ties them.
    """
    others = [torch.cat([scores[:, :c], scores[:, c + 1 :]], 1).logsumexp(1) for c in range(scores.shape[1])]
    return scores - torch.stack(others, 1)
