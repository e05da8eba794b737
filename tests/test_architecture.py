"""The house as DESIGN draws it: sizes, words, import circles, what is packaged. The layers are import-linter's."""

import ast
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "ccsi").rglob("*.py"))
OLD_NAMES = (
    r"_?(?:Book|Referee|Supply|Events|Rungs|Halving|Median|Place|Attempts|Workers|Unheard|LIVE|settings?|lots|given|"
    r"lags|may_go_on|recalled|spared|hopeless|chosen|decided|places?|finished|room|told|answers|visit|tidy|gone|"
    r"alive|led|leads|together|tell|alone|look_into|claimed|rehearse|offer|keeps|take_up|lay_down|judge|solve|"
    r"val_macro|fresh_start)"
)
"""Names of the first version that have a term of the field's since."""
STILL_THERE = {
    ("ccsi/tracking/weights_and_biases.py", "settings"),  # an argument of wandb.init
}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_files_are_read_in_one_sitting() -> None:
    assert {str(path): n for path in FILES if (n := path.read_text().count("\n")) > 320} == {}


def test_functions_fit_a_screen() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert {name: n for name, n in lengths.items() if n > 70} == {}


def test_one_function_has_many_parameters() -> None:
    counts = {}
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        counts[name] = sum(argument.arg not in ("self", "cls") for argument in arguments)
    assert [name.split()[-1] for name, n in counts.items() if n > 10] in ([], ["run"])  # the spine


def test_classes_have_few_public_methods() -> None:
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name[0] != "_"]
                found[f"{path.relative_to(ROOT)} {node.name}"] = len(methods)
    assert {name: n for name, n in found.items() if n > 18} == {}


def test_no_module_imports_itself_through_others() -> None:
    """At module level, inside functions and under TYPE_CHECKING alike: grimp reads all of them."""
    graph = grimp.build_graph("ccsi", cache_dir=None)
    for module in sorted(graph.modules):
        for imported in graph.find_modules_directly_imported_by(module):
            assert not graph.chain_exists(imported, module), f"{module} imports {imported}, which comes back to it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_prose_are_the_fields_own(path: Path) -> None:
    text, names = path.read_text(), set()
    for node in ast.walk(ast.parse(text)):  # variables, attributes, parameters and keywords, classes and functions
        names |= {getattr(node, field, None) for field in ("id", "attr", "arg", "name", "asname")}
    old = {name for name in names if isinstance(name, str) and re.fullmatch(OLD_NAMES, name)}
    assert {name for name in old if (str(path.relative_to(ROOT)), name) not in STILL_THERE} == set()
    archaic = re.findall(r"(?i)\b(?:tell|told|goes? on|breaks? off|broke off|whoever|nobody)\b", text)
    assert archaic == []


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES if path.name == "__init__.py"}
    assert set(listed) == found | {"ccsi.configs", "ccsi.cluster"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests/benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccsi"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name
