"""Every random choice has an owner: one generator per purpose, derived from the run's seed by name."""

import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one run.

    `Streams(seed).generator("synthesis", task, group)` starts at the same place whatever else was drawn before, so
    switching a loss off, or resuming in the middle of a task, does not shift other draws.
    """

    seed: int

    def generator(self, purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh `torch.Generator` on `device` for `purpose` (a name) and `key` (task, epoch, group …)."""
        name = "/".join(map(str, (self.seed, purpose, *key)))
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        return torch.Generator(device).manual_seed(number)


@dataclass(frozen=True)
class TaskStreams:
    """The random streams of one training stage of the 0-based `task`; a second stage has a `prefix` in their names."""

    streams: Streams
    task: int
    prefix: str = ""

    def generator(self, purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
        """See `Streams.generator`."""
        return self.streams.generator(f"{self.prefix}{purpose}", self.task, *key, device=device)
