"""The command `ccsi` itself: its subcommands, its options, its exit codes."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ccsi.cli
from ccsi import cli
from ccsi.__main__ import main as python_m_ccsi

COMMANDS = "evaluate, export, extend, fit, help, predict, report, run, show, status, sweep, train"

GREET = '''"""Say a word."""

import os, signal
from ccsi.errors import UserError

RESUME = "say it again"


def main(arguments):
    if arguments == ["bad"]:
        raise UserError("bad is no word; expected a good one.")
    if arguments == ["killed"]:
        os.kill(os.getpid(), signal.SIGTERM)
    print("word", *arguments)
    return 7
'''


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subcommand of its own, in a file of its own: nothing else is edited."""
    (tmp_path / "greet.py").write_text(GREET)
    monkeypatch.setattr(ccsi.cli, "__path__", [*ccsi.cli.__path__, str(tmp_path)])
    yield
    sys.modules.pop("ccsi.cli.greet", None)


@pytest.mark.usefixtures("greet")
def test_a_subcommand_is_one_file_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["greet", "a", "b"]) == 7
    assert capsys.readouterr().out == "word a b\n"
    assert cli.main([]) == 0
    assert "  greet    Say a word.\n" in capsys.readouterr().out


@pytest.mark.usefixtures("greet")
def test_bad_input_is_one_sentence_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["greet", "bad"]) == 2
    assert capsys.readouterr() == ("", "ccsi: bad is no word; expected a good one.\n")


@pytest.mark.usefixtures("greet")
def test_sigterm_is_handled_as_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["greet", "killed"]) == 130
    assert capsys.readouterr() == ("", "ccsi: interrupted; say it again.\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["swep"], "swep is not a command; did you mean sweep?"),
        (
            ["xyz"],
            f"xyz is not a command; expected one of {COMMANDS}; see ccsi --help.",
        ),
        (["dataset=digits"], "dataset=digits is not a command; for a single run, type ccsi run dataset=digits."),
        (["help", "xyz"], "xyz is not a command; expected one of"),
        (["run", "--shwo"], "--shwo is not an option; expected key=value, or --help or --show or --config-dir."),
        (["sweep", "--shwo"], "--shwo is not an option; expected key=value, or --help"),
        (["train", "--shwo"], "--shwo is not an option; expected key=value, or --help"),
        (["run", "--config-dir"], "--config-dir has no value; expected a folder of configs: --config-dir DIR."),
        (["run", "--config-dir="], "--config-dir has no value; expected a folder of configs: --config-dir DIR."),
    ],
)
def test_what_is_no_command_or_option_gets_one_sentence(
    typed: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"ccsi: {words}") and err.count("\n") == 1


@pytest.mark.parametrize("typed", [["--config-dir", "mine"], ["--config-dir=mine"]])
def test_a_config_dir_is_passed_on(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Path] = []
    monkeypatch.setattr("ccsi.config.add_config_dir", given.append, raising=False)
    assert cli.main(["run", *typed, "--show"]) == 0
    assert given == [Path("mine")] and "_target_: ccsi.experiment.run" in capsys.readouterr().out


def test_python_m_ccsi_is_ccsi_run(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for call, arguments in (
        (cli.main, ["run", "seed=3", "--show"]),
        (python_m_ccsi, ["seed=3", "--show"]),
        (python_m_ccsi, ["run", "seed=3", "--show"]),
    ):
        assert call(arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2] != ""
    assert python_m_ccsi(["help"]) == cli.main(["--help"]) == 0
    texts = capsys.readouterr().out.split("Data-free")
    assert texts[1] == texts[2]


def test_help_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    """Help is shown at once: in a fresh process nothing large is imported for it."""
    code = (
        "import sys; from ccsi.cli import main\n"
        "for command in ('run', 'sweep', 'train', 'status', 'report', 'help'):\n"
        "    assert main([command, '--help']) == 0\n"
        "assert main(['--version']) == 0\n"
        "print(sorted({'torch', 'ray', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_may_be_cut_by_its_reader(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ccsi", "run", "--help"]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_has_only_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help and messages hold signs that it lacks, and so may paths and the names of classes."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    for typed in (["--help"], *([name, "--help"] for name in cli.commands()), ["run", "learner=ewc", "--help"]):
        assert cli.main(typed) == 0
    assert cli.main(["run", "dataset.path=ä×ö"]) == 2
    for stream in streams.values():
        stream.flush()
    text, said = (stream.buffer.getvalue().decode("ascii") for stream in streams.values())
    assert "[key=value \\u2026]" in text and "dataset.path=\\xe4\\xd7\\xf6 does not exist" in said


def test_a_class_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the user names it, and only then: other modules there are never imported."""
    (tmp_path / "my_nets.py").write_text("def net():\n    '''Mine.'''\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert cli.main(["help"]) == 0 and sys.path == before
    assert cli.main(["run", "model._target_=my_nets.net", "--show"]) == 0
    import my_nets

    assert my_nets.net.__doc__ == "Mine." and sys.path[-1] == str(tmp_path)
    capsys.readouterr()
