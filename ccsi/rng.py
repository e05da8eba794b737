"""Every random choice has an owner: one generator per purpose, derived from the run's seed by name."""

import hashlib

import torch


class Streams:
    """Independent random streams of one run.

    `Streams(seed).generator("synthesis", task, group)` always starts at the same place, whatever else
    was drawn before: switching a loss off, or resuming in the middle, cannot shift anybody's draws.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generator(self, purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh `torch.Generator` on `device` for `purpose` (a name) and `key` (task, epoch, group …)."""
        name = "/".join(map(str, (self.seed, purpose, *key)))
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        return torch.Generator(device).manual_seed(number)
