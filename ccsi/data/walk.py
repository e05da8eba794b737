"""The image files of a folder one by one, however many there are: nothing but the names of one folder is in memory."""

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from ccsi.data.scan import (
    HIDDEN,
    LINK_AGAIN,
    UNREADABLE,
    Identity,
    entries_as_stored,
    identity,
    is_folder,
    natural,
    reason_to_skip,
    unreadable,
)
from ccsi.errors import UserError


class Walk:
    """One walk through a folder and all that are in it.

    Attributes:
        skipped: what was passed over so far, by reason (see `ccsi.data.scan`).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        # a link to one of these would come back to the root
        self.seen: set[Identity] = set(map(identity, root.resolve().parents))
        self.links: deque[str] = deque()

    def files(self) -> Iterator[str]:
        """The paths of the image files, relative to the root and with `/`, in natural order (`scan.natural`).

        Links to folders are followed last, and only to folders that have not been read: no file is read twice through
        them. A link to a file is a file of its own.

        Raises:
            UserError: the root may not be read.
        """
        yield from self.below("")
        while self.links:
            yield from self.below(self.links.popleft())

    def below(self, top: str) -> Iterator[str]:
        """The image files in and below a folder, given by its path relative to the root, but not behind links."""
        pending = [self.inside(top)]
        while pending:
            path, folder = next(pending[-1], ("", False))
            if not path:
                pending.pop()
            elif folder:
                pending.append(self.inside(path))
            else:
                yield path

    def inside(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The paths of a folder's image files and sub-folders (True), in natural order."""
        names, folders = list[str](), set[str]()
        try:
            own = self.identity(folder)
            if own in self.seen:
                self.skipped[LINK_AGAIN] += 1
                return
            self.seen.add(own)
            for entry in entries_as_stored(self.root / folder):
                if entry.name.startswith("."):
                    self.skipped[HIDDEN] += 1
                elif is_folder(entry):
                    if entry.is_symlink():
                        self.links.append(join(folder, entry.name))
                    else:
                        folders.add(entry.name)
                elif (why := reason_to_skip(entry)) is not None:
                    self.skipped[why] += 1
                else:
                    names.append(entry.name)
        except UserError:
            if not folder:
                raise
            self.skipped[UNREADABLE] += 1
        for name in natural([*names, *folders]):
            yield join(folder, name), name in folders

    def identity(self, folder: str) -> Identity:
        """Device and inode of a folder; UserError if it may not be read."""
        try:
            return identity(self.root / folder)
        except OSError as error:
            raise unreadable(self.root / folder, error) from error


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
