"""What a sweep runs, in which order: the settings of phase 1, and those of phase 2 as soon as they are certain."""

import json
from collections.abc import Iterator
from typing import Any

from ccsi.config import Config
from ccsi.sweep.book import Book
from ccsi.sweep.space import suggest


def trials(book: Book) -> Iterator[dict[str, Any] | None]:
    """The sweep's trials, as `ccsi.sweep.trial.run_trial` wants them; None: nothing until the book has news.

    It ends when all that is wanted has been handed out, even if hopeless settings of phase 1 still run.
    """
    sweep, handed_out = book.definition.sweep, set[str]()
    left = sorted(book.unfinished() & book.begun)
    begins = len(book.begun) + len(book.unbegun()) + book.unknown()
    if begins:
        book.begin("phase 1", "p1", min(begins, max(sweep.budget.trials or begins, len(book.begun))))
    while True:
        setting = left.pop(0) if left else book.recalled()
        if setting is None:
            setting = next_setting(book)
        elif setting not in book.unfinished():
            book.recall(setting)
        if setting is not None:
            name = book.trial(1, setting, 0)
            if setting in book.hopeless():
                give_up(book, name)
                book.ended(name, None)
            else:
                configs = [book.config(1, setting, seed, run) for seed, run in book.runs(1, setting)]
                yield _trial(name, setting not in book.spared, configs)
            continue
        new = [
            (n, seed, run)
            for n in book.chosen()
            for seed, run in book.runs(2, n)
            if run not in handed_out and book.status(2, n, seed) == "incomplete"
        ]
        if new:
            setting, seed, run = new[0]
            if not handed_out:
                book.begin("phase 2", "p2", book.places() * len(sweep.seeds.reporting))
            handed_out.add(run)
            yield _trial(run, False, [book.config(2, setting, seed, run)])
        elif book.decided():
            return
        else:
            yield None


def next_setting(book: Book) -> int | None:
    """The next setting of phase 1, noted in the journal; None if there is none, or phase 1 goes no further."""
    sweep = book.definition.sweep
    if book.exhausted():
        return None
    setting = min(book.unbegun(), default=None)
    if setting is None and not book.suggested_all:
        values, first = None, book.first()
        if len(book.settings) < min(len(first), sweep.num_samples):
            values = first[len(book.settings)]
        elif len(book.settings) < sweep.num_samples:
            two = sweep.minimize is not None
            values = suggest(book.definition.space, book.tried(), sweep.seed, book.taken_over(), two)
        if values is None:
            book.search_ended()
        else:
            setting = book.add(values)
    if setting is not None:
        book.start(setting)
    return setting


def give_up(book: Book, trial: str) -> None:
    """A trial of phase 1 is not waited for: its setting is hopeless."""
    book.stopping[trial] = f"as it could no longer reach the best {book.definition.sweep.top_k}"


def _trial(name: str, prunable: bool, runs: list[Config]) -> dict[str, Any]:
    """A trial; its configurations as text, so that Tune looks into none of them."""
    return {"name": name, "prunable": prunable, "runs": json.dumps(runs)}
