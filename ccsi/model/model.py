"""What one does with a model from Python: fit, load, extend, predict, evaluate, save."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccsi.config import Config, build
from ccsi.data import Labelled, Source
from ccsi.data.stream import as_rows, open_images
from ccsi.errors import UserError
from ccsi.experiment.environment import DeviceName
from ccsi.model.card import card_text
from ccsi.model.classes import Arrays, labelled_images
from ccsi.model.compose import extend_config, fit_config, in_process
from ccsi.model.evaluate import Evaluation, evaluate_labelled
from ccsi.model.export import export_onnx, export_torch
from ccsi.model.learning import Learning, image_stream, labelled_source
from ccsi.model.predict import Predictions, predict_all
from ccsi.model.snapshot import Snapshot, read_snapshot

Images = str | Path | npt.NDArray[np.uint8] | Tensor
"""A folder, an .npz file, or images: uint8 [N, H, W] or [N, H, W, C], or a tensor, [N, C, H, W], uint8 or in [0, 1]."""
IN_MEMORY = [
    "dataset=folder",
    "dataset.path=.",
    "dataset.name=arrays",
]  # takes the place of arrays until the configuration is made


class Model(Snapshot):
    """A classifier that has learned one task after the other; see `Snapshot` for its attributes."""

    def __repr__(self) -> str:
        return f"Model({self.record.learner}, {len(self.class_names)} classes: {', '.join(self.class_names)})"

    def extend(
        self,
        images: Images,
        labels: Sequence[int | str] | npt.NDArray[Any] | Tensor | None = None,
        class_names: Sequence[str] | None = None,
        *,
        out: str | Path | None = None,
        overrides: Sequence[str] = (),
    ) -> "Model":
        """A new model, which also knows the classes in `images`, learned without old images; see `fit`.

        This model is not changed.
        """
        return learned(images, labels, class_names, out, overrides, self)

    def predict(self, images: Images, *, split: str | None = None) -> Predictions:
        """What the model says of images: probabilities, the most probable class, familiarity.

        Args:
            images: a folder of any depth, an image file, an .npz file, or images in memory. split: of an .npz file.
        """
        form = self.record.input
        if isinstance(images, str | Path):
            return predict_all(self, image_stream(images, form, split=split))
        return predict_all(self, open_images(images if isinstance(images, Tensor) else as_array(images), form))

    def evaluate(
        self,
        images: Images,
        labels: Sequence[int | str] | npt.NDArray[Any] | Tensor | None = None,
        *,
        split: str | None = None,
    ) -> Evaluation:
        """Figures on labelled images of classes that the model knows.

        Args:
            images: a folder with a sub-folder for each class, an .npz file, or images in memory with `labels`.
            labels: names of classes, or their positions in `class_names`.
            split: train, val, test or all; None: test where the source has splits of its own, else all.
        """
        if isinstance(images, str | Path):
            if labels is not None:
                raise UserError("labels: expected none beside a folder or file, whose classes say what its images are.")
            form, trained = self.record.input, [task.data_sha256 for task in self.record.tasks]
            source: Source = labelled_source(images, form)
            found = labelled_images(source, split, self.class_names, form.ranges, trained)
            return evaluate_labelled(self, found.part, found.split, found.notes)
        if split is not None:
            raise UserError(f"split={split}: images in memory have no splits; expected None.")
        return evaluate_labelled(self, self.labelled(images, labels), "all")

    def labelled(self, images: npt.NDArray[np.uint8] | Tensor, labels: Any) -> Labelled:
        """Images in memory at the network's input size."""
        names, numbers = labels_of(labels, self.class_names)
        if names != self.class_names:
            raise UserError(f"labels: expected names of classes that the model knows ({', '.join(self.class_names)}).")
        array = as_array(images)
        check_lengths(array, numbers)
        return Labelled(self.record.input.convert_arrays(array, "images"), torch.from_numpy(numbers))

    def export(self, path: str | Path) -> float:
        """Write the model as an .onnx or a .pt2 (torch.export) file: image in [0, 1] to probabilities.

        The metadata of an ONNX file have the class names and how a stored image becomes the input.

        Returns:
            The largest difference of a probability from the model's own, on random images.

        Raises:
            UserError: the file would differ by more than 1e-5, or a package is missing (`ccsi[onnx]`).
        """
        record, file = self.record, Path(path)
        if file.suffix.lower() != ".onnx":
            return export_torch(self.learner, record.temperature, record.input.size, file)
        about = {"input": dataclasses.asdict(record.input), "learner": record.learner, "model_sha256": record.sha256}
        metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        return export_onnx(self.learner, record.temperature, self.class_names, record.input.size, metadata, file)

    def card(self) -> str:
        """The model card in Markdown."""
        return card_text(self.record)


def fit(
    images: Images,
    labels: Sequence[int | str] | npt.NDArray[Any] | Tensor | None = None,
    class_names: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Model:
    """A first model.

    Args:
        images: a folder with a sub-folder for each class, an .npz file in MedMNIST's layout, the name of a data set
            (`bloodmnist`), or images in memory (see `Images`).
        labels: of images in memory: names of classes, or positions in `class_names`.
        class_names: in the order of the model's classes; None: the names in `labels`, sorted.
        out: the new model's folder, where the same call resumes; None: only in memory.
        overrides: settings as on the command line: ["learner=ccsi", "training.epochs=20"].

    Raises:
        UserError: what does not fit together; nothing is written then.
    """
    return learned(images, labels, class_names, out, overrides, None)


def load(path: str | Path, device: DeviceName = "auto") -> Model:
    """The model in a folder, on a device. Nothing in the folder is executed.

    Raises:
        UserError: the folder is incomplete, damaged, edited, of a newer version, or names code that is not trusted.
    """
    return model_of(read_snapshot(path, device))


def model_of(snapshot: Snapshot) -> Model:
    """A model of its parts."""
    return Model(snapshot.record, snapshot.learner, snapshot.reference, snapshot.pictures)


def learned(
    images: Images,
    labels: Any,
    class_names: Sequence[str] | None,
    out: Any,
    overrides: Sequence[str],
    old: Model | None,
) -> Model:
    """The model after the next task; `old` is None for a first fit."""
    in_memory = not isinstance(images, str | Path)
    if not in_memory and (labels is not None or class_names is not None):
        raise UserError("labels, class_names: expected none beside a folder or file, whose classes say what they are.")
    if odd := [one for one in overrides if one.partition("=")[0] == "out"]:
        raise UserError(f"overrides: {odd[0]}: expected the argument out.")
    typed = [*(IN_MEMORY if in_memory else []), *overrides, "out=null"]
    path = None if in_memory else str(images)
    config = fit_config(path, typed) if old is None else extend_config(path, typed, old.record)
    config = in_process(config) | {"out": None if out is None else str(out)}
    learning: Learning = build(config)()
    if in_memory:
        learning = dataclasses.replace(learning, dataset=arrays(images, labels, class_names, config["dataset"]))
    return model_of(learning.learn(old))


def arrays(images: Any, labels: Any, class_names: Sequence[str] | None, node: Config) -> Arrays:
    """Images in memory as a source, with the settings of a data set's node."""
    names, numbers = labels_of(labels, class_names)
    if class_names is None:  # numbers that do not occur are no classes
        there, numbers = np.unique(numbers, return_inverse=True)
        names = tuple(names[c] for c in there.tolist())
    kept = ("size", "fit", "channels", "max_per_class", "draw", "val_share", "test_share", "split_seed")
    array = as_array(images)
    check_lengths(array, numbers)
    return Arrays(images=array, labels=numbers, class_names=names, **{key: node[key] for key in kept if key in node})


def check_lengths(images: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> None:
    """Raise UserError unless there is one label for each image."""
    if len(images) != len(numbers):
        raise UserError(f"there are {len(images)} images but {len(numbers)} labels; expected as many.")


def labels_of(labels: Any, class_names: Sequence[str] | None) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The classes' names, and the label of each image as a position in them."""
    if labels is None:
        raise UserError("labels is None; expected one label for each image, as the images are in memory.")
    values = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise UserError(
            f"labels are {values.dtype} of shape {values.shape}; expected whole numbers or names, one each."
        )
    if values.dtype.kind == "U":
        names = tuple(class_names) if class_names is not None else tuple(sorted({*values.tolist()}))
        at = {name: number for number, name in enumerate(names)}
        if odd := sorted({*values.tolist()} - at.keys()):
            raise UserError(f"labels: {odd[0]} is not among the classes {', '.join(names)}.")
        return names, np.array([at[name] for name in values.tolist()], dtype=np.int64)
    numbers = values.astype(np.int64)
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(int(numbers.max(initial=-1)) + 1)))
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
        raise UserError(f"labels go from {numbers.min()} to {numbers.max()}; expected 0 to {len(names) - 1}.")
    return names, numbers


def as_array(images: Any) -> npt.NDArray[np.uint8]:
    """Images in memory as uint8 [N, H, W] or [N, H, W, 3]."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"images have the shape {tuple(images.shape)}; expected a tensor [N, C, H, W], C 1 or 3.")
        is_float = images.is_floating_point()
        if images.dtype != torch.uint8 and not (is_float and bool(((images >= 0) & (images <= 1)).all())):
            raise UserError("images: expected a tensor of uint8, or of floating-point numbers in [0, 1].")
        return as_rows(images)
    whole: npt.NDArray[np.uint8] = np.asarray(images)
    if whole.dtype != np.uint8 or whole.ndim not in (3, 4) or whole.shape[3:] not in ((), (1,), (3,)):
        raise UserError(
            f"images are {whole.dtype} of shape {whole.shape}; expected uint8, [N, H, W] or [N, H, W, C] with C 1 or 3."
        )
    return whole[..., 0] if whole.shape[3:] == (1,) else whole
