"""Values as they are typed: any text where text is expected, advice that works, the data set by its path."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ccsi.config.compose
from ccsi import config
from ccsi.errors import UserError

PATH = ["dataset=folder", "dataset.max_per_class=3"]
AS_THEY_STAND = [
    "~/a",
    "my images",
    "a  b",
    "a#b",
    "a$b",
    "a$5_$10",
    "a{b",
    "a}b",
    "b (1)",
    "b[1]",
    "it's",
    'a"b',
    "a=b",
]
AS_THEY_STAND += [
    "ä ö",
    "a&b;c",
    "a!b",
    "<a>",
    "a\\b",
    "a:b",
    "-",
    "2024-01-01",
    "C:\\x y\\",
    "日本",
    "a`b`",
    "it's, b",
]
AS_THEY_STAND += ["2024", "007", "1e3", "1_000", "true", "False", "0x1f", "nan", "-inf", "1.50"]


@pytest.mark.parametrize("text", AS_THEY_STAND)
def test_text_is_what_was_typed(text: str) -> None:
    (parsed,) = config.parse([f"dataset.path={text}"])
    tree = config.as_typed(
        {"dataset": {"_target_": "ccsi.data.Folder", "path": parsed.value()}}, [f"dataset.path={text}"]
    )
    assert tree["dataset"]["path"] == text


def test_text_is_what_was_typed_in_every_way_to_type_it(tmp_path: Path) -> None:
    tree = config.load([*PATH, "dataset.path=~/b (1)", "name=1e3", "run_dir=007"])
    assert (tree["dataset"]["path"], tree["name"], tree["run_dir"]) == ("~/b (1)", "1e3", "007")
    assert tree["dataset"]["max_per_class"] == 3
    (tmp_path / "run.yaml").write_text(config.to_yaml(tree))
    again = config.from_arguments([str(tmp_path / "run.yaml"), "dataset.path=2024", "seed=7", "name=null"])
    assert (again["dataset"]["path"], again["name"], again["run_dir"], again["seed"]) == ("2024", None, "007", 7)
    assert config.load(["run_dir=null", "name='7'"])["run_dir"] is None


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
    | st.text("\"\\'$ a,{}[]", min_size=1)
)
def test_quotes_keep_any_text(text: str) -> None:
    if "${" not in text:
        (parsed,) = config.parse([f"name={ccsi.config.compose.quoted(text)}"])
        assert parsed.value() == text


@pytest.mark.parametrize("value", ["a,b", "[x]", "{x}", "{x,y}", '"a" b', "choice(1,2)"])
def test_advice_to_quote_works_when_it_is_followed(value: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load([*PATH, f"dataset.path={value}"])
    advice = re.search(r"'dataset\.path=.*\"'", str(caught.value))
    assert advice is not None, caught.value
    (typed,) = shlex.split(advice[0])
    assert config.load([*PATH, typed])["dataset"]["path"] == value
    if value == "a,b":
        assert advice[0] == "'dataset.path=\"a,b\"'"
        shell = subprocess.run(["bash", "-c", f"printf %s {advice[0]}"], capture_output=True, text=True, check=True)
        assert shell.stdout == typed


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("dataset.path=a${b}", "dataset.path: Interpolation key 'b' not found."),
        ("training.lr=${missing}", "training.lr: Interpolation key 'missing' not found."),
        (r"dataset.path=a\${b}", "dataset.path=a${b}: expected text without ${, which stands for the value of another"),
        ("dataset.path=a\udcff", r"'dataset.path=a\udcff' is not UTF-8"),
        ("dataset.path=a\nb\x00", "cannot be read; expected key=value"),
        ("images", "images cannot be read; expected key=value; a value with spaces is typed in quotes, as in 'data"),
        ("dataset.class_names=[a(1)", "cannot be read; expected key=value"),
        ("name=../x", "name=../x: expected a file's name, printable and without slashes."),
        ("name=..", "name=..: expected a file's name"),
        ("name=a/b", "name=a/b: expected a file's name"),
        ("name=", "name=: expected a file's name"),
    ],
)
def test_text_that_is_refused_gets_a_sentence(typed: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        config.check(config.load([*PATH, "dataset.path=x", typed]))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_texts_may_have_any_signs() -> None:
    assert config.parse(["sweep.warm_start=[~/a, b (1)]"])[0].value() == ["~/a", "b (1)"]


def test_a_file_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lr=0.1").mkdir()
    for name in ("lr=0.1/run.yaml", "lr=0.1.yaml"):
        Path(name).write_text(config.to_yaml(config.load([])))
        assert config.from_arguments([name, "seed=3"])["seed"] == 3
        assert config.from_arguments([str(tmp_path / name)])["seed"] == 0
    assert config.from_arguments(["~/lr=0.1/run.yaml"])["seed"] == 0
    with pytest.raises(UserError, match=r"^x/y=1/none\.yaml: there is no such file"):
        config.from_arguments(["x/y=1/none.yaml"])
    assert config.from_arguments(["run_dir=mine.yaml"])["run_dir"] == "mine.yaml"  # no file of this name


def test_the_data_set_is_inferred_from_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "set.npz"):
        Path(name).mkdir()
    for name in ("notes.txt", "B.NPZ"):
        Path(name).touch()
    for typed, kind in (("2024", "folder"), ("~/2024", "folder"), ("set.npz", "folder"), ("B.NPZ", "npz")):
        assert config.with_dataset([f"dataset.path={typed}"], "config") == [f"dataset={kind}", f"dataset.path={typed}"]
        words = "a folder" if kind == "folder" else "an .npz file"
        assert capsys.readouterr() == ("", f"dataset={kind}, because dataset.path is {words}.\n")
    for typed, words in (
        ("none", "does not exist"),
        ("none.npz", "does not exist"),
        ("notes.txt", "is neither a folder nor an .npz file"),
    ):
        with pytest.raises(UserError) as caught:
            config.from_arguments([f"dataset.path={typed}"])
        assert str(caught.value) == f"dataset.path={typed} {words}; expected a folder of images or an .npz file."
    for choice in ("dataset=npz", "dataset=pbcblood", "experiment=quick/pbcblood"):  # chosen, so it stands
        assert config.from_arguments(["dataset.path=2024", choice])["dataset"]["_target_"] == "ccsi.data.Npz"
    assert config.from_arguments(["dataset.path=2024", "experiment=own"])["dataset"]["_target_"] == "ccsi.data.Folder"
    assert capsys.readouterr().err == "dataset=folder, because dataset.path is a folder.\n"
    with pytest.raises(UserError, match=r"^no data set was chosen; expected dataset\.path=FOLDER, dataset\.path=FILE"):
        config.from_arguments(["experiment=own"])
    with pytest.raises(UserError, match=r"^dataset\.path is no setting of the data set chosen; add dataset=folder or"):
        config.from_arguments(["dataset.path=2024", "experiment=quick/digits"])
    assert capsys.readouterr() == ("", "")


def test_a_nested_choice_makes_no_folder_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "learner" / "mine").mkdir(parents=True)
    (tmp_path / "learner" / "mine" / "plain.yaml").write_text("defaults: [/learner/finetune@_here_]\n")
    monkeypatch.setattr(ccsi.config.compose, "ADDED", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    config.add_config_dir(tmp_path)
    assert config.load(["learner=mine/plain"])["name"] == "digits-mine-plain"


def test_a_foreign_configs_package_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, foreign = tmp_path / "site-packages/ccsi/configs", tmp_path / "site-packages/configs"
    for folder in (ours, foreign, tmp_path / "site-packages/ccsi/config"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    (tmp_path / "site-packages/pyproject.toml").touch()  # some wheels leave one there
    (foreign / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.setattr(ccsi.config.compose, "__file__", str(tmp_path / "site-packages/ccsi/config/compose.py"))
    assert config.config_dir() == ours
