"""Help: of commands, and of what can be chosen, from docstrings and type hints; all of it in 80 columns."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from ccsi import cli, config
from ccsi.cli.help import documented

GROUPS = ("dataset", "experiment", "learner", "model", "scenario", "tracking", "training")
CHOICES = [(group, choice) for group in GROUPS for choice in config.choices(group)]


def shown(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    """What `typed` prints, which must succeed."""
    capsys.readouterr()
    assert cli.main(typed) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("typed", [[], ["run"], ["sweep"], ["train"], ["status"], ["report"], ["help"]])
def test_help_fits_80_columns(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *typed, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert shown(capsys, "help", *typed) == text
    assert not re.search(r"\{[a-z_]*\}", text.replace("{{", "")), "a place that was not filled"


def keys(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any, bool]]:
    """Every key of a node and the nodes in it, its value, and whether its docstring says what it is."""
    words = documented(config.target_of(node))
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            yield from keys(value, f"{prefix}.{key}")
        elif not key.startswith("_"):
            yield f"{prefix}.{key}", value, key in words


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=map("=".join, CHOICES))
def test_a_choice_is_explained_in_80_columns(group: str, choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run", f"{group}={choice}", "--help")
    assert text.startswith(f"{group}={choice}\n")
    assert max(map(len, text.splitlines())) <= 80
    if group == "experiment":  # changes keys of others
        assert f"What {group}={choice} changes:\n" in text and "\n  training." in text
        return
    node = config.load([f"{group}={choice}"])[group]
    for key, value, _ in keys(node, group):
        line = f"\n  {key}={'…' if value == '???' else config.shown(value)}"
        assert line[:80].rpartition(" ")[0] in text, key


@pytest.mark.parametrize("learner", config.choices("learner"))
def test_every_setting_of_a_learner_is_explained(learner: str) -> None:
    node = config.load([f"learner={learner}"])["learner"]
    assert [key for key, _, explained in keys(node, "learner") if not explained] == []


def test_a_learner_says_what_it_is_and_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run", "learner=ewc", "--help")
    assert "PNAS 2017" in text and "Keeps of real data: Fisher information.\n" in text
    assert re.search(r"\n  learner\.penalty=5000\.0  a number >= 0 and <=\s+1000000\n      λ", text)
    assert re.search(r"\n  learner\.decay=0\.95  a number >= 0 and <= 1\n      γ", text)
    assert re.search(r"\n  learner\.fisher_images=512  a whole number >= 1 and\s+<= 1000000\n      ", text)
    assert "Permissions: all_tasks.\n" in shown(capsys, "run", "learner=joint", "--help")


def test_several_choices_are_explained_together(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "run", "learner=ewc", "dataset=folder", "seed=3", "--help")
    assert text.startswith("learner=ewc\n") and "\n\ndataset=folder\n" in text
    assert "\n  dataset.path=…  required; text\n" in text
    assert shown(capsys, "sweep", "learner=ewc", "-h") == shown(capsys, "run", "learner=ewc", "-h")
    general = shown(capsys, "run", "--help")
    assert shown(capsys, "run", "learner=nonsense", "--help") == general  # it lists the choices
    assert shown(capsys, "run", "seed=3", "best.yaml", "--help") == general


def test_args_sections_are_read_in_every_form() -> None:
    def adam(lr: float, beta1: float, beta2: float, warmup: int, noise: float) -> None: ...
    def plain() -> None: ...

    section = "    lr: Adam's; a rate. beta1, beta2: both\n        together.\n    warmup: steps: few\n"
    adam.__doc__ = plain.__doc__ = f"An optimiser.\n\nArgs:\n{section}"
    assert documented(adam) == {
        "lr": "Adam's; a rate.",
        "beta1": "both together.",
        "beta2": "both together.",
        "warmup": "steps: few",
    }
    assert documented(plain) == {}
