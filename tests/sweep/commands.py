"""The commands as functions: `sweep(arguments)` is `ccsi sweep <arguments>` in this process; returns its exit code."""

from collections.abc import Sequence

from ccsi import cli


def sweep(arguments: Sequence[str]) -> int:
    return cli.main(["sweep", *arguments])


def train(arguments: Sequence[str]) -> int:
    return cli.main(["train", *arguments])


def status(arguments: Sequence[str]) -> int:
    return cli.main(["status", *arguments])
