"""Every configs/dataset/*.yaml names a source, sets all of its fields, and refuses wrong values by key."""

from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from ccsi.config import check, config_dir
from ccsi.data import Digits, Npz, medmnist
from ccsi.errors import UserError

FILES = {file.stem: file for file in sorted((config_dir() / "dataset").glob("*.yaml"))}


def node(name: str, **changes: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    assert isinstance(plain, dict)
    return {**{str(key): value for key, value in plain.items()}, **changes}


@pytest.mark.parametrize("name", FILES)
def test_complete_and_valid(name: str) -> None:
    given = node(name)
    fields = set(signature(get_class(given["_target_"])).parameters)
    assert given.keys() - {"_target_"} == fields  # every setting can be seen, and set, by name
    if given.get("path") == "???":
        with pytest.raises(UserError, match="path is not set"):
            check(given)
        given["path"] = "somewhere"
    check(given)


def test_one_file_for_each_medmnist_set() -> None:
    assert {name for name in FILES if node(name)["_target_"] == "ccsi.data.MedMNIST"} == set(get_args(medmnist.Flag))
    for flag in get_args(medmnist.Flag):
        assert node(flag)["flag"] == flag
        assert node(flag)["name"] == medmnist.info()[flag]["python_class"]


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("digits", "size", 0, "size=0: expected a whole number >= 1"),
        ("digits", "size", "16", "size=16: expected a whole number"),
        ("digits", "size", 16.0, "size=16.0: expected a whole number"),
        ("digits", "fit", "stretch", "fit=stretch: expected one of pad, resize"),
        ("digits", "channels", 2, "channels=2: expected one of 1, 3, or null"),
        ("digits", "max_per_class", 0, "max_per_class=0: expected a whole number >= 1 and <= 1000000, or null"),
        ("digits", "split_seed", -1, "split_seed=-1: expected a whole number >= 0"),
        ("digits", "sise", 16, "sise is not a setting; did you mean size"),
        ("bloodmnist", "flag", "chestmnist", "flag=chestmnist: expected one of bloodmnist"),
        ("bloodmnist", "resolution", 32, "resolution=32: expected one of 28, 64, 128, 224"),
        ("bloodmnist", "root", 5, "root=5: expected text, or null"),
        ("npz", "path", 3, "path=3: expected text"),
        ("pbcblood", "class_names", [1, 2], "class_names=.*expected a list, each entry text"),
        ("cifar10", "which", "cifar10", "which=cifar10: expected one of FashionMNIST, CIFAR10, CIFAR100"),
        ("cifar10", "val_share", 0.0, "val_share=0.0: expected a number > 0 and < 1"),
        ("folder", "test_share", 1, "test_share=1: expected a number > 0 and < 1"),
    ],
)
def test_wrong_values(name: str, key: str, value: Any, expected: str) -> None:
    given = node(name)
    if given.get("path") == "???":
        given["path"] = "somewhere"
    with pytest.raises(UserError, match=expected):
        check({**given, key: value})


def test_built() -> None:
    assert instantiate(node("digits"), _convert_="all") == Digits(draw="by_class")
    blood = instantiate(node("pbcblood", path="x.npz"), _convert_="all")
    assert isinstance(blood, Npz) and blood.class_names is not None and len(blood.class_names) == 8
    assert Path(blood.path) == Path("x.npz")
