"""Model folders that are damaged, or made to do harm: one sentence each, and nothing is executed or written."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import TENSORS, Content, Watch, attempt, change_record, content_of, copied

from ccsi.config.compose import config_dir
from ccsi.config.trust import targets_in
from ccsi.model import load
from ccsi.model.folder import CARD, MODEL_JSON


def naively(draw: random.Random, folder: Path, others: list[Path]) -> None:
    """Damage a file as disks, networks and editors do."""
    path = folder / draw.choice([MODEL_JSON, *TENSORS])
    data, how = bytearray(path.read_bytes()), draw.randrange(8)
    at = draw.randrange(len(data))
    if how == 0:
        del data[at:]
    elif how == 1:
        data[at] ^= 1 << draw.randrange(8)
    elif how == 2:
        data[at : at + 64] = draw.randbytes(64)
    elif how == 3:
        data = data * 2
    elif how == 4:
        data = bytearray(draw.choice([b"", b"null", b"[]", b"{}", b"1", b"\xff" * 50, b"[" * 10**5, b'{"a":' * 10**5]))
    elif how == 5:
        data = bytearray((draw.choice(others) / path.name).read_bytes())
    elif how == 6:
        data = bytearray((folder / draw.choice([CARD, *TENSORS])).read_bytes())
    path.unlink()
    if how < 7:
        path.write_bytes(data)


def test_naive_damage(models: dict[str, Path], here: Path, watch: Watch) -> None:
    draw, refused = random.Random(0), 0
    for number in range(150):
        base = models[draw.choice(sorted(models))]
        folder = copied(base, here / f"case{number}")
        naively(draw, folder, [path for path in models.values() if path != base])
        said = attempt(folder, watch)
        if not said:  # 1e-05 and 1E-05 are the same number
            assert all((folder / name).read_bytes() == (base / name).read_bytes() for name in TENSORS)
            assert load(folder).record == load(base).record
        refused += bool(said)
    assert refused >= 130


def put(*path: Any) -> Callable[[Content], None]:
    """Put the last of the arguments where the others lead."""
    *keys, last, value = path

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def lacking(*path: Any) -> Callable[[Content], None]:
    """Remove what the arguments lead to."""

    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def classes(*names: str) -> Callable[[Content], None]:
    """Other names, in the record and in its task."""

    def change(content: Content) -> None:
        content["class_names"] = list(names)
        task = content["tasks"][0]
        task["classes"], task["images"] = list(names), {key: [1] * len(names) for key in task["images"]}

    return change


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BIG = [2**63, -1, 1e308, 10**400, 10**9, 0, True, "8", None, [], {}, 0.5]
RECORDS: dict[str, Callable[[Content], None]] = {
    **{f"lacks {key}": lacking(key) for key in (
        "learner", "class_names", "input", "temperature", "config", "tasks", "files", "data_free", "reference")},
    **{f"config lacks {key}": lacking("config", key) for key in (
        "model", "learner", "training", "dataset", "seed", "threads", "device")},
    **{f"config.{key}": put("config", key, value) for key, value in {
        "out": "elsewhere", "tracking": {}, "workers": 2, "_target_": "os.system", "old": None, "x": 1}.items()},
    **{f"size {value!r:.9}": put("input", "size", value) for value in BIG},
    **{f"temperature {value!r:.9}": put("temperature", value) for value in (0, -1.0, 1e308, 1e-320, "1", None, 2**63)},
    **{f"seed {value!r:.9}": put("config", "seed", value) for value in BIG if value != 0 and value != 10**9},
    **{f"channels {value!r:.9}": put("input", "channels", value) for value in [*BIG, 3] if value is not True},
    **{f"schema {value!r:.9}": put("schema", value) for value in (2, "x", 0, -1, 1.0, None, 10**30, [])},
    **{f"expansion {value!r:.9}": put("config", "learner", "expansion", value) for value in BIG},
    **{f"files.bytes {value!r:.9}": put("files", "nothing", {"bytes": value, "sha256": ""}) for value in BIG},
    "unknown key": put("more", 1), "range": put("input", "ranges", {"16 bit": [5.0, 5.0]}),
    "range of text": put("input", "ranges", {"16 bit": ["a", 1.0]}), "fit": put("input", "fit", "stretch"),
    "other names": put("class_names", ["ant", "cat"]), "no name": put("class_names", []),
    "twice": classes("ant", "ant"), "empty name": classes("ant", " "), "one": classes("ant"),
    "three": classes("ant", "bee", "cat"), "many": classes(*map(str, range(10**5))),
    "no task": put("tasks", []), "a task": put("tasks", [1]), "task without classes": classes(),
    "images": put("tasks", 0, "images", {"train": [1, 1]}), "images of one": put("tasks", 0, "images", "train", [3]),
    "escape in about": put("about", "\x1b]0;owned\x07"), "escape in date": put("tasks", 0, "date", "\x1b[2J"),
    "escape in version": put("tasks", 0, "versions", {"ccsi": "\x1b[2J"}),
    "other learner": put("learner", "ewc"), "no hash": put("tasks", 0, "weights_sha256", "0" * 64),
    "deep": put("config", "training", "augment", nested(900)), "deeper": put("tasks", 0, "changes", {"x": nested(150)}),
    "environment": put("config", "dataset", "name", "${oc.env:HOME}"), "dollar": put("config", "learner", "name", "${"),
    "nested secret": put("config", "training", "${oc.env:HOME}", 1), "files": put("files", {}),
    "a file elsewhere": put("files", "../images/ant/000.png", {"bytes": 1, "sha256": ""}),
    "model is text": put("config", "model", "ccsi_small"), "learner is null": put("config", "learner", None),
    "no target": lacking("config", "learner", "_target_"), "at once": put("config", "learner", "_partial_", False),
    "large": put("config", "model", {"_target_": "ccsi.models.ccsi_large", "_partial_": True}),
    "resnet152": put("config", "model", {"_target_": "ccsi.models.resnet", "_partial_": True, "arch": "resnet152"}),
    "groups": put("config", "model", "groups", 7), "weights": put("config", "model", "weights", "x.pt"),
    "float64": put("config", "training", "precision", "float64"), "lr": put("config", "training", "lr", 1e308),
    "epochs": put("config", "training", "epochs", 10**30), "_args_": put("config", "learner", "_args_", [1]),
    **{f"target {name!r:.20}": put("config", "learner", {"_target_": name, "_partial_": True}) for name in (
        "os.system", "canary.learner", "subprocess.run", "builtins.exec", "ccsi.nothing", "ccsi.cli.main", "torch.load",
        "ccsi.learners.NCM.fit", "", ".", "..", "a", "ccsi.learners.base.NetLearner", 5, None, [], {})},
    "command": put("config", "learner", {"_target_": "os.system", "command": "touch called"}),
    "canary": put("config", "training", "augment", {"_target_": "canary.learner"}),
    "canary in a list": put("config", "dataset", "x", [{"_target_": "canary.learner"}]),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_with_a_right_checksum(name: str, models: dict[str, Path], here: Path, watch: Watch) -> None:
    folder = copied(models["acil"], here / "case")
    change_record(folder, RECORDS[name])
    assert attempt(folder, watch)


def test_every_own_target_in_every_place(models: dict[str, Path], here: Path, watch: Watch) -> None:
    """No class of the package but the one that belongs there is made, whether its settings are complete or not."""
    names, n = sorted(targets_in(config_dir())), 0
    for key in ("model", "learner", "training"):
        own = content_of(models["acil"])["config"][key]["_target_"]
        for name in names:
            if name == own or (key == "model" and name.startswith("ccsi.models.")):
                continue
            folder = copied(models["acil"], here / "case")
            more = {} if name.startswith("ccsi.learners.") else {"_partial_": n % 2 == 0}
            change_record(folder, put("config", key, {"_target_": name, **more}))
            assert attempt(folder, watch), (key, name)
            n += 1
    assert n > 100
