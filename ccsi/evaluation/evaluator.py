"""The only place that holds images of other tasks: it sees the learner, never the other way round."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccsi.data import Labelled
from ccsi.data.scenario import relabelled
from ccsi.distributed import ProcessGroup
from ccsi.errors import diverged
from ccsi.evaluation import metrics
from ccsi.learners import NetLearner


class Evaluator:
    """Accuracy on one split (val or test) of all classes seen so far, once after each task.

    Each worker of a run scores a part of the images; all of them compute the figures from all scores.

    Args:
        split: uint8 images with original labels. plan: original classes of each task.
        device: where scores are computed.
    """

    def __init__(self, split: Labelled, plan: Sequence[Sequence[int]], device: torch.device, batch: int = 512) -> None:
        self.plan, self.device, self.batch = plan, device, batch
        order = [c for classes in plan for c in classes]
        self.images = Labelled(split.images, relabelled(split.labels, order, 0))  # no copy: processes may share them
        self.confusions: list[list[list[int]]] = []
        self.aucs: list[float] = []

    @torch.no_grad()
    def __call__(self, learner: NetLearner) -> None:
        """Score the images of the classes seen so far and keep confusion matrix and AUC.

        The learner receives batches of pixels in a buffer that is overwritten afterwards, so that nothing it
        might keep of them holds an image.

        Raises:
            UserError: scores that are not finite.
        """
        n_seen = sum(len(classes) for classes in self.plan[: len(self.confusions) + 1])
        wanted = (self.images.labels < n_seen).nonzero()[:, 0]
        labels = self.images.labels[wanted]
        process_group, scores = ProcessGroup.current(), []
        for part in wanted[process_group.shard(len(wanted))].split(self.batch):
            x = self.images.images[part].to(self.device).float() / 255
            scores.append(learner.scores(x).cpu().double())
            x.zero_()
        everyones = process_group.all_gather_rows(torch.cat(scores))
        if not everyones.isfinite().all():
            raise diverged(learner.name, "scores", len(self.confusions) + 1)
        guesses = everyones.argmax(1)
        counts = torch.bincount(labels * n_seen + guesses, minlength=n_seen * n_seen).view(n_seen, n_seen)
        self.confusions.append(counts.tolist())
        self.aucs.append(metrics.auc(labels.numpy(), log_odds(everyones).numpy().astype(np.float64)))

    def figures(self) -> dict[str, Any]:
        """All figures after the tasks evaluated so far (see `ccsi.evaluation.metrics.figures`)."""
        return metrics.figures(self.confusions, [len(classes) for classes in self.plan], self.aucs)

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        return {"confusions": list(self.confusions), "aucs": list(self.aucs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.confusions, self.aucs = list(state["confusions"]), list(state["aucs"])


def log_odds(scores: Tensor) -> Tensor:
    """log p/(1 − p) of the softmax p of scores, [N, n] to the same: it ranks images as p does.

    Distances make scores so far apart that p itself is 0 or 1 in float64 for most images, and ties them.
    """
    others = [torch.cat([scores[:, :c], scores[:, c + 1 :]], 1).logsumexp(1) for c in range(scores.shape[1])]
    return scores - torch.stack(others, 1)
