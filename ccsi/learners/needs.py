"""What a learner needs of its tasks, which is checked before anything starts."""

from abc import ABC
from collections.abc import Sequence

from ccsi.data.pool import draws_per_epoch
from ccsi.errors import UserError


class TaskNeeds(ABC):  # a part of NetLearner
    """The part of a learner that a run's set-up asks whether the tasks fit it."""

    name: str
    permissions: tuple[str, ...]

    def check(self, sizes: Sequence[int], more: bool = False) -> None:  # noqa: B027  # most learners fit any
        """Raise UserError if the configuration does not fit tasks of `sizes` classes; more: others may follow."""

    def check_images(self, counts: Sequence[Sequence[int]]) -> None:
        """Raise UserError if a task has too few training images; counts: of each task, those of each class."""
        for task in range(len(counts)):
            own, replayed, ratio = self.n_trained(task, counts)
            if (draws := draws_per_epoch(own + replayed, own, ratio)) < 2:
                raise UserError(
                    f"task {task + 1} has {sum(counts[task])} training image{'s' * (sum(counts[task]) != 1)}, and "
                    f"learner={self.name} would draw {draws} an epoch, too few for batch statistics; expected at least "
                    "two (more images, or another scenario.classes_per_task)."
                )

    def n_trained(self, task: int, counts: Sequence[Sequence[int]]) -> tuple[int, int, float | None]:
        """What `training_data` of the 0-based `task` will hold: new images, replayed ones, and the `replay_ratio`.

        counts: see `check_images`. A learner that replays images says here how many.
        """
        own = counts[: task + 1] if "all_tasks" in self.permissions else counts[task : task + 1]
        return sum(map(sum, own)), 0, None
