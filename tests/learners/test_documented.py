"""Docstrings say what `ccsi run learner=NAME --help` shows, and a new learner is one module and one yaml."""

import dataclasses
import inspect
import re
import sys
from pathlib import Path

import pytest
from every import EVERY

import ccsi.config
import ccsi.learners
from ccsi.data import Augment
from ccsi.errors import UserError
from ccsi.learners import ExemplarBudget, IdC, NetLearner, all_learners, find_learner
from ccsi.synthesis import Generation, Synthesis
from ccsi.training import Training

BASES = {base for kind in EVERY.values() for base in kind.__mro__ if issubclass(base, NetLearner)}
CONFIGS = [
    *sorted(BASES, key=lambda kind: kind.__name__),
    ExemplarBudget,
    Synthesis,
    Generation,
    IdC,
    Training,
    Augment,
]


def documented(thing: type) -> dict[str, str]:
    """The entries of a docstring's `Args:` section, with their text."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.getdoc(thing) or "", re.MULTILINE)
    entries: dict[str, str] = {}
    for line in section[1].splitlines() if section else ():
        if found := re.match(r"    (\w+): (.*)", line):
            entries[found[1]] = found[2]
        else:
            assert line.startswith("        ") or not line, f"{thing.__name__}: {line!r} is no entry of Args"
    return entries


@pytest.mark.parametrize("thing", CONFIGS, ids=lambda thing: thing.__name__)
def test_every_field_is_documented_where_it_is_declared(thing: type) -> None:
    own = vars(thing).get("__annotations__", {})
    fields = {field.name for field in dataclasses.fields(thing) if field.name in own}  # type: ignore[arg-type]
    assert set(documented(thing)) == fields


@pytest.mark.parametrize("name", EVERY)
def test_a_learner_says_what_it_is_and_what_it_keeps(name: str) -> None:
    kind = EVERY[name]
    doc = inspect.getdoc(kind) or ""
    assert len(doc.splitlines()[0]) <= 116 and doc.splitlines()[0].endswith(".")
    assert re.search(r"\bIt keeps\b", doc)
    paper = (sys.modules[kind.__module__].__doc__ or "").splitlines()[0]
    assert re.search(r"\b(19|20)\d\d\b|arXiv", paper) or kind.kind == "bound"
    assert vars(kind)["__doc__"] is not None  # its own, not that of a base


def test_learners_are_found_by_their_names() -> None:
    assert all_learners() == EVERY and list(EVERY) == sorted(EVERY)
    assert all(find_learner(name) is kind and kind.default_name == name for name, kind in EVERY.items())
    assert all(getattr(ccsi.learners, kind.__name__) is kind for kind in EVERY.values())
    with pytest.raises(UserError, match=r"learner=ewcc is not a learner; did you mean ewc\?"):
        find_learner("ewcc")
    with pytest.raises(UserError, match=r"learner=1 is not a learner; expected abd, acil, "):
        find_learner("1")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = ccsi.learners.Nothing


@pytest.mark.parametrize(
    "path", sorted((ccsi.config.config_dir() / "learner").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_learner_has_a_yaml(path: Path) -> None:
    found = re.search(r"^_target_: ccsi\.learners\.(\w+)$", path.read_text(), re.MULTILINE)
    assert found is None or getattr(ccsi.learners, found[1]) in EVERY.values()
    assert found or path.stem == "ci"  # CCSI with another configuration


NEW = '''"""A learner of this test (Nobody et al., 2026)."""

from dataclasses import dataclass

from ccsi.checks import NonNegative
from ccsi.learners.base import NetLearner


@dataclass(kw_only=True, eq=False)
class Brandnew(NetLearner):
    """Fine-tuning under another name.

    It keeps nothing.

    Args:
        weight: of nothing.
    """

    default_name = "brandnew"

    weight: NonNegative = 1.0
'''
YAML = "_target_: ccsi.learners.Brandnew\n_partial_: true\nname: brandnew\nweight: 2.0\n"


def test_two_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("first", "second"):
        (tmp_path / f"{module}_new.py").write_text(NEW)
    monkeypatch.setattr(ccsi.learners, "__path__", [*ccsi.learners.__path__, str(tmp_path)])
    both = r"ccsi\.learners\.first_new and ccsi\.learners\.second_new both define "
    try:
        with pytest.raises(RuntimeError, match=both + "brandnew"):
            find_learner("brandnew")
        with pytest.raises(RuntimeError, match=both + "Brandnew"):
            _ = ccsi.learners.Brandnew
        assert ccsi.learners.CCSI is EVERY["ccsi"]
    finally:
        for module in ("first_new", "second_new"):
            sys.modules.pop(f"ccsi.learners.{module}", None)
            vars(ccsi.learners).pop(module, None)


def test_a_new_learner_is_one_module_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brandnew.py").write_text(NEW)
    monkeypatch.setattr(ccsi.learners, "__path__", [*ccsi.learners.__path__, str(tmp_path)])
    try:
        kind = find_learner("brandnew")
        assert ccsi.learners.Brandnew is kind and all_learners().keys() - EVERY.keys() == {"brandnew"}
        assert documented(kind) == {"weight": "of nothing."}
        (tmp_path / "learner").mkdir()
        (tmp_path / "learner" / "brandnew.yaml").write_text(YAML)
        monkeypatch.setattr("ccsi.config.trust.FOLDERS", [ccsi.config.config_dir, lambda: tmp_path])
        config = ccsi.config.load(["dataset=digits", "learner=finetune"])
        config["learner"] = dict(line.split(": ") for line in YAML.splitlines()) | {"weight": 2.0, "_partial_": True}
        made = ccsi.config.build(config).keywords["learner"]
        assert made.func is kind and made.keywords["weight"] == 2.0
        config["learner"]["weight"] = -1.0
        with pytest.raises(UserError, match=r"learner\.weight=-1\.0: expected a number >= 0"):
            ccsi.config.build(config)
    finally:
        sys.modules.pop("ccsi.learners.brandnew", None)
        vars(ccsi.learners).pop("brandnew", None)
