"""Calls into compiled solvers that take long and do not listen to signals."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
POLL = 0.2  # seconds until a signal is answered


def interruptible(function: Callable[[], T]) -> T:
    """What `function` returns or raises; Ctrl-C and SIGTERM end the wait for it at once.

    It runs in a daemon thread, because Python handles signals between two of its own instructions, in the main thread.
    So `function` should be one that releases Python's lock and needs no thread's own settings (PyTorch's do).
    """
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        return function()
    done = Future[T]()

    def attempt() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    while not done.done():
        wait([done], POLL)
    return done.result()
