"""What the tests of the run level share."""

from collections.abc import Iterator

import pytest
from fork_server import Server


@pytest.fixture(scope="session")
def ccsi_process() -> Iterator[Server]:
    """`python -m ccsi …` in a process of its own: see `fork_server.Server`."""
    server = Server()
    yield server
    server.close()
