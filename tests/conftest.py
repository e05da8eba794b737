"""What the tests of the run level share."""

import copy
import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: tensors this small only wait for a second thread

import pytest
from fork_server import Server
from hypothesis import settings
from joined import Joined

import ccsi.config.compose

SLOW = os.environ.get("CCSI_TEST_SLOW") == "1"
settings.register_profile("ccsi", max_examples=150 if SLOW else 25, deadline=None)  # the machine may be shared
settings.load_profile("ccsi")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would children


compose_with_hydra = ccsi.config.compose.compose


@functools.cache
def composed(name: str, overrides: tuple[str, ...]) -> Any:
    return compose_with_hydra(name, overrides=list(overrides), return_hydra_config=True)


def compose_once(name: str, overrides: list[str], return_hydra_config: bool) -> Any:
    """What Hydra composes (0.2 s), kept for the session: it reads files that no test changes, but for folders added."""
    if ccsi.config.compose.ADDED:
        return compose_with_hydra(name, overrides=overrides, return_hydra_config=return_hydra_config)
    return copy.deepcopy(composed(name, tuple(overrides)))


@pytest.fixture(scope="session", autouse=True)
def hydra_composes_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ccsi.config.compose, "compose", compose_once)
        yield


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
