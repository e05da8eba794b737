"""What ccsi evaluate, predict and export do with a model's folder."""

import dataclasses
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Literal

from ccsi.checks import PositiveInt
from ccsi.errors import UserError
from ccsi.experiment.environment import DeviceName, set_up_torch
from ccsi.io.atomic import write_atomically
from ccsi.io.paths import absolute
from ccsi.io.text import printable, warn
from ccsi.model.evaluate import show_evaluation
from ccsi.model.learning import image_stream
from ccsi.model.measure import images_at_a_time
from ccsi.model.model import Model, load
from ccsi.model.predict import write_table

Split = Literal["train", "val", "test", "all"]


def open_model(folder: str, device: DeviceName, threads: int | None) -> Model:
    """The model in a folder, on a device; threads: None for all CPUs."""
    set_up_torch(device, os.cpu_count() or 1 if threads is None else threads)
    return load(folder, device)


def new_file(out: str, suffixes: tuple[str, ...]) -> Path:
    """The path of a file to write; UserError if it exists already or has another suffix."""
    path = absolute(out, "out")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"out={printable(path)}: expected a file that ends with {' or '.join(suffixes)}.")
    if os.path.lexists(path):
        raise UserError(f"out={printable(path)} exists already; choose another name.")
    if not path.parent.is_dir():
        raise UserError(f"out={printable(path)}: there is no folder {printable(path.parent)}; make it first.")
    return path


def evaluate_images(
    model_folder: str,
    images: str,
    split: Split | None = None,
    out: str | None = None,
    device: DeviceName = "auto",
    threads: PositiveInt | None = None,
) -> None:
    """Print the figures of a model on labelled images, and write them to a .json file `out` if there is one."""
    path = None if out is None else new_file(out, (".json",))
    evaluation = open_model(model_folder, device, threads).evaluate(images, split=split)
    if path is not None:
        write_atomically(path, json.dumps(dataclasses.asdict(evaluation), indent=1, allow_nan=False).encode())
    for sentence in evaluation.notes:
        warn(sentence)
    show_evaluation(evaluation)


def predict_images(
    model_folder: str,
    images: str,
    out: str,
    top: PositiveInt = 3,
    batch: PositiveInt = 256,
    device: DeviceName = "auto",
    threads: PositiveInt | None = None,
) -> None:
    """Write what a model says of each image to a .csv file; see `ccsi.model.predict`."""
    path = new_file(out, (".csv",))
    model = open_model(model_folder, device, threads)
    form = model.record.input
    stream = image_stream(images, form, images_at_a_time(form.channels, form.size, batch))
    began = time.monotonic()
    tally = write_table(model, stream, path, top)
    seconds, n = time.monotonic() - began, tally.images
    print_wrapped(f"{printable(out)}: {n:,} images in {seconds:.1f} s ({n / seconds:,.0f} a second)")
    n_val = min(n for task in model.record.tasks for n in task.images["val"])
    skipped = [f"{count:,} {why}" for why, count in stream.skipped.items()]
    for line in (*tally.lines(n_val), *([f"passed over: {', '.join(skipped)}"] if skipped else [])):
        print_wrapped(line)


def print_wrapped(line: str) -> None:
    """Print text in lines of at most 80 characters."""
    with suppress(BrokenPipeError):  # of a reader such as `head`
        print(fill(line, 80, subsequent_indent="  ", break_on_hyphens=False), flush=True)


def export_file(model_folder: str, out: str) -> None:
    """Write a model for programs without ccsi, checked against the model itself; see `ccsi.model.export`."""
    path = new_file(out, (".onnx", ".pt2"))
    model = open_model(model_folder, "cpu", None)
    difference = model.export(path)
    form, n = model.record.input, len(model.class_names)
    print(f"{printable(out)}: image [N, {form.channels}, {form.size}, {form.size}] in [0, 1] to probabilities [N, {n}]")
    print(f"largest difference from the model itself, on random images: {difference:.1e}")
