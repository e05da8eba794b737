"""The one exception that means: the user's input is at fault, not this program."""


class UserError(Exception):
    """Bad input, told in one clear sentence: what is wrong, where, and what was expected.

    `python -m ccsi` and `python tune/sweep.py` print its message and exit with code 2, without a
    traceback. Raise it before anything is written.
    """
