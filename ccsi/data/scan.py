"""What is in a folder of images: split folders, class folders, image files, and all that is passed over."""

import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccsi.data.dataset import NAMED, SPLITS
from ccsi.data.decode import SUFFIXES
from ccsi.errors import UserError
from ccsi.io.text import printable

USUAL = {
    "train": r"train(ing)?",
    "val": r"val(id(ation)?|idating)?",
    "test": r"test(ing)?",
}
"""The names of split folders, after which "set", "data" or "images" may stand."""

HIDDEN = "hidden (the name begins with a dot)"
NO_SUFFIX = "file without a suffix"
OTHER_SUFFIX = "file whose suffix is not an image's"
NO_FILE = "pipe, socket or device"
BROKEN = "link to nothing"
LINK_AGAIN = "link to a folder or file that is read already"
UNREADABLE = "folder that may not be read"
BESIDE = "outside of the class folders"
"""Why something is passed over: the keys of `Origin.skipped`."""

Identity = tuple[int, int]
"""Device and inode."""


@dataclass
class Scan:
    """What is found below `root`.

    Attributes:
        files: the image files of each class folder, in the order of their paths' parts.
        skipped: paths by the reason for which they are passed over.
    """

    root: Path
    files: dict[Path, list[Path]] = field(default_factory=dict)
    skipped: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    seen: set[Identity] = field(default_factory=set)

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """`skipped`, printable and relative to the root; a slash is behind the name of a folder."""

        def name(path: Path) -> str:
            return self.relative(path) + "/" * os.path.isdir(path)

        return {why: tuple(map(name, sorted(paths))) for why, paths in self.skipped.items()}

    def relative(self, path: Path) -> str:
        """A path as messages and tables have it."""
        return printable(path.relative_to(self.root).as_posix())

    def folders(self, folder: Path) -> list[str]:
        """The names of a folder's sub-folders, in natural order; what else is in it is passed over."""
        names = []
        for entry in entries(folder):
            if entry.name.startswith("."):
                self.skipped[HIDDEN].append(Path(entry.path))
            elif is_folder(entry):
                names.append(entry.name)
            else:
                self.skipped[BESIDE if os.path.exists(entry.path) else BROKEN].append(Path(entry.path))
        return natural(names)

    def read(self, classes: Sequence[Path]) -> None:
        """Find the image files in and below each class folder.

        Links to folders are followed last, and only to folders that have not been read: none is read twice.
        """
        links: deque[tuple[Path, Path]] = deque()
        above = {parent for folder in classes for parent in folder.parents if self.root in (parent, *parent.parents)}
        self.seen.update(map(identity, above))  # a link to one of these would come back to all
        for folder in classes:
            self.files[folder] = []
            through_link = any(part.is_symlink() for part in (folder, *folder.parents) if self.root in part.parents)
            if through_link:
                links.append((folder, folder))
            else:
                links.extend((link, folder) for link in self.walk(folder, folder))
        while links:
            link, folder = links.popleft()
            links.extend((deeper, folder) for deeper in self.walk(link, folder))
        self.drop_links_to_files()
        for folder in classes:
            self.files[folder].sort(key=lambda file: file.relative_to(folder).parts)

    def walk(self, top: Path, folder: Path) -> list[Path]:
        """Add the files in and below `top` to a class folder's; returns the links to folders."""
        links, pending = list[Path](), [top]
        while pending:
            here = pending.pop()
            try:
                found = os.stat(here)
                if (found.st_dev, found.st_ino) in self.seen:
                    self.skipped[LINK_AGAIN].append(here)
                    continue
                inside = entries(here)
            except (OSError, UserError):
                if here == folder:
                    raise
                self.skipped[UNREADABLE].append(here)
                continue
            self.seen.add((found.st_dev, found.st_ino))
            for entry in inside:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    self.skipped[HIDDEN].append(path)
                elif is_folder(entry):
                    (links if entry.is_symlink() else pending).append(path)
                elif (why := reason_to_skip(entry)) is not None:
                    self.skipped[why].append(path)
                else:
                    self.files[folder].append(path)
        return links

    def drop_links_to_files(self) -> None:
        """Pass over links to image files that are there already, or that an earlier link leads to."""
        links = {path for files in self.files.values() for path in files if path.is_symlink()}
        if not links:
            return
        known = {identity(path) for files in self.files.values() for path in files if path not in links}
        for folder, files in self.files.items():
            kept = []
            for path in sorted(files):
                if path in links and identity(path) in known:
                    self.skipped[LINK_AGAIN].append(path)
                else:
                    known.add(identity(path))
                    kept.append(path)
            self.files[folder] = kept

    def check_classes(self, nested: bool) -> None:
        """Raise UserError unless each class folder has images.

        nested: class folders may hold folders. Otherwise some images are directly in each class folder, and no two
        classes of a split have folders of one name with images, because these may be the classes.
        """
        expected = (
            "expected dataset.nested=true if they are classes whose folders hold folders (of patients or sites); else "
            "dataset.path as the folder of the class folders, or dataset.train, dataset.val and dataset.test as the "
            "split folders in it."
        )
        owners: dict[tuple[Path, str], Path] = {}
        for folder, files in self.files.items():
            where = printable(folder)
            if not files:
                passed = [f"{len(found)} × {why}" for why, paths in self.skipped.items()
                          if (found := [path for path in paths if folder in (path, *path.parents)])]  # fmt: skip
                there = f" (it has {', '.join(passed)})" if passed else ""
                raise UserError(f"{where} has no image{there}; expected at least one file ({', '.join(SUFFIXES)}).")
            if nested:
                continue
            names = natural({file.relative_to(folder).parts[0] for file in files if file.parent != folder})
            if not any(file.parent == folder for file in files):
                shown = ", ".join(map(printable, names[:NAMED])) + ", …" * (len(names) > NAMED)
                raise UserError(
                    f"{where} is taken for a class, but it holds only folders ({shown}) and no image; {expected}"
                )
            for name in names:
                if (other := owners.setdefault((folder.parent, name), folder)) != folder:
                    raise UserError(
                        f"{printable(other)} and {printable(folder.name)} are taken for classes, but both hold a "
                        f"folder {printable(name)} with images; {expected}"
                    )


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name; UserError if it may not be read."""
    return sorted(entries_as_stored(folder), key=lambda entry: entry.name)


def entries_as_stored(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, one by one, in the file system's order; UserError if it may not be read."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{printable(folder)} cannot be read ({error.strerror}); expected a folder that may be read.")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nothing may be read
        return False


def reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    """Why something that is no folder is no image file; None if it is one."""
    try:
        if not entry.is_file():
            return NO_FILE if os.path.exists(entry.path) else BROKEN
    except OSError:
        return BROKEN
    suffix = os.path.splitext(entry.name)[1].lower()
    return None if suffix in SUFFIXES else OTHER_SUFFIX if suffix else NO_SUFFIX


def identity(path: Path) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def natural(names: Iterable[str]) -> list[str]:
    """Sorted names, with numbers in them by their value: 1, 2, 10. Otherwise the order is that of `sorted`."""

    def by_value(digits: re.Match[str]) -> str:
        """A text that is sorted by a number's length first, at the place where a digit is among other characters."""
        number = digits[0].lstrip("0")
        return f"0{chr(len(number))}{number}"

    return sorted(names, key=lambda name: (re.sub(r"[0-9]+", by_value, name), name))


def usual_split(name: str) -> str | None:
    """The split that a folder's name stands for, in any case: Training, valid, test_set; None if it is another name."""
    letters = re.sub(r"[^a-z]", "", name.casefold())
    matches = (split for split, usual in USUAL.items() if re.fullmatch(rf"{usual}(set|data|images?|split)?", letters))
    return next(matches, None)


def split_folders(scan: Scan, names: Sequence[str], named: Mapping[str, str | None]) -> dict[str, str]:
    """The folder of each split, relative to the root; empty if there are only class folders. Only train must be there.

    Args:
        names: the sub-folders of the root. named: the folders that the configuration names.
    """
    root = scan.root
    found = {split: name for split, name in named.items() if name is not None}
    for split, name in found.items():
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or not os.path.isdir(root / name):
            there = ", ".join(map(printable, names[:NAMED])) + ", …" * (len(names) > NAMED)
            raise UserError(f"dataset.{split}={name}: {printable(root)} has no such folder; it has {there or 'none'}.")
    usual = [name for name in names if usual_split(name)]
    has_folders = (any(map(is_folder, entries(root / name))) for name in usual)
    if not found and not any(has_folders):  # a class may be called "train", too
        return {}
    taken = {Path(name).parts[0] for name in found.values()}
    for split in SPLITS:
        own = [name for name in usual if usual_split(name) == split and name not in taken]
        if split not in found and len(own) > 1:
            raise UserError(
                f"{printable(root)} has {' and '.join(map(printable, own))}, which may all be {split}; expected one, "
                f"or dataset.{split}=… to name it."
            )
        if split not in found and own:
            found[split] = own[0]
    others = [name for name in names if name not in {*found.values(), *taken}]
    missing = [split for split in SPLITS if split not in found]
    if "train" in missing or (missing and others):  # val and test may be missing
        first = "train" if "train" in missing else missing[0]
        there = f"; it also has {', '.join(map(printable, others[:NAMED]))}" if others else ""
        raise UserError(
            f"{printable(root)} has a folder {printable(next(iter(found.values())))} but not all of train, val and "
            f"test{there}: expected dataset.{first}=… to name the folder of {first}, or only a folder for "
            "each class."
        )
    beside = [root / name for name in others]
    read = {root / name for name in found.values()}
    for folder in sorted({parent for path in read for parent in path.parents if root in parent.parents} - read):
        inside = {folder / name for name in scan.folders(folder)}
        beside += [path for path in inside if not any(path in (one, *one.parents) for one in read)]
    if beside:
        scan.skipped[BESIDE] += beside
    return {split: found[split] for split in SPLITS if split in found}
