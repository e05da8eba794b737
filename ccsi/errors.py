"""The exception for faults of the user's input."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 600
"""Characters of a message; what is typed into it may be longer."""


class UserError(Exception):
    """Bad input, described in one sentence: what is wrong, where, and what was expected.

    Commands print the message without a traceback and exit with code 2. Raise it before anything is written.
    The message becomes one line of printable characters, and is cut in the middle if it is too long.
    """

    def __init__(self, message: str) -> None:
        line = re.sub(r"\s*[\r\n]\s*", " ", message)
        line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
        half = LONGEST // 2 - 10
        super().__init__(line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}")


@contextmanager
def memory_as_user_error() -> Iterator[None]:
    """Raise UserError for memory that this machine does not have; a GPU's is left to the framework's own error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        found = re.search(r"tried to allocate (\d+) bytes", str(error))
        size = f" ({int(found[1]) / 2**30:.1f} GiB at once)" if found else ""
        raise UserError(
            f"this machine has not the memory that the run asks for{size}; expected smaller values of what it is made "
            "of, such as dataset.size, a learner's expansion, latent, width or group_size, or batch sizes."
        ) from error


def diverged(learner: str, what: str, task: int) -> UserError:
    """The error for `what` (features, scores) that is not finite after the 1-based `task`."""
    return UserError(
        f"learner={learner} gives {what} that are no numbers after task {task}: its training diverged; expected a "
        "smaller training.lr, or smaller weights of its losses."
    )
