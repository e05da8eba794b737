"""Model folders whose tensors or files are not what model.json says, and the commands that are given such a folder."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import TENSORS, Watch, attempt, change_file, change_record, change_tensors, content_of, copied, header, seal
from small_models import QUIET, write_images
from test_damaged import RECORDS
from torch import Tensor

from ccsi.cli import main
from ccsi.errors import LONGEST, UserError
from ccsi.model import load
from ccsi.model.folder import CARD, MEMORY, MODEL_JSON, REFERENCE, WEIGHTS


def changed(name: str, change: Callable[[Tensor], Any]) -> Callable[[dict[str, Tensor]], None]:
    """Put what `change` makes of a tensor in its place, or remove it."""

    def work(tensors: dict[str, Tensor]) -> None:
        new = change(tensors.pop(name))
        if new is not None:
            tensors[name] = new

    return work


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "lacks": lambda t: None, "complex": lambda t: t.to(torch.complex64), "bool": lambda t: t.bool(),
    "float16": lambda t: t.half(), "int64": lambda t: t.long() if t.is_floating_point() else t.double(),
    "one more": lambda t: t[None], "empty": lambda t: t.new_zeros(0), "NaN": lambda t: t * torch.nan,
    "longer": lambda t: torch.cat([t, t]) if t.ndim else t.repeat(2),
}  # fmt: skip
PLACES = [
    ("ncm", "net.backbone.stem.weight"), ("ncm", "net.new"), ("ncm", "net.scale"), ("ncm", "state.kept.means"),
    ("ncm", "familiarity.quantiles"), ("ncm", "familiarity.means"), ("ncm", "familiarity.scatter"),
    ("ncm", "familiarity.count"), ("ncm", "familiarity.features"), ("acil", "drawn.buffer"),
    ("acil", "state.kept.auto"), ("acil", "state.kept.cross"), ("er", "state.kept.kept_images"),
    ("er", "state.kept.kept_labels"), ("ccsi", "state.memory.means"), ("ccsi", "state.memory.group_vars.1"),
    ("fecam", "state.kept.covariances"), ("ewc2", "net.old"), ("ewc2", "state.kept.fisher.0"),
    ("ewc2", "state.kept.anchor.2"), ("ewc2", "familiarity.backbone.stem.weight"),
]  # fmt: skip
UNUSED = ("net.new", "longer")
"""Prototypes of a network that classifies without them."""
HARMLESS = {"state.kept.fisher.0", "state.kept.anchor.2", "state.memory.means", "state.memory.group_vars.1",
            "familiarity.quantiles"}  # fmt: skip
"""Tensors that only an extension uses, where it is seen that they are not finite; and NaN is no quantile."""


@pytest.mark.parametrize(("learner", "tensor"), PLACES)
def test_a_tensor_with_a_right_checksum(
    learner: str, tensor: str, models: dict[str, Path], here: Path, watch: Watch
) -> None:
    for name, change in CHANGES.items():
        folder = copied(models[learner], here / "case")
        before = folder.joinpath(MODEL_JSON).read_bytes()
        change_tensors(folder, changed(tensor, change))
        same = folder.joinpath(MODEL_JSON).read_bytes() == before
        fine = (
            same
            or (tensor, name) == UNUSED
            or (name == "NaN" and (tensor in HARMLESS or tensor == "familiarity.quantiles"))
        )
        assert attempt(folder, watch) or fine, (tensor, name)


def float32(name: str, offsets: Any, shape: Any = (1,)) -> dict[str, Any]:
    return {name: {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch called",)


def zipped(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "x.zip", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil()))
    data = (folder / "x.zip").read_bytes()
    (folder / "x.zip").unlink()
    return data


FILES: dict[str, bytes | Callable[[Path], bytes]] = {
    "pickle": pickle.dumps(Evil()), "zip": zipped, "empty": b"", "no header": bytes(8), "seven bytes": bytes(7),
    "a header of 2**60": header({}, length=2**60), "of 2**64 - 1": header({}, length=2**64 - 1),
    "a header of 5 MB": header(b"{" + b" " * 5_000_000 + b"}"), "no object": header([]), "no JSON": header(b"{"),
    "deep": header(b'{"a":' * 5000), "overlap": header(float32("a", [0, 4]) | float32("b", [2, 6]), bytes(6)),
    "outside": header(float32("a", [0, 2**40]), bytes(4)), "negative": header(float32("a", [-4, 0]), bytes(4)),
    "backwards": header(float32("a", [4, 0]), bytes(4)), "hole": header(float32("a", [4, 8]), bytes(8)),
    "huge": header(float32("a", [0, 4], [2**40, 2**40]), bytes(4)),
    "shape": header(float32("a", [0, 4], [3]), bytes(4)),
    "product 0": header(float32("a", [0, 0], [0, 2**62]), b""), "dtype": header({"a": {"dtype": "O", "shape": []}}),
    "text for a shape": header(float32("a", [0, 4], "x"), bytes(4)), "unknown": header(float32("a", [0, 4]), bytes(4)),
    "more behind": header({}, bytes(4)), "metadata": header({"__metadata__": {"a": "b"}}),
    "many": header({f"{i}": float32("a", [0, 0], [0])["a"] for i in range(20_000)}),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_file_with_a_right_checksum(what: str, models: dict[str, Path], here: Path, watch: Watch) -> None:
    for name in TENSORS:
        folder = copied(models["ncm"], here / "case")
        data = FILES[what]
        change_file(folder, name, data if isinstance(data, bytes) else data(here))
        assert attempt(folder, watch)


def lengthened(path: Path) -> None:
    """Make a file of a terabyte, which takes no room on the disk."""
    os.truncate(path, 2**40)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo, "a folder": Path.mkdir, "zeros": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path), "nothing": lambda path: None,
    "a process's memory": lambda path: path.symlink_to("/proc/self/pagemap"),
    "65 MB": lambda path: path.write_bytes(b"[" + b"1," * (33 * 2**20) + b"1]"),
    "many lists": lambda path: path.write_bytes(b"[" + b"[]," * (20 * 2**20) + b"1]"),
    "npz": lambda path: np.savez(path.open("wb"), a=np.zeros(3)),
    "a terabyte": lambda path: (path.touch(), lengthened(path)),
}  # fmt: skip


@pytest.mark.parametrize("what", SPECIAL)
def test_something_else_in_place_of_a_file(what: str, models: dict[str, Path], here: Path, watch: Watch) -> None:
    for name in (MODEL_JSON, *TENSORS):
        folder = copied(models["ncm"], here / "case")
        (folder / name).unlink()
        SPECIAL[what](folder / name)
        assert attempt(folder, watch)
        if name != MODEL_JSON and what in ("zeros", "a terabyte", "a process's memory"):  # and model.json says so
            size = (folder / name).stat().st_size
            content = content_of(folder)
            content["files"][name] = {"bytes": size, "sha256": "0" * 64}
            seal(folder, content, files=False)
            assert attempt(folder, watch)


def test_other_folders(models: dict[str, Path], here: Path, watch: Watch) -> None:
    """One that is being learned, none, a file, another model's weights; the card alone may be anything."""
    folder = here / "m.partial"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(pickle.dumps(Evil()))
    assert "is missing" in attempt(folder, watch)
    assert "is no folder" in attempt(here / "nothing", watch) and "is no folder" in attempt(here / "canary.py", watch)
    folder = copied(models["ncm"], here / "case")
    change_file(folder, WEIGHTS, (models["ewc2"] / WEIGHTS).read_bytes())
    assert "its weights are not those" in attempt(folder, watch)
    for name in (MEMORY, REFERENCE):
        folder = copied(models["ncm"], here / "case")
        change_file(folder, name, (models["er"] / name).read_bytes())
        assert name == REFERENCE or attempt(folder, watch)
    folder = copied(models["ncm"], here / "case")
    change_record(folder, lambda content: content.update(schema=2))
    assert "was written by a newer version of ccsi (schema 2, not 1); update ccsi" in attempt(folder, watch)
    seal(folder, [1, 2])
    assert attempt(folder, watch)
    folder = copied(models["ncm"], here / "case")
    (folder / CARD).write_bytes(b"\xff another card")
    assert attempt(folder, watch) == ""
    (folder / CARD).unlink()
    assert attempt(folder, watch) == ""


def test_weights_that_a_network_began_with_are_not_read(
    models: dict[str, Path], here: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccsi.models.backbones.load_weights", lambda *parts: pytest.fail("they are read"))
    for weights in ("stolen.pt", "https://127.0.0.1:9/x.pth", "IMAGENET1K_V1", "/dev/zero"):
        folder = copied(models["ncm"], here / "case")
        network = {"_target_": "ccsi.models.resnet", "_partial_": True, "weights": weights}
        change_record(folder, lambda content, network=network: content["config"].update(model=network))
        assert attempt(folder, watch)


COMMANDS = {
    "show": ["show", "case"], "predict": ["predict", "case", "images", "out=out.csv"],
    "evaluate": ["evaluate", "case", "images", "out=out.json"], "extend": ["extend", "case", "new", "out=out"],
}  # fmt: skip
SOME = ["size 100000000", "temperature 0", "config.out", "config.tracking", "command", "deep", "many", "no task",
        "environment", "schema 2", "canary", "lacks input", "config lacks dataset"]  # fmt: skip


@pytest.mark.parametrize("name", SOME)
def test_commands(name: str, models: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(models["acil"], here / "case")
    change_record(here / "case", RECORDS[name])
    write_images(here / "images", {"ant": 2, "bee": 2})
    write_images(here / "new", {"cat": 6})
    files = sorted(here.rglob("*"))
    for command, typed in COMMANDS.items():
        code, said = main(typed), capsys.readouterr().err.splitlines()
        if command == "show" and name in ("command", "canary", "many"):
            assert code == 0  # it makes nothing of what the record names
        else:
            said = [line for line in said if not line.startswith("dataset=")]
            assert code == 2 and len(said) == 1 and said[0].startswith("ccsi: ") and len(said[0]) <= LONGEST + 6
        assert sorted(here.rglob("*")) == files


@pytest.mark.parametrize("tensor", sorted(HARMLESS - {"familiarity.quantiles"}))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1e30])
def test_extending_with_numbers_that_are_none(tensor: str, value: float, models: dict[str, Path], here: Path) -> None:
    learner = "ccsi" if "memory" in tensor else "ewc2"
    folder = copied(models[learner], here / "case")
    change_tensors(folder, changed(tensor, lambda t: t * 0 + value))
    images = write_images(here / "new", {"dog": 6})
    try:
        load(folder, "cpu").extend(images, overrides=QUIET)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) <= LONGEST
