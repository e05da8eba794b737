"""The images of a task: those of the classes that a model is to learn, checked against those that it knows."""

import hashlib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ccsi.checks import Seed
from ccsi.data import Dataset, Labelled, Source
from ccsi.data.dataset import SPLITS, Contents, OpenShare, Origin, Raw, counted, listed
from ccsi.data.draw import stratified_parts
from ccsi.data.scenario import number_of, relabelled
from ccsi.data.summary import hashes_of
from ccsi.errors import UserError

NewImages = Literal["refuse", "ignore"]
MIXED = {(1, 3): "grey images become RGB (the same value in all channels)", (3, 1): "RGB images become grey (luma)"}
"""By the channels of images and of the network."""


@dataclass(frozen=True, kw_only=True)
class Arrays(Source):
    """Images from memory, with a seeded split.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        labels: int64 [N], positions in `class_names`.
        val_share, test_share, split_seed: as of `ccsi.data.Folder`.
    """

    name: str = "arrays"
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    val_share: OpenShare = 0.2
    test_share: OpenShare = 0.2
    split_seed: Seed = 0

    def read(self) -> Contents:
        part = stratified_parts(self.labels, (self.val_share, self.test_share), self.split_seed, self.draw)
        whole = Raw(self.images, self.labels)
        splits = {
            split: whole[part == number] for split, number in zip(("train", "val", "test"), range(3), strict=True)
        }
        return Contents(splits, self.class_names, Origin(drawn=("val", "test")))


def read_new_classes(
    source: Source, classes: Sequence[int | str] | None, known: Sequence[str], new_images: NewImages
) -> Dataset:
    """A data set of the classes to learn: those of `source`, or some of them; `known` ones are refused or left out.

    classes: names, or numbers of classes in the source.

    Raises:
        UserError: a class is known already, none is new, names differ by case or space alone, or too few images.
    """
    data = source.load(optional=SPLITS)  # `check_counts` says what is needed
    names = data.class_names
    there = torch.stack([torch.tensor(own) for own in counts_of(data).values()]).sum(0)
    numbers = [c for c in range(len(names)) if there[c]]  # numbers of arrays may leave some out
    if classes is not None:
        numbers = [number_of(c, names, "classes") if isinstance(c, str) else c for c in classes]
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(len(names))) or not numbers:
            raise UserError(f"classes={[*classes]}: expected some of the classes 0 to {len(names) - 1}, each once.")
    check_names([*known, *(names[c] for c in numbers if names[c] not in known)])
    old = [names[c] for c in numbers if names[c] in known]
    if old and new_images == "refuse":
        raise UserError(
            f"{data.name}: the model knows {listed(old)} already; expected new classes only, or new_images=ignore to "
            "leave these images out."
        )
    numbers = [c for c in numbers if names[c] not in known]
    if not numbers:
        raise UserError(f"{data.name} has no new class; expected at least one that the model does not know.")
    if not known and len(numbers) == 1:
        raise UserError(f"{data.name} has one class ({names[numbers[0]]}); a first model needs at least two.")
    selected = select_classes(data, numbers)
    check_counts(selected)
    return with_warning(selected, old)


def with_warning(data: Dataset, left_out: Sequence[str]) -> Dataset:
    """The data set, with sentences about how its images are converted, and which classes were left out."""
    sentences = conversions(data)
    if left_out:
        sentences.append(
            f"{counted(len(left_out), 'class is', 'classes are')} known already and left out: {listed(left_out)}."
        )
    return replace(data, origin=replace(data.origin, warnings=tuple(sentences)))


def conversions(data: Dataset) -> list[str]:
    """Sentences about what looks wrong in a data set, and what its images were turned into."""
    sentences = [*data.origin.warnings]
    if how := MIXED.get((data.origin.channels, data.train.images.shape[1])):
        sentences.append(f"The model's input is {'RGB' if how.startswith('grey') else 'grey'}: {how}.")
    return sentences


def select_classes(data: Dataset, numbers: Sequence[int]) -> Dataset:
    """The images of some classes, whose labels become 0, 1, … in the order of `numbers`."""
    if list(numbers) == list(range(len(data.class_names))):
        return data
    splits, origin = dict[str, Any](), data.origin
    kept: dict[str, Any] = {"files": {}, "groups": {}, "positions": {}}
    for split in SPLITS:
        part: Labelled = getattr(data, split)
        labels = relabelled(part.labels, [*numbers], 0) if len(part) else part.labels
        keep = (labels >= 0).nonzero()[:, 0]
        splits[split] = Labelled(part.images[keep], labels[keep])
        for name, of in kept.items():
            if split in getattr(origin, name):
                of[split] = tuple(getattr(origin, name)[split][i] for i in keep.tolist())
    names, digest = tuple(data.class_names[c] for c in numbers), hashlib.sha256()
    for part in splits.values():
        digest.update(part.images.contiguous().numpy().data)
        digest.update(part.labels.numpy().data)
    origin = replace(origin, **kept)
    return replace(data, class_names=names, origin=origin, checksum=digest.hexdigest(), **splits)


def check_names(names: Sequence[str]) -> None:
    """Raise UserError if two classes have the same name, or names that differ by case or space around them only."""
    first: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).strip().casefold()
        if not plain:
            raise UserError(f"a class has the name {name!r}; expected a name that can be read.")
        if plain in first:
            raise UserError(
                f"the classes {first[plain]!r} and {name!r} have names that differ by case or space around them only, "
                "if at all; expected one name for one class."
            )
        first[plain] = name


def check_counts(data: Dataset) -> None:
    """Raise UserError for a class with fewer than two images, or with none for train or val."""
    counts = counts_of(data)
    for c, name in enumerate(data.class_names):
        n = sum(own[c] for own in counts.values())
        if n < 2 or not counts["train"][c] or not counts["val"][c]:
            lacking = "" if n < 2 else f", but none of {'train' if not counts['train'][c] else 'val'}"
            raise UserError(
                f"{data.name}: class {name} has {n} image{'s' * (n != 1)}{lacking}; expected at least two, one to "
                "train on and one for val."
            )


def counts_of(data: Dataset) -> dict[str, list[int]]:
    """By split, the number of images of each class."""
    n = len(data.class_names)
    return {split: getattr(data, split).labels.bincount(minlength=n).tolist() for split in SPLITS}


def appended(data: Dataset, known: Collection[str]) -> Dataset:
    """The data set of all classes, of which the known ones, which come first, have no image."""
    moved: dict[str, Any] = {}
    for split in SPLITS:
        part: Labelled = getattr(data, split)
        moved[split] = Labelled(part.images, part.labels + len(known))
    return replace(data, class_names=(*known, *data.class_names), **moved)


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of classes that a model knows.

    Attributes:
        part: labels are positions in the model's classes. split: train, val, test or all.
        notes: whole sentences about how they were read.
    """

    part: Labelled
    split: str
    notes: tuple[str, ...]


def labelled_images(
    source: Source, split: str | None, class_names: Sequence[str], kinds: Collection[str], trained: Collection[str] = ()
) -> LabelledImages:
    """The labelled images of a source, with labels of `class_names`.

    Args:
        split: train, val, test or all; None: test if the source has splits of its own, or if it is among `trained`,
            else all. kinds: those of deep pixels whose range the model knows. trained: checksums of a model's data.

    Raises:
        UserError: a class that is not in `class_names`, no image, or deep pixels of another kind.
    """
    data = source.load(optional=SPLITS)
    if odd := sorted(data.origin.ranges.keys() - set(kinds)):
        raise UserError(f"{data.name} has {odd[0]} pixels, but the model knows no range for these; expected 8 bit.")
    notes = [*conversions(data), *(f"passed over: {len(files):,} {why}." for why, files in data.origin.skipped.items())]
    if split is None:
        is_drawn = {"val", "test"} <= set(data.origin.drawn)
        split = "all" if is_drawn and data.checksum not in trained else "test"
        if is_drawn and split == "test":
            notes.append("The model was trained on a part of these images: those of its test split are scored.")
    part, numbers = images_of(data, split), positions(data, class_names)
    if not len(part):
        raise UserError(f"{data.name}: {split} has no image; expected labelled ones of classes that the model knows.")
    return LabelledImages(Labelled(part.images, numbers[part.labels]), split, tuple(notes))


def without(part: Labelled, trained: Labelled) -> tuple[Labelled, int]:
    """The images of `part` that are not, pixel by pixel, among the `trained` ones, and how many are."""
    keep = torch.from_numpy(~np.isin(hashes_of(part.images), hashes_of(trained.images)))
    return Labelled(part.images[keep], part.labels[keep]), int((~keep).sum())


def images_of(data: Dataset, split: str) -> Labelled:
    """The images of a split, or of all."""
    parts = [getattr(data, one) for one in (SPLITS if split == "all" else (split,))]
    return Labelled(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def positions(data: Dataset, class_names: Sequence[str]) -> torch.Tensor:
    """The position in `class_names` of each class of the data set; UserError if one is not there."""
    at: Mapping[str, int] = {name: number for number, name in enumerate(class_names)}
    if odd := [name for name in data.class_names if name not in at]:
        raise UserError(
            f"{data.name}: the model does not know {listed(odd)}; expected folders called as its classes "
            f"({listed(class_names)}) alone: move the others away."
        )
    return torch.tensor([at[name] for name in data.class_names])
