"""The exception for faults of the user's input."""


class UserError(Exception):
    """Bad input, described in one sentence: what is wrong, where, and what was expected.

    Commands print the message without a traceback and exit with code 2. Raise it before anything is written.
    """


def diverged(learner: str, what: str, task: int) -> UserError:
    """The error for `what` (features, scores) that is not finite after the 1-based `task`."""
    return UserError(
        f"learner={learner} gives {what} that are no numbers after task {task}: its training diverged; expected a "
        "smaller training.lr, or smaller weights of its losses."
    )
