"""The documentation says what is so: defaults, commands and examples are checked against the code."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fork_server import Server

from ccsi import config
from ccsi.cli import main
from ccsi.data import Digits
from ccsi.model.card import KINDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
METHODS = (DOCS / "methods.md").read_text()
LEARNERS = list(config.choices("learner"))
SHARED = ("budget", "generation", "synthesis")
"""Groups composed into several learners, whose defaults stand once on the page."""


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def typed(text: str) -> list[list[str]]:
    """The words of each `ccsi` command in a page's shell blocks."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ccsi ")]


def entry(heading: str) -> str:
    """A section of the methods page."""
    return re.split(r"\n#{2,3} ", METHODS.partition(f"\n### {heading}\n")[2])[0]


def stated(text: str) -> dict[str, Any]:
    """The `key=value` pairs of a text's "Defaults:"."""
    listed = re.search(r"Defaults: (.*?)(?:\n\n|\n- |\Z)", text, flags=re.DOTALL)
    assert listed is not None, text
    return {key: yaml.safe_load(value) for key, value in re.findall(r"`([\w.]+)=([^`]*)`", listed[1])}


def own(group: str, name: str) -> dict[str, Any]:
    """What a file sets itself, dotted, without what it includes; for CI what it changes of CCSI."""
    tree = yaml.safe_load((config.config_dir() / group / f"{name}.yaml").read_text())
    flat = {key.removeprefix("learner."): value for key, value in config.flat(tree).items()}
    return {k: v for k, v in flat.items() if k not in ("defaults", "name") and not k.rpartition(".")[2].startswith("_")}


@pytest.mark.parametrize("learner", LEARNERS)
def test_each_learner_has_an_entry_with_its_defaults(learner: str) -> None:
    text = entry(learner)
    for line in ("- Paper: ", "- Defaults: ", "- Keeps: "):
        assert line in text, line
    assert re.search(r"\n    \S", text), "no formula"
    assert stated(text) == own("learner", learner)
    node = config.load([f"learner={learner}"])["learner"]
    kept = text.partition("- Keeps: ")[2].partition("\n")[0]
    kinds = [kind for kind in getattr(config.target_of(node), "stored_buffers", {}).values() if kind]
    assert [kind for kind in kinds if kind.lower() not in kept.lower()] == []
    if learner in ("ccsi", "ci"):
        assert "class means" in kept and ("moments" in kept) == (learner == "ccsi")
    assert (kept == "nothing.") == (learner not in ("joint", "ccsi", "ci") and not kinds)


@pytest.mark.parametrize("group", SHARED)
def test_shared_settings_have_their_defaults(group: str) -> None:
    text = METHODS.partition(f"\n**`{group}`**")[2]
    assert stated(text) == {f"{group}.{key}": value for key, value in own(group, "default").items()}


def test_there_is_no_entry_without_a_learner() -> None:
    assert sorted(re.findall(r"^### (.*)$", METHODS, flags=re.MULTILINE)) == LEARNERS


COMMANDS = {shlex.join(words): words for page in PAGES for words in typed(page.read_text())}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_composes(command: str) -> None:
    _, name, *arguments = COMMANDS[command]
    if "--config-dir" in arguments or name.startswith("-") or any(a.endswith(".yaml") for a in arguments):
        return  # run by the tests below, and by those of the command line
    keys = [a for a in arguments if not a.startswith(("-", "resume=", "sweep.space", "~sweep.space"))]  # see tests/tune
    if "experiment=own" in keys:  # what the path is decides
        keys.insert(0, "dataset=folder")
    if name == "run":
        settings = config.load(keys)
        if "--help" not in arguments:
            config.check(settings)
    elif name in ("fit", "extend", "predict", "evaluate", "export"):
        data = ["dataset=folder", "dataset.path=x"] if name in ("fit", "extend") else []
        assert config.load([*data, *(a for a in keys if "=" in a)], name)["_partial_"]
    elif name in ("sweep", "train"):
        assert config.load(keys, name)["name"]
    else:
        assert name in ("status", "report", "show")


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(nav: Any) -> list[str]:
        inner = nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else None
        return [nav] if inner is None else [page for part in inner for page in pages(part)]

    assert sorted(pages(settings["nav"])) == sorted(str(page.relative_to(DOCS)) for page in PAGES)
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == [], page


class Example:
    """A page's files in `folder`, and its commands, in processes of their own."""

    def __init__(self, page: str, folder: Path, server: Server) -> None:
        self.text, self.folder, self.server = (DOCS / page).read_text(), folder, server
        self.files = dict(re.findall(r"`([\w/]+\.\w+)`[^`\n]*:\n\n```\w+\n(.*?)```", self.text, flags=re.DOTALL))
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    def run(self, words: list[str], *more: str) -> dict[str, Any]:
        """Run one of the commands as typed in `folder`."""
        place = words.index("--config-dir") + 1
        here = [*words[:place], str(self.folder / words[place]), *words[place + 1 :]]
        return self.server(*here[1:], *more)


SHORT = ["dataset.max_per_class=10", "training.epochs=1", "report=false"]


def test_a_learner_is_one_file_and_one_config(tmp_path: Path, ccsi_process: Server) -> None:
    example = Example("add-a-learner.md", tmp_path, ccsi_process)
    code = example.files["my_learners/l2.py"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    explain, run = [words for words in typed(example.text)]
    shown = example.run(explain)
    assert (
        shown["rc"] == 0
        and "learner.penalty=1.0  a number >= 0 and <= 1000000\n      weight of the squared" in shown["stdout"]
    )
    done = example.run(run, *SHORT, "experiment=quick/digits", "training.first_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert done["rc"] == 0, done["stderr"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["learner"], result["kind"], result["data_free"]) == ("l2", "regularisation", True)
    assert '"loss_l2"' in (tmp_path / "run/metrics.jsonl").read_text()
    refused = example.run([word.replace("penalty=0.1", "penalty=-1") for word in run])
    assert refused["rc"] == 2 and "learner.penalty=-1: expected a number >= 0" in refused["stderr"]


def test_a_data_set_is_one_file_and_one_config(tmp_path: Path, ccsi_process: Server) -> None:
    example = Example("add-a-dataset.md", tmp_path, ccsi_process)
    (run,) = typed(example.text)
    done = example.run(run, *SHORT, f"run_dir={tmp_path / 'run'}")
    assert done["rc"] == 0, done["stderr"]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["dataset"]["class_names"] == ["one", "two", "three", "four"] and result["dataset"]["val"] == 80


def test_a_tracker_is_one_file_and_one_config(tmp_path: Path, ccsi_process: Server) -> None:
    example = Example("add-a-tracker.md", tmp_path, ccsi_process)
    (run,) = typed(example.text)
    done = example.run(run, *SHORT, "training.first_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert done["rc"] == 0, done["stderr"]
    assert (tmp_path / "run/done.txt").read_text() == "5 tasks\n"
    (tmp_path / "run/result.json").unlink()
    (tmp_path / "run/metrics.jsonl").write_text("")
    refused = example.run(run, *SHORT, "training.first_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert refused["rc"] == 2 and "metrics.jsonl holds 0 whole lines" in refused["stderr"]


def test_a_run_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks((DOCS / "api" / "index.md").read_text(), "python")
    monkeypatch.chdir(tmp_path)
    short = ", ".join(f'"{override}"' for override in [*SHORT, "training.first_epochs=1"])
    exec(code.replace('"run_dir=run"', f'"run_dir=run", {short}'), {})
    assert capsys.readouterr().out.strip().endswith("finetune")
    result = json.loads((tmp_path / "run/result.json").read_text())
    explained = set(re.findall(r"`(\w+)`", (DOCS / "run-folder.md").read_text()))
    assert {*result, *result["test"], *result["val"]} - explained == set()


def test_a_model_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's example, with less training."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "models.md").read_text()
    example = text.partition("## An example")[2].partition("## Commands")[0]
    quick = ["training.first_epochs=1", "dataset.size=8", "report=false", "tracking.console.quiet=true"]
    for number, (_, *words) in enumerate(typed(example)):
        assert main([*words, *(quick if number == 0 else quick[2:] if words[0] == "extend" else [])]) == 0
    said = capsys.readouterr().out
    assert "digits_2025.csv: 359 images" in said and "digits_2026: acil, 10 classes, 4 new: 6, 7, 8, 9" in said
    record = json.loads((tmp_path / "digits_2026/model.json").read_text())
    explained = set(re.findall(r"`(\w+)`", text))
    assert {*record, *record["tasks"][-1]} - explained == set()
    kinds = {item["kind"] for item in (*record["reference"], *record["tasks"][-1]["stored"])}
    assert kinds <= set(KINDS)
    files = {file.name for file in (tmp_path / "digits_2026").iterdir()}
    assert files <= set(re.findall(r"`([\w.]+\.\w+)`", text))


def test_a_model_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks((DOCS / "models.md").read_text(), "python")
    short = '"training.first_epochs=1", "dataset.size=8", "report=false", "tracking.console.quiet=true"'
    for name, classes in (("blood_2025", "[0,1,2]"), ("blood_2026", "[3,4]"), ("slides", None), ("labelled", None)):
        more = f", overrides=['classes={classes}', 'report=false']" if name == "blood_2026" else ""
        code = code.replace(f'"{name}"', f'"digits"{more}' if classes else '"images.npz", split="test"')
    code = code.replace('["learner=acil"]', f'["learner=acil", "classes=[0,1,2]", {short}]')
    data = Digits(size=8).load()
    keep = data.test.labels < 5
    arrays = {"images": data.test.images[keep, 0].numpy(), "labels": data.test.labels[keep].numpy()}
    named: dict[str, Any] = {f"{s}_{key}": value for s in ("train", "val", "test") for key, value in arrays.items()}
    np.savez("images.npz", **named)
    exec(code, {})
    assert (tmp_path / "model_2026/model.json").exists()


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > len(PAGES)
    for page in built:
        loaded = re.findall(r"<(?:script|img|link|iframe|source)[^>]*(?:src|href)=\"([^\"]*)\"", page.read_text())
        assert [url for url in loaded if "//" in url] == [], page
    assert "@import" not in "".join(sheet.read_text() for sheet in (tmp_path / "site").rglob("*.css"))


def test_the_citation_file_is_valid() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0" and cited["authors"] == [{"name": "The ccsi developers"}]
    assert {"message", "title", "license", "version", "type"} <= cited.keys()
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and cited["version"] == version[1]
