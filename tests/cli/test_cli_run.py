"""What one types: help, one run in a process of its own, and every mistake in one sentence."""

import errno
import fcntl
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import Server
from tiny_run import TINY, run_tiny

import ccsi.config
from ccsi.__main__ import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, where a run without run_dir would be put, and no account to log in with."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "CCSI_DATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "here"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence on stderr with which `arguments` are refused."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ccsi: ") and err[-2:] in (".\n", "?\n") and err.count("\n") == 1, err
    return err


MISTAKES = {
    # keys and groups
    "datset=digits": "datset is not a setting; did you mean dataset?",
    "learner.synthesis.iteration=5": "did you mean learner.synthesis.iterations?",
    "+learner.foo=1": "learner.foo is not a setting",
    "learner.synthesis={w_vt:1}": "learner.synthesis has nothing of the name typed inside it; expected some of iter",
    "learner.synthesis.w_tv.x=1": "learner.synthesis.w_tv.x is not a setting",
    "dataset=digit": "dataset=digit names no file in configs/dataset; expected one of bloodmnist,",
    "experiment=quick": "experiment=quick names no file in configs/experiment; expected one of own, quick/digits,",
    "dataset=null": "dataset=null: expected one of dataset's choices",
    "training=[1]": "training=[1]: expected one of training's choices",
    "dataset=npz": "dataset.path is not set; expected text",
    "seed": "seed cannot be read; expected key=value",
    "seed=1,2": "seed=1,2 has several values",
    "scenario.classes_per_task=[1": "cannot be read; expected key=value",
    "--shwo": "--shwo is not an option; expected key=value, or --help or --show",
    # types and ranges
    "seed=1.5": "seed=1.5: expected a whole number >= 0",
    "seed=true": "seed=true: expected a whole number >= 0",
    "seed=-1": "seed=-1: expected a whole number >= 0",
    "training.epochs=0": "training.epochs=0: expected a whole number >= 1",
    "training.epochs=-3": "training.epochs=-3: expected a whole number >= 1",
    "training.batch_size=0": "training.batch_size=0: expected a whole number >= 2",
    "training.lr=0": "training.lr=0: expected a number > 0",
    "training.lr=nan": "training.lr=nan: expected a number > 0",
    "training.lr=inf": "training.lr=inf: expected a number > 0",
    "training.lr=fast": "training.lr=fast: expected a number > 0",
    "training.schedule=linear": "training.schedule=linear: expected one of cosine, plateau, constant",
    "learner.synthesis.iterations=0": "learner.synthesis.iterations=0: expected a whole number >= 1",
    "learner.synthesis.per_class=0": "per_class=0: expected a whole number >= 1 and <= 1000000, or null",
    "learner.synthesis.per_class=null": "learner.synthesis.batches",
    "learner.synthesis.batches=3": "learner.synthesis.per_class",
    "learner.synthesis.w_tv=-1": "learner.synthesis.w_tv=-1: expected a number >= 0 and <= 1000000, or a list",
    "learner.synthesis.w_tv=[0.1,nan]": "learner.synthesis.w_tv=[0.1, nan]: expected",
    "learner.synthetic_ratio=1": "learner.synthetic_ratio=1: expected a number >= 0 and <= 0.95",
    "learner.idc.rho=[0.9]": "learner.idc.rho=[0.9] has 1 values; expected one number, or one for each of the 2 tasks",
    "learner.w_idc=-1": "learner.w_idc=-1: expected a number >= 0",
    "learner.imprint=1": "learner.imprint=1: expected true or false",
    "learner.idc.target=test": "learner.idc.target=test: expected one of new_train, unlabeled_pool, as_released",
    "threads=0": "threads=0: expected a whole number >= 1",
    "checkpoint_every=-1": "checkpoint_every=-1: expected a number >= 0",
    "model.groups=0": "model.groups=0: expected a whole number >= 1",
    "tracking.wandb.mode=on": "tracking.wandb.mode=on: expected one of offline, online, disabled",
    # what would overflow, allocate or loop without end
    "training.lr=1e10": "training.lr=10000000000.0: expected a number > 0 and <= 1000",
    "training.lr=1e308": "expected a number > 0 and <= 1000",
    "training.label_smoothing=1.0": "training.label_smoothing=1.0: expected a number >= 0 and < 1",
    "training.epochs=18446744073709551616": "expected a whole number >= 1 and <= 1000000",
    "training.batch_size=4611686018427387904": "expected a whole number >= 2 and <= 65536",
    "training.augment.gamma=1e308": "training.augment.gamma=1e+308: expected a number >= 0 and <= 10",
    "learner.synthesis.w_tv=1e308": "expected a number >= 0 and <= 1000000",
    "learner.synthesis.iterations=4611686018427387904": "expected a whole number >= 1 and <= 1000000",
    "learner.synthetic_ratio=0.999999": "expected a number >= 0 and <= 0.95",
    "dataset.size=1000000": "dataset.size=1000000: expected a whole number >= 1 and <= 4096",
    "seed=9223372036854775808": "seed=9223372036854775808: expected a whole number >= 0 and < 9223372036854775808",
    "threads=100000": "threads=100000: this machine has",
    "training.warmup=9": "training.warmup=9: task 1 has 1 steps; expected fewer than these",
    "+watch=1": "watch=1: expected ",
    "~_target_": "_target_ is missing; expected a complete configuration",
    "hydra=1": "hydra=1: expected a key of a run or a sweep; Hydra's own are not used",
    "hydra.mode=MULTIRUN": "hydra.mode=MULTIRUN: expected a key of a run or a sweep",
    # what only shows when things are put together
    "scenario.classes_per_task=3": "scenario.classes_per_task=3 makes 9 classes, but the data set has 10",
    "scenario.classes_per_task=[4,4]": "scenario.classes_per_task=[4, 4] makes 8 classes",
    "scenario.classes_per_task=[]": "scenario.classes_per_task=[] makes 0 classes",
    "scenario.classes_per_task=0": "or {first: …, increment: …}",
    "scenario.class_order=[0,0,2,3,4,5,6,7,8,9]": "expected each of the classes 0 to 9 exactly once",
    "scenario.class_order=[0,1]": "expected each of the classes 0 to 9 exactly once",
    "model.groups=5": "model.groups=5 does not divide a layer's 16 channels",
    "device=gpu": "device=gpu: expected one of auto, cpu, cuda",
    "tracking.wandb.mode=online": "found no key: set WANDB_API_KEY or run `wandb login`",
    "model=resnet18 model.weights=nothing.pth": "model.weights=nothing.pth: cannot be used for resnet18",
    "model=resnet18 model.weights=IMAGENET": "expected a state_dict file ending in .pt or .pth, or one of IMAGENET",
    "dataset=npz dataset.path=nothing.npz": "nothing.npz does not exist; expected an .npz file in MedMNIST's layout",
    "run_dir=/dev/null": "run_dir=/dev/null is a file; expected a folder",
    "run_dir=/dev/null/run": "run_dir=/dev/null/run cannot be written (Not a directory)",
    "run_dir=/proc/run": "run_dir=/proc/run cannot be written",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence(mistake: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_data = [o for o in TINY if not o.startswith("dataset.")] if mistake.startswith("dataset=") else TINY
    assert MISTAKES[mistake] in refusal(capsys, *own_data, *mistake.split())
    assert list(here.iterdir()) == list((here.parent / "home").iterdir()) == []


def test_cuda_where_there_is_none(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # on a machine with a GPU too
    assert "device=cuda: this machine has no CUDA GPU" in refusal(capsys, *TINY, "device=cuda")
    assert list(here.iterdir()) == []


def test_files_that_are_no_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in {"a.yaml": "seed: [", "b.yaml": "- 1", "c.yaml": "seed: 1"}.items():
        (here / name).write_text(content)
        assert refusal(capsys, name).startswith(f"ccsi: {name}: ")
    aliases = "".join(f"{b}: &{b} [{f'*{a},' * 10}]\n" for a, b in pairwise("abcdefghi"))
    for name, text in {"e.yaml": f"a: &a [x]\n{aliases}", "f.yaml": "[" * 9000}.items():
        (here / name).write_text(text)  # aliases for 10**8 values; lists in lists
        assert re.match(rf"ccsi: {name}: (its aliases repeat too many|cannot be read as a conf)", refusal(capsys, name))
        (here / name).unlink()
    assert "nothing.yaml: there is no such file" in refusal(capsys, "nothing.yaml")
    (here / "d.yaml").write_text(ccsi.config.to_yaml(ccsi.config.load(TINY)))
    assert "seed: Interpolation key 'missing' not found" in refusal(capsys, "d.yaml", "seed=${missing}")
    assert "foo is not a setting" in refusal(capsys, "d.yaml", "foo=1")
    assert "learner: expected a group of settings" in refusal(capsys, "d.yaml", "learner=joint")
    assert "seed=1,2 has several values" in refusal(capsys, "d.yaml", "seed=1,2")
    assert "expected one file" in refusal(capsys, "d.yaml", "d.yaml")
    assert sorted(path.name for path in here.iterdir()) == ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]


def snapshot(folder: Path) -> dict[str, Any]:
    return {str(path): path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_folders_that_hold_something(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(here / "done")
    (here / "other").mkdir()
    (here / "other" / "thesis.tex").write_text("precious")
    before = snapshot(here)
    said = refusal(capsys, *TINY, "run_dir=done", "seed=7")
    assert "done holds a finished run with seed=0, not 7; use the same settings to see it, or another run_dir." in said
    assert "other holds other files (thesis.tex)" in refusal(capsys, *TINY, "run_dir=other")
    assert snapshot(here) == before


def test_a_finished_run_shows_its_figures_again(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [*TINY, "tracking.console.quiet=false", "run_dir=done"]
    assert main(typed) == 0
    first, before = capsys.readouterr().out, snapshot(here)
    monkeypatch.setattr(sys.modules["ccsi.experiment.run"], "set_up", None)  # no data is read for it
    assert main([*typed, "report=true"]) == 0  # a key that does not touch the result
    again, err = capsys.readouterr()
    assert "accuracy matrix, test (%)" in again and again == first
    assert err == f"{here / 'done'} holds this run, finished: these are its figures; no image was read again.\n"
    assert main([*TINY, "run_dir=done"]) == 0  # quiet
    assert capsys.readouterr() == ("", "") and snapshot(here) == before
    (here / "done" / "result.json").write_text("{")
    assert "result.json is damaged" in refusal(capsys, *typed)


HOME_PATHS = {
    "run dataset=folder dataset.path=~/none": "{home}/none is not a folder",
    "run dataset=npz dataset.path=~/none.npz": "{home}/none.npz does not exist",
    "run dataset.path=~/none": "dataset.path=~/none does not exist",
    "run run_dir=~/file": "run_dir={home}/file is a file",
    "run share_data=~/file/x": "{home}/file/x",
    "run dataset=bloodmnist dataset.root=~/file": "{home}/file",
    "run ~/none.yaml": "{home}/none.yaml: there is no such file",
    "run --config-dir ~/file": "~/file is not a folder",
    "run --config-dir ~/other": "learner/ewc.yaml: configs/ has a file of this name already",
    "status ~/none": "{home}/none",
    "sweep resume=~/none": "resume={home}/none",
    "sweep sweep.dir=~/other": "sweep.dir={home}/other exists already",
    "train ray.address=10.0.0.1:1 run_dir=~/file": "run_dir={home}/file is a file",
}


@pytest.mark.parametrize("typed", HOME_PATHS)
def test_a_tilde_is_the_home_folder_in_every_path(typed: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = here.parent / "home"
    (home / "other" / "learner").mkdir(parents=True)
    for name in ("file", "other/learner/ewc.yaml"):
        (home / name).touch()
    own_data = [o for o in TINY if not o.startswith("dataset")] if "dataset" in typed else TINY
    command, *arguments = typed.split()
    more = own_data if command in ("run", "train") and "yaml" not in typed else []
    assert HOME_PATHS[typed].format(home=home) in refusal(capsys, command, *more, *arguments)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("typed", ["run", "sweep resume=x", "status x", "train"])
def test_a_working_folder_that_is_gone(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the working folder is gone or unreadable; change to another one." in refusal(capsys, *typed.split())
    assert main([typed.split()[0], "--help"]) == 0
    monkeypatch.chdir(tmp_path)


def test_a_folder_in_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run").mkdir()
    with (here / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "run is in use by another process" in refusal(capsys, *TINY, "run_dir=run")
    assert [path.name for path in (here / "run").iterdir()] == [".lock"]
    assert main([*TINY, "run_dir=run"]) == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:  # root, who may run the tests, may write everywhere
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert f"cannot be written ({os.strerror(number)})" in refusal(capsys, *TINY, "run_dir=locked/run")


def test_a_name_too_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(File name too long)" in refusal(capsys, *TINY, f"run_dir={'x' * 300}")


@pytest.mark.parametrize("group", ["synthesis", "resources", "recipe"])
def test_a_group_that_is_no_choice_here(here: Path, capsys: pytest.CaptureFixture[str], group: str) -> None:
    assert f"{group} cannot be chosen here" in refusal(capsys, f"{group}=default")


@pytest.mark.parametrize("override", ["sweep=default", "sweep.num_samples=2", "+sweep.x=1"])
def test_a_single_run_has_no_sweep(here: Path, capsys: pytest.CaptureFixture[str], override: str) -> None:
    assert f"{override}: expected no setting of sweeps" in refusal(capsys, "experiment=rivals/digits", override)


def test_learning_on_test_images_where_test_is_out_of_reach(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = refusal(capsys, *TINY, "learner.idc.target=as_released", "evaluate_test=false", "run_dir=run")
    assert "learner.idc.target=as_released trains on test images" in err and not (here / "run").exists()


def test_a_home_folder_is_one(here: Path) -> None:
    assert main([*TINY, "run_dir='~/run'"]) == 0  # as a shell leaves it that does not expand it
    assert (here.parent / "home" / "run" / "result.json").is_file() and not list(here.iterdir())


def test_a_full_disk(here: Path, ccsi_process: Server) -> None:
    folder = here / "new" / "run"
    full = ccsi_process(*TINY, f"run_dir={folder}", file_size=1500)  # not even config.yaml
    assert full["rc"] == 2 and full["stderr"].count("\n") == 1
    assert "config.yaml cannot be written (File too large)" in full["stderr"]
    assert list(here.iterdir()) == []
    full = ccsi_process(*TINY, f"run_dir={folder}", file_size=20_000)  # no checkpoint
    assert full["rc"] == 2 and full["stderr"].count("\n") == 1
    assert "checkpoint.pt cannot be written (File too large)" in full["stderr"]
    assert not list(folder.glob("*.part")) and not (folder / "checkpoint.pt").exists()
    assert ccsi_process(*TINY, f"run_dir={folder}")["rc"] == 0


def test_help_names_every_choice_and_only_real_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h", "dataset=nonsense"]) == 0
    text = capsys.readouterr().out.replace("\n" + " " * 14, " ")  # a group's choices may take several lines
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for path in ccsi.config.config_dir().glob("*/**/*.yaml"):
        group, _, choice = str(path.relative_to(ccsi.config.config_dir()).with_suffix("")).partition("/")
        if group in ccsi.config.groups():
            assert (choice in re.split(r"[, ]+", lines[group])) == (path.stem != "common")
        else:  # nothing to choose here
            assert group not in lines
    real: set[str] = set()
    for dataset in ("digits", "npz", "bloodmnist"):
        real |= {"report"} | set(ccsi.config.flat(ccsi.config.load([f"dataset={dataset}"])))
    shown = set(re.findall(r"([a-z_]+(?:\.[a-z_0-9]+)*)=", text.partition("Common settings (key=value):")[2]))
    assert len(shown) > 20 and shown <= real


def test_what_show_prints_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--show"]) == 0
    (here / "run.yaml").write_text(capsys.readouterr().out)
    assert main(["run.yaml", "run_dir=fromfile"]) == 0
    assert main([*TINY, "run_dir=typed"]) == 0
    fresh = [(here / name / "result.json").read_text() for name in ("fromfile", "typed")]
    digests = [re.findall(r'"weights_sha256": "(\w+)"', text) for text in fresh]
    assert digests[0] == digests[1] != []


def test_without_run_dir_each_setting_has_its_own_folder(here: Path) -> None:
    assert main([*TINY, "learner.w_idc=0"]) == main([*TINY, "learner.w_idc=1"]) == main([*TINY, "seed=3"]) == 0
    names = sorted(path.name for path in (here / "runs").iterdir())
    assert len(names) == 3
    assert [re.sub(r"-[0-9a-f]{6}$", "", name) for name in names] == [f"digits-ccsi-s{seed}" for seed in (0, 0, 3)]


def test_the_command_itself(tmp_path: Path) -> None:
    """Pictures and all: exit code, stdout and stderr as they should be, and nothing written beside the run's folder."""
    for name in ("home", "temp", "work"):
        (tmp_path / name).mkdir()
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("MPL", "XDG", "WANDB", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "ccsi", *TINY, "tracking.console.quiet=false", "report=true", "run_dir=run"],
        cwd=tmp_path / "work",
        env=keep | {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temp"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy matrix, test (%)" in done.stdout and "data-free" in done.stdout
    summary = (tmp_path / "work/run/summary.txt").read_text().splitlines()
    lines = [line for line in done.stderr.splitlines() if line not in summary]
    assert lines and all(line.startswith(("digits-ccsi-s0 starts: ", "task ")) for line in lines), done.stderr
    assert done.stderr.splitlines()[1 : 1 + len(summary)] == summary
    assert "left" in next(line for line in lines if line.startswith("task 1/3 done after "))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["run"]
    assert list((tmp_path / "home").iterdir()) == []
    pictures = {path.name for path in (tmp_path / "work" / "run" / "plots").glob("*.png")}
    assert pictures == {"accuracy_matrix.png", "accuracy_over_tasks.png", "confusion.png", "impressions.png"}
    figures = run_tiny(tmp_path / "again")
    assert f'"weights_sha256": "{figures["weights_sha256"]}"' in (tmp_path / "work" / "run" / "result.json").read_text()
