"""DeepInversion for class-incremental learning (Yin et al., CVPR 2020, section 4.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ccsi.checks import NonNegative, Positive, ReplayShare
from ccsi.data import Task
from ccsi.errors import UserError
from ccsi.learners.generative import InversionLearner
from ccsi.losses import knowledge_distillation
from ccsi.models import IncrementalNet
from ccsi.stage import Stages
from ccsi.synthesis import ClassMemory
from ccsi.training import TrainingData


@dataclass(kw_only=True, eq=False)
class DeepInversion(InversionLearner):
    """Replay of images optimised from noise to match the net's batch moments, and distillation on all images.

    It keeps nothing of real data: the images' objective is CCSI's without class means and class-adaptive moments.
    Unlike the paper, cross-entropy is computed on synthetic images too.

    Args:
        distillation: weight of the distillation of the old net's outputs, 1 in the paper (eq. 9).
        temperature: T of the distillation.
        synthetic_ratio: share of synthetic images in an epoch, half in the paper (appendix).
    """

    default_name = "deep_inversion"

    distillation: NonNegative = 1.0
    temperature: Positive = 1.0
    synthetic_ratio: ReplayShare = 0.5

    def check(self, sizes: Sequence[int], more: bool = False) -> None:
        if self.synthesis.init != "noise" or self.synthesis.class_moments:
            raise UserError(
                f"learner.synthesis.init={self.synthesis.init}, class_moments={self.synthesis.class_moments:g}: "
                "learner=deep_inversion keeps no class means or moments; expected noise and 0."
            )

    def replay_ratio(self, task: int) -> float | None:
        return self.synthetic_ratio

    def training_data(self, task: Task, stages: Stages) -> TrainingData:
        blank = self.net.scale.new_zeros(self.net.n_classes, *task.train.images.shape[1:])
        impressions = self.synthesize(task, ClassMemory(blank), stages)
        return TrainingData(task.train, task.val, impressions, self.replay_ratio(task.index))

    def loss_terms(self, net: IncrementalNet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        n_old, logits = self.teacher.n_classes, net(images)
        terms = {"ce": self.cross_entropy(logits, labels)}
        if n_old and self.distillation:
            old = self.teacher(images)
            distance = knowledge_distillation(logits[:, :n_old], old, self.temperature, net.process_group)
            terms["distillation"] = self.distillation * distance
        return terms
