"""The user's images: a folder with one sub-folder a class."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ccsi.checks import Seed
from ccsi.data import dicom
from ccsi.data.dataset import (
    SPLITS,
    Contents,
    OpenShare,
    Origin,
    Raw,
    Source,
    counted,
    listed,
    state_of,
)
from ccsi.data.decode import Header, header_of, noted, read_pixels
from ccsi.data.depth import described, full_range, needs_range, to_8_bit
from ccsi.data.draw import stratified_parts
from ccsi.data.fit import StoredImages
from ccsi.data.groups import crossing, groups_by_file, split_by_groups
from ccsi.data.scan import Scan, split_folders
from ccsi.errors import UserError
from ccsi.io.paths import expand, is_folder
from ccsi.io.text import printable

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """Images in `path`/<split>/<class>/, or in `path`/<class>/ with a seeded split.

    Split folders have the usual names, in any case (`train`, `Training`, `validation`, …), or are named by `train`,
    `val` and `test`. Without one for val or test, it is a share of train. Classes are numbered in the order of their
    folders' names, numbers in them by their value. Formats: BMP, GIF, JPEG, PGM, PNG, PPM, TIFF, WebP, and DICOM with
    the extra `ccsi[dicom]`, of one frame. Images of any size and mode are converted to `size` one by one as they are
    read: they are turned as their EXIF orientation says, transparent parts become black, a palette becomes RGB; if any
    image is in colour, all become RGB. What is no image file is passed over, and named in `Origin.skipped`.

    Args:
        path: the folder; `~` is the home folder.
        train: name of the folder of train, relative to `path`; null: as usual. val, test: likewise.
        val_share, test_share: fraction of each class for val, and for test; only without a folder for it.
        split_seed: which image goes to which split.
        nested: class folders may hold folders, of patients or sites. If false, images that are only in such folders,
            and folders of one name in several classes, are taken for another layout and refused.
        groups: a .csv file with columns `file` (relative to `path`) and `group`: images of one group (a patient) go to
            the same split.
        range: the values that become 0 and 255 in images of more than 8 bits; null: measured over train (see
            `depth.full_range`). Also by the kind of pixels, {"16 bit": [low, high]}, and measured for other kinds.
    """

    name: str = "folder"
    path: str
    fit: Literal["pad", "resize"] = "resize"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    nested: bool = False
    val_share: OpenShare = 0.2
    test_share: OpenShare = 0.2
    split_seed: Seed = 0
    groups: str | None = None
    range: list[float] | dict[str, list[float]] | None = None

    def stamp(self) -> str:
        scan, _, files = self.files()
        states = [state_of(file) for _, _, file in files] + [repr(scan.reasons())]
        if self.groups is not None:
            states.append(state_of(expand(self.groups, "dataset.groups")))
        return "\n".join(states)

    def read(self) -> Contents:
        if self.val_share + self.test_share >= 1:
            raise UserError(
                f"dataset.val_share={self.val_share} and dataset.test_share={self.test_share} leave nothing to train "
                "on; expected a sum below 1."
            )
        for bounds in [self.range] if isinstance(self.range, list) else (self.range or {}).values():
            if len(bounds) != 2 or bounds[0] >= bounds[1]:
                raise UserError(f"dataset.range={self.range}: expected [low, high], two values, the second one larger.")
        scan, class_names, files = self.files()
        if any(file.suffix.lower() in dicom.SUFFIXES for _, _, file in files):
            dicom.check_installed()
        paths = tuple(file for _, _, file in files)
        names, headers, notes = tuple(map(scan.relative, paths)), list[Header](), dict[str, str]()
        for name, file in zip(names, paths, strict=True):
            with noted(name, notes):
                headers.append(header_of(file))
        channels = 3 if any(header.colour for header in headers) else 1
        every = ImageFiles(paths, channels, tuple(headers), names, notes)
        groups, warnings = None, list[str]()
        if self.groups is not None:
            groups, warnings = groups_by_file(expand(self.groups, "dataset.groups"), names)
        raw = Raw(every, np.array([label for _, label, _ in files], dtype=np.int64), groups)
        splits = np.array([split for split, _, _ in files])
        parts = self.split(raw, splits, class_names, warnings)
        drawn = tuple(split for split in SPLITS[1:] if split not in splits)
        origin = Origin(printable(scan.root), drawn=drawn, skipped=scan.reasons(), warnings=tuple(warnings))
        return Contents({split: raw[parts == split] for split in SPLITS}, class_names, origin)

    def files(self) -> tuple[Scan, tuple[str, ...], list[tuple[str, int, Path]]]:
        """What is in the folder, the class names, and of each image its split ("" if there are none), label, file."""
        root = expand(self.path, "dataset.path")
        if not is_folder(root, "dataset.path"):
            raise UserError(f"{printable(root)} is not a folder; expected one with a sub-folder for each class.")
        scan = Scan(root)
        inside = scan.folders(root)
        folders = split_folders(scan, inside, {"train": self.train, "val": self.val, "test": self.test}) or {"": ""}
        classes: dict[str, list[str]] = {}
        for split, folder in folders.items():
            classes[split] = scan.folders(root / folder) if folder else inside
            if not classes[split]:
                raise UserError(f"{printable(root / folder)} has no sub-folders; expected one for each class.")
        first, names = next(iter(classes.items()))
        for split, others in classes.items():
            if odd := set(names) ^ set(others):
                both = f"{printable(folders[first])} and {printable(folders[split])}"
                raise UserError(
                    f"{printable(root)}: {both} do not have the same classes: {printable(min(odd))} is in one only."
                )
        found = [(split, label, root / folders[split] / name) for split in classes for label, name in enumerate(names)]
        scan.read([folder for _, _, folder in found])
        scan.check_classes(self.nested)
        files = [(split, label, file) for split, label, folder in found for file in scan.files[folder]]
        return scan, tuple(map(printable, names)), files

    def split(
        self,
        raw: Raw,
        folders: npt.NDArray[np.str_],
        class_names: tuple[str, ...],
        warnings: list[str],
    ) -> npt.NDArray[np.str_]:
        """The split of each image, from that of its folder; what is to be said of it is added to `warnings`."""
        groups = raw.groups
        shares = {"val": self.val_share, "test": self.test_share}
        shares = {split: share for split, share in shares.items() if split not in folders}
        if not shares:
            if groups is not None:
                warnings += crossing({split: groups[folders == split] for split in SPLITS})
            return folders
        if "train" in folders:
            warnings += [
                f"There is no folder for {split}: {share:.0%} of the images of train are used (dataset.{split}_share)."
                for split, share in shares.items()
            ]
        of = np.flatnonzero(~np.isin(folders, ("val", "test")))
        labels = raw.labels[of]
        if groups is None:
            part = stratified_parts(labels, list(shares.values()), self.split_seed, self.draw)
        else:
            part = split_by_groups(labels, groups[of], list(shares.values()), self.split_seed, class_names)
            for number, (split, share) in enumerate(shares.items(), start=1):
                real = float((part == number).mean())
                if abs(real - share) > 0.05:
                    warnings.append(f"Groups are kept whole, so {split} has {real:.0%} of the images, not {share:.0%}.")
        splits = folders.astype("<U5")
        splits[of] = np.array(["train", *shares])[part]
        if groups is not None:
            warnings += crossing({split: groups[splits == split] for split in SPLITS})
        return splits

    def prepare(self, contents: Contents) -> Contents:
        """Measure the range of deep pixels over train, and give it to all splits."""
        images = {split: raw.images for split, raw in contents.splits.items()}
        pictures = {split: own for split, own in images.items() if isinstance(own, ImageFiles)}
        kinds = Counter(header.kind for own in pictures.values() for header in own.headers)
        deep = sorted(filter(needs_range, kinds))
        is_set, known = isinstance(self.range, list), dict[str, tuple[float, float]]()
        if isinstance(self.range, list):
            if not deep:
                raise UserError(f"dataset.range={self.range} is set, but all images have 8 bits; expected null.")
            ranges: Ranges = {kind: (self.range[0], self.range[1]) for kind in deep}
        else:
            known |= {kind: (low, high) for kind, (low, high) in (self.range or {}).items()}
            ranges = {**pictures["train"].measured(known), **known}
            for kind in deep:
                if kind not in ranges:
                    headers = [one for own in pictures.values() for one in zip(own.names, own.headers, strict=True)]
                    name = next(name for name, header in headers if header.kind == kind)
                    raise UserError(
                        f"{name} ({kind}) is in val or test, but train has no such image to measure the range on; "
                        "expected dataset.range=[low, high], or a folder without such images."
                    )
        known_from, splits = "dataset.range" if self.range else "the range of train", {}
        for split, own in pictures.items():
            ready = replace(own, ranges=ranges, known_from=known_from, split=split, clipped=[])
            splits[split] = replace(contents.splits[split], images=ready)
        depth = described(kinds, {kind: ranges[kind] for kind in deep}, is_set)
        return Contents(splits, contents.class_names, replace(contents.origin, depth=depth, ranges=ranges))


@dataclass(frozen=True)
class ImageFiles(StoredImages):
    """Image files of one split, in their order.

    Attributes:
        notes: what libraries warned of while an image of any split was read, by its name.
        ranges: see `Origin`. known_from: where they come from, for a message.
        clipped: names of images with values outside of `ranges`.
    """

    files: tuple[Path, ...]
    channels: int
    headers: tuple[Header, ...]
    names: tuple[str, ...]
    notes: dict[str, str] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)
    known_from: str = ""
    split: str = ""
    clipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "ImageFiles":
        indices = np.arange(len(self))[which].tolist()
        files, names, headers = ([own[i] for i in indices] for own in (self.files, self.names, self.headers))
        return replace(self, files=tuple(files), names=tuple(names), headers=tuple(headers))

    def measured(self, known: Collection[str]) -> Ranges:
        """The range of each kind of deep pixels that is not `known`; all its images are read for it."""
        lowest, highest, whole = dict[str, float](), dict[str, float](), dict[str, bool]()
        for file, name, header in zip(self.files, self.names, self.headers, strict=True):
            if needs_range(header.kind) and header.kind not in known:
                with noted(name, self.notes):
                    values = read_pixels(file).values
                lowest[header.kind] = min(lowest.get(header.kind, np.inf), float(values.min()))
                highest[header.kind] = max(highest.get(header.kind, -np.inf), float(values.max()))
                is_whole = np.issubdtype(values.dtype, np.integer) or header.kind.endswith(" bit")
                whole[header.kind] = whole.get(header.kind, True) and bool(is_whole)
        return {kind: full_range(lowest[kind], highest[kind], whole[kind]) for kind in lowest}

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        for file, name in zip(self.files, self.names, strict=True):
            with noted(name, self.notes):
                pixels = read_pixels(file)
            if self.channels == 1 and pixels.values.ndim == 3:
                raise UserError(f"{printable(file)} is damaged: its header says grey, but its pixels are RGB.")
            image, clipped = to_8_bit(pixels, self.ranges)
            if clipped:
                self.clipped.append(name)
            yield image[None]

    def warnings(self) -> list[str]:
        sentences = list[str]()
        if self.clipped:
            n = f"{counted(len(self.clipped), 'image', 'images')} of {self.split}"
            verb = "has" if len(self.clipped) == 1 else "have"
            sentences.append(
                f"{n} {verb} values outside of {self.known_from}, which are clipped: {listed(self.clipped)}."
            )
        if warned := [f"{name} ({self.notes[name]})" for name in self.names if name in self.notes]:
            n = counted(len(warned), "image", "images")
            sentences.append(f"{n} of {self.split} can be read, but with a warning: {listed(warned)}.")
        return sentences
