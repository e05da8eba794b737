"""Warm start: what earlier sweeps found, taken over once, at a sweep's first start."""

from pathlib import Path

from ccsi.config import flat, shown
from ccsi.errors import UserError
from ccsi.sweep.book import Book
from ccsi.sweep.definition import Definition, read
from ccsi.sweep.space import Tried, same


def warm_start(book: Book) -> None:
    """Note in the journal what the sweeps in `sweep.warm_start` found: later starts do not need their folders.

    The settings that completed phase 1 there and lie in this sweep's space: the best `top_k` are tried first (again:
    no score becomes part of this sweep's tables), and Optuna is told all their scores.

    Raises:
        UserError: a folder that is not a sweep's, has nothing to take over, or scored something else.
    """
    folders = book.definition.sweep.warm_start
    if folders and not book.earlier["folders"]:
        book.take_over(folders, [one for folder in folders for one in found(folder, book)])


def found(folder: str, book: Book) -> list[Tried]:
    """The completed settings of an earlier sweep, relative to where this one was typed, that lie in this one's space.

    A score is read from the journal where the runs are gone (their seconds are lost with them).
    """
    mine, where = book.definition, f"sweep.warm_start={folder}"
    theirs = read(Path(mine.cwd) / Path(folder).expanduser(), check=False, key="sweep.warm_start")
    comparable(mine, theirs, where)
    earlier, space = Book(theirs, book.console), {d.key: d for d in mine.space}
    completed = []
    for n, one in enumerate(earlier.tried()):
        noted = earlier.ends.get(earlier.trial(1, n, 0), ("incomplete", ""))[0] == "done"
        if (one.state == "done" or noted) and all(space[key].holds(value) for key, value in one.values.items()):
            values = {key: space[key].as_drawn(one.values[key]) for key in space}
            completed.append(Tried(values, one.score, "done", one.seconds))
    if not completed:
        raise UserError(f"{where}: none of its settings that completed phase 1 lies in this sweep's space.")
    return completed


def comparable(mine: Definition, theirs: Definition, where: str) -> None:
    """UserError, naming what differs, unless scores of both mean the same: metric, data, tasks, learner, swept keys."""

    def differs(key: str, there: object, here: object) -> UserError:
        return UserError(f"{where}: {key} is {shown(there)} there and {shown(here)} here; expected the same.")

    if theirs.compared is not None:
        raise UserError(f"{where} compares several of {theirs.compared}; expected a sweep of one.")
    if theirs.sweep.metric != mine.sweep.metric:
        raise differs("sweep.metric", theirs.sweep.metric, mine.sweep.metric)
    keys = [sorted(definition.sweep.space) for definition in (theirs, mine)]
    if keys[0] != keys[1]:
        raise differs("the list of keys in sweep.space", *keys)
    for name in sorted(set(theirs.bases) & set(mine.bases)):
        there, here = (flat(definition.bases[name]) for definition in (theirs, mine))
        for key in [*there, *here]:
            decides = key.startswith(("dataset.", "scenario.")) or key == "learner._target_"
            if decides and key not in mine.sweep.space and not same(there.get(key), here.get(key)):
                raise differs(key, there.get(key), here.get(key))
