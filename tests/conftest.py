"""What the tests of the run level share."""

import os
import signal
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: tensors this small only wait for a second thread

import pytest
from fork_server import Server
from hypothesis import settings
from joined import Joined

SLOW = os.environ.get("CCSI_TEST_SLOW") == "1"
settings.register_profile("ccsi", max_examples=150 if SLOW else 25, deadline=None)  # the machine may be shared
settings.load_profile("ccsi")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would children


@pytest.fixture(scope="session")
def ccsi_process() -> Iterator[Server]:
    """`python -m ccsi …` in a process of its own: see `fork_server.Server`."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def pair() -> Iterator[Joined]:
    """Two workers of one run: `pair(function, *arguments)` gives what it returns on each."""
    pair = Joined()
    yield pair
    pair.close()
