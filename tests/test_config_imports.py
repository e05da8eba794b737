"""What a `_target_` names: files of the user's under any name, and what is said of one that cannot be imported."""

import sys
from pathlib import Path
from typing import Any

import pytest

from ccsi import config
from ccsi.config import trust
from ccsi.errors import UserError

LEARNER = """
from dataclasses import dataclass
from ccsi.checks import Positive

@dataclass(kw_only=True, eq=False)
class Mine:
    gain: Positive = 1.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, at the end of the path, where the command line puts the working folder and `--config-dir`."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(trust, "TRUSTED", set())
    return tmp_path


def tree(target: str) -> dict[str, Any]:
    """A node whose target the user has typed."""
    config.trust_names(target)
    return {"_target_": target, "_partial_": True, "gain": 2.0}


@pytest.mark.parametrize(
    "name", ["learner", "my-learner", "my learner", "test", "ccsi", "types", "l2.v1", "2l", "лернер"]
)
def test_a_file_may_be_called_as_one_likes(name: str, folder: Path) -> None:
    (folder / f"{name}.py").write_text(LEARNER)
    assert config.build(tree(f"{name}.Mine"))().gain == 2.0
    target = config.target_of(tree(f"{name}.Mine"))
    assert target.__name__ == "Mine" and target is config.target_of(tree(f"{name}.Mine"))
    with pytest.raises(UserError, match="gain=-1: expected a number > 0"):
        config.check(tree(f"{name}.Mine") | {"gain": -1})


def refusal(target: str) -> str:
    with pytest.raises(UserError) as caught:
        config.check(tree(target), "learner.")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"learner._target_={target}: expected the full name of a callable ")


def test_a_module_that_is_missing_is_named_with_the_way_out(folder: Path) -> None:
    where = "its file must lie in the working folder, in a --config-dir or in a folder of PYTHONPATH"
    assert refusal("my_lerner.Mine") == f"(ModuleNotFoundError: No module named 'my_lerner'; {where})."
    assert refusal("ccsi.lerners.CCSI").startswith("(ModuleNotFoundError: No module named 'ccsi.lerners'; ")
    (folder / "mine.py").write_text(LEARNER)
    assert (
        refusal("mine.Mein")
        == f"(AttributeError: module 'mine' has no attribute 'Mein'; the module is {folder}/mine.py)."
    )
    assert refusal("Mine") == "(ValueError: a module, a dot and a name)."
    assert "expected the full name" not in refusal("..x.Mine")


@pytest.mark.parametrize("name", ["broken", "test"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import not_there", "line 3: ModuleNotFoundError: No module named 'not_there'"),
        ("import ccsi.not_there", "line 3: ModuleNotFoundError: No module named 'ccsi.not_there'"),
        ("from ccsi.learners import Nothing", "line 3: ImportError: cannot import name 'Nothing'"),
        ("1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("import json; json.loads('x')", "line 3: JSONDecodeError: Expecting value"),
        ("def f(:", "line 3: SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "line 3: SystemExit: 3"),
        ("None.x", "line 3: AttributeError: 'NoneType' object has no attribute 'x'"),
    ],
)
def test_an_error_of_the_users_module_is_shown_with_its_line(name: str, code: str, error: str, folder: Path) -> None:
    (folder / f"{name}.py").write_text(f"\n\n{code}\n")
    assert refusal(f"{name}.Mine").startswith(f"({folder}/{name}.py, {error}")


def test_an_error_of_a_module_it_imports_is_shown_where_it_is(folder: Path) -> None:
    (folder / "l2.py").write_text("import l2_parts")
    (folder / "l2_parts.py").write_text("\nx = y")
    assert refusal("l2.Mine") == f"({folder}/l2_parts.py, line 2: NameError: name 'y' is not defined)."
