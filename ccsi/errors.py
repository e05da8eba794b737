"""The one exception that means: the user's input is at fault, not this program."""


class UserError(Exception):
    """Bad input, told in one clear sentence: what is wrong, where, and what was expected.

    `python -m ccsi` and `python tune/sweep.py` print its message and exit with code 2, without a
    traceback. Raise it before anything is written.
    """


def diverged(learner: str, what: str, task: int) -> UserError:
    """The error of a method that gives no numbers any more: `what` it gives, after task number `task`, from 1."""
    return UserError(
        f"learner={learner} gives {what} that are no numbers after task {task}: its training diverged; expected a "
        "smaller training.lr, or smaller weights of its losses."
    )
