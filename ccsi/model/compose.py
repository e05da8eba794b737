"""The configuration of a first fit or of an extension, from what was typed and from what the old model has."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccsi import config
from ccsi.config import Config
from ccsi.errors import UserError
from ccsi.experiment.environment import torch_device
from ccsi.io.paths import expand, is_folder
from ccsi.io.text import warn
from ccsi.model.record import ModelRecord

OF_A_RUN = ("scenario", "run_dir", "evaluate_test", "share_data", "name")
"""Keys of a run that a model has no use for."""
FIXED = ("model", "seed")
"""What an extension cannot change, because the network and its random draws are there already."""
OF_THE_METHOD = ("learner", "training")
"""What an extension may change."""
OF_WORKERS = ("max_failures", "resources", "ray")
"""Keys for several workers alone."""
IMAGES = "expected a folder with a sub-folder for each class, an .npz file, or the name of a data set"
INPUT = ("size", "fit", "channels")


def fit_config(images: str | None, typed: Sequence[str]) -> Config:
    """The configuration of a first fit on `images`: a folder, an .npz file or the name of a data set (bloodmnist)."""
    for override in config.parse(typed):
        if override.key_or_group.partition(".")[0] in OF_A_RUN:
            raise UserError(
                f"{override.input_line}: a model learns one task at a time, all classes of its folder (or classes=…); "
                f"{override.key_or_group} is a setting of ccsi run."
            )
    tree = loaded(with_images(images, typed, "fit"), "fit")
    return {key: value for key, value in tree.items() if key not in OF_A_RUN}


def extend_config(images: str | None, typed: Sequence[str], old: ModelRecord) -> Config:
    """The configuration of an extension of `old` by `images`.

    Raises:
        UserError: a setting that an extension cannot change.
    """
    changes: dict[str, Any] = {}
    parsed = config.parse(typed)
    for override in parsed:
        key, first = override.key_or_group, override.key_or_group.partition(".")[0]
        if first in FIXED or (key == first and first in OF_THE_METHOD):
            raise UserError(
                f"{override.input_line}: the old model has {first_words(old, first)}, which an extension keeps; "
                "expected learner.KEY=… or training.KEY=…, which it may change."
            )
        if first in OF_THE_METHOD:
            changes[key] = override.value()
    others = [str(override.input_line) for override in parsed if override.key_or_group not in changes]
    tree = loaded(with_images(images, others, "extend"), "extend")
    kept = {key: value for key, value in old.config.items() if key not in ("dataset", "threads", "device")}
    typed_keys = {override.key_or_group for override in parsed}
    tree["dataset"] = extended_dataset(tree["dataset"], old, typed_keys)
    tree |= inherited(old.config, tree)
    method = config.apply(kept, changes)
    method_lines = [str(override.input_line) for override in parsed if override.key_or_group in changes]
    return {**tree, **config.as_typed(method, method_lines), "old": old.identity}


def inherited(old: Mapping[str, Any], tree: Mapping[str, Any]) -> Config:
    """Threads and device: those typed, else the old model's, as far as this machine has them."""
    found = {key: old[key] if tree[key] is None else tree[key] for key in ("threads", "device")}
    cpus = os.cpu_count() or 1
    if tree["threads"] is None and isinstance(found["threads"], int) and found["threads"] > cpus:
        warn(f"the old model was learned with threads={found['threads']}; this machine has {cpus}, which are used")
        found["threads"] = cpus
    if tree["device"] is None:
        try:
            torch_device(found["device"])
        except UserError:
            warn(f"the old model was learned on device={found['device']}, which this machine has not; auto is used")
            found["device"] = "auto"
    return found


def in_process(composed: Config) -> Config:
    """The configuration of a fit or extension in this process; UserError if it is for several."""
    if composed["workers"] != 1:
        raise UserError(f"workers={composed['workers']}: expected one here; several are started by ccsi fit or extend.")
    return {key: value for key, value in composed.items() if key not in OF_WORKERS}


def loaded(typed: Sequence[str], name: str) -> Config:
    """What configs/<name>.yaml and `typed` say; a folder or file without a name of its own has that of its path.

    Raises:
        UserError: also for a setting of several workers where there is one.
    """
    tree = config.load(typed, name)
    for override in config.parse(typed):
        if override.key_or_group.partition(".")[0] in OF_WORKERS and tree["workers"] == 1:
            raise UserError(
                f"{override.input_line} is set, but workers=1; expected workers=N, or no setting of several workers."
            )
    node = tree["dataset"]
    if node["name"] in ("folder", "npz") and node.get("path"):
        node["name"] = Path(node["path"]).absolute().name or node["name"]
    return tree


def first_words(old: ModelRecord, key: str) -> str:
    """What the old model has of a key, in a message."""
    if key == "learner":
        return f"learner={old.learner}"
    if key == "seed":
        return f"seed={old.config['seed']}"
    return "a network of its own"


def extended_dataset(node: Mapping[str, Any], old: ModelRecord, typed: set[str]) -> Config:
    """The data set's node with the old model's settings, unless they were typed; the input is the old model's."""
    form, before = old.input, old.config["dataset"]
    merged = {**node}
    for key in INPUT:
        value = getattr(form, key)
        if f"dataset.{key}" in typed and node[key] != value:
            raise UserError(f"dataset.{key}={node[key]}: the old model's input has {key}={value}; expected the same.")
        merged[key] = value
    for key in ("val_share", "test_share", "split_seed", "max_per_class", "draw", "nested"):
        if key in node and key in before and f"dataset.{key}" not in typed:
            merged[key] = before[key]
    if "range" in node and form.ranges:
        if node["range"] is not None:
            raise UserError(f"dataset.range={node['range']}: the old model has ranges already; expected null.")
        merged["range"] = {kind: [*bounds] for kind, bounds in form.ranges.items()}
    return merged


def with_images(images: str | None, typed: Sequence[str], name: str) -> list[str]:
    """`typed`, and what reads the images, if there are any: a data set of this name, or that for what is at the path.

    A folder is read as one, whatever data set an experiment names.
    """
    keys = {override.key_or_group for override in config.parse(typed)}
    if images is None:
        if not keys & {"dataset", "dataset.path"}:
            raise UserError("FOLDER is missing; expected a folder of images, an .npz file, or a data set's name.")
        return config.with_dataset(typed, name)
    if "dataset.path" in keys:
        raise UserError(f"{images} and dataset.path: expected one of them.")
    path = expand(images, "FOLDER")
    if not path.exists() and images in config.choices("dataset"):
        return [f"dataset={images}", *typed]
    if not path.exists():
        raise UserError(f"{images} does not exist; {IMAGES}.")
    if "dataset" not in keys and is_folder(path, "FOLDER"):
        typed = ["dataset=folder", *typed]
    return config.with_dataset([f"dataset.path={images}", *typed], name)
