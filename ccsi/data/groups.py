"""Groups of images that belong together (a patient's): read from a table, and kept within one split."""

import csv
import io
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ccsi.data.dataset import counted, listed
from ccsi.errors import UserError
from ccsi.io.files import read_bytes
from ccsi.io.text import printable

Groups = npt.NDArray[np.str_]


def read_table(path: Path, column: str) -> dict[str, str]:
    """The group by `column` ("file" or "index") of a .csv file with these two columns, printable.

    The columns are separated by commas, semicolons or tabs, and their names may be in any case. Rows without any text
    are left out.
    """
    where = f"dataset.groups={printable(path)}"
    try:
        text = read_bytes(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); expected a .csv file.") from error
    header = text.partition("\n")[0]
    table: dict[str, str] = {}
    try:
        delimiter = next((one for one in (";", "\t") if one in header), ",")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        found = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = found
        if column not in found or "group" not in found:
            raise UserError(
                f"{where} has the columns {printable(', '.join(found)) or '(none)'}; expected {column} and group."
            )
        for row in reader:
            key, group = (printable((row[name] or "").strip()) for name in (column, "group"))
            if not any(text.strip() for text in row.values() if isinstance(text, str)):
                continue
            if not key or not group:
                raise UserError(f"{where}: line {reader.line_num} has no {'group' if key else column}; expected both.")
            if table.setdefault(key, group) != group:
                raise UserError(f"{where}: {key} has the groups {table[key]} and {group}; expected one.")
    except csv.Error as error:
        raise UserError(f"{where}: line {reader.line_num} cannot be read ({error}); expected a .csv file.") from error
    return table


def groups_by_file(path: Path, files: Sequence[str]) -> tuple[Groups, list[str]]:
    """The group of each of some files (printable paths relative to the data's folder), and warnings.

    A path that the table does not have is looked up once more without regard to its spelling (see `plain`).
    """
    table = read_table(path, "file")
    spelled: dict[str, list[str]] = {}
    for key in table:
        spelled.setdefault(plain(key), []).append(key)
    keys = {file: [file] if file in table else spelled.get(plain(file), []) for file in files}
    others = sorted(table.keys() - {key for own in keys.values() for key in own})
    if missing := [file for file, own in keys.items() if len({table[key] for key in own}) != 1]:
        there = f" (the table has, e.g., {printable(others[0])})" if others else ""
        raise UserError(
            f"dataset.groups={printable(path)} has no group for {counted(len(missing), 'image', 'images')} of "
            f"{len(files):,}: {listed(missing)}{there}; expected one for each, by its path in dataset.path."
        )
    notes = list[str]()
    if others:
        n = counted(len(others), "file that is", "files that are")
        notes.append(f"dataset.groups names {n} no image of this data set: {listed(others)}.")
    return np.array([table[keys[file][0]] for file in files], dtype=np.str_), notes


def plain(key: str) -> str:
    """A path with / for each backslash, without ./ at its beginning, and with composed accents (macOS divides them)."""
    return unicodedata.normalize("NFC", key.replace("\\", "/")).removeprefix("./")


def groups_by_index(path: Path, sizes: Mapping[str, int]) -> dict[str, Groups]:
    """The groups of the images of each split; the table numbers them from 0 over all splits."""
    table, total = read_table(path, "index"), sum(sizes.values())
    if odd := table.keys() - set(map(str, range(total))):
        raise UserError(
            f"dataset.groups={printable(path)}: {min(odd)} is not the index of an image; expected 0 to {total - 1}."
        )
    if missing := [str(index) for index in range(total) if str(index) not in table]:
        raise UserError(
            f"dataset.groups={printable(path)} has no group for {counted(len(missing), 'image', 'images')} of "
            f"{total:,}: {listed(missing)}; expected one for each."
        )
    parts = np.split(np.array([table[str(index)] for index in range(total)]), np.cumsum(list(sizes.values()))[:-1])
    return dict(zip(sizes, parts, strict=True))


def crossing(groups: Mapping[str, Groups]) -> list[str]:
    """A sentence for each two splits that have groups in common; empty if each group is within one split."""
    sentences = []
    for a, b in combinations(groups, 2):
        common = np.intersect1d(groups[a], groups[b])
        if len(common):
            of_a, of_b = (int(np.isin(groups[split], common).sum()) for split in (a, b))
            n = counted(len(common), "group is", "groups are")
            sentences.append(f"{n} in {a} ({of_a:,} of its images) and in {b} ({of_b:,}): {listed(common.tolist())}.")
    return sentences


def split_by_groups(
    labels: npt.NDArray[np.int64], groups: Groups, shares: Sequence[float], seed: int, class_names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """The part of each image: 0 for the remainder, then 1, 2, … for each of the `shares`; groups are kept whole.

    Each part is a fold of scikit-learn's StratifiedGroupKFold over the images that are left: of 1/share folds, or of
    fewer if none of these has all classes. So shares are met as well as the sizes of the groups allow.

    Raises:
        UserError: a class has images of too few groups.
    """
    part = np.zeros(len(labels), dtype=np.int64)
    check_groups(labels, groups, class_names, 1 + len(shares))
    draw = np.random.default_rng(seed)
    for number, share in enumerate(shares, start=1):
        left = np.flatnonzero(part == 0)
        random_state = int(draw.integers(2**32))
        still = len(shares) - number + 1  # parts that the images left over have to serve
        own = best_fold(labels[left], groups[left], share * len(labels) / len(left), random_state, still)
        if own is None:
            raise UserError(
                "dataset.groups: no split with each class in each part was found; expected more groups of each class, "
                "or split folders made by hand."
            )
        part[left[own]] = number
    return part


def check_groups(labels: npt.NDArray[np.int64], groups: Groups, class_names: Sequence[str], least: int) -> None:
    """Raise UserError unless each class has images of at least as many groups."""
    for label, name in enumerate(class_names):
        n = len(np.unique(groups[labels == label]))
        if n < least:
            raise UserError(
                f"dataset.groups: class {name} has images of {counted(n, 'group', 'groups')} only; expected at least "
                f"{least}, one for each split."
            )


def best_fold(
    labels: npt.NDArray[np.int64], groups: Groups, share: float, random_state: int, still: int
) -> npt.NDArray[np.int64] | None:
    """Positions of the fold nearest to a share of the images, among those with all classes that leave enough groups."""
    from sklearn.model_selection import StratifiedGroupKFold  # here: it takes a second that other data do not need

    classes = np.unique(labels)
    for n_folds in range(max(2, min(round(1 / share), len(np.unique(groups)))), 1, -1):
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
        fitting = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with fewer images than folds
            for rest, own in folds.split(labels, labels, groups):
                enough = all(len(np.unique(groups[rest][labels[rest] == label])) >= still for label in classes)
                if enough and len(np.unique(labels[own])) == len(classes):
                    fitting.append(own)
        if fitting:
            return min(fitting, key=lambda own: abs(len(own) - share * len(labels)))
    return None
