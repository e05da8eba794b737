"""W&B: an offline run can be read by W&B's own reader and says nothing about machine or account."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ccsi.errors import UserError
from ccsi.tracking import RunStart, TaskEnd, WeightsAndBiases
from ccsi.tracking.weights_and_biases import has_key, portable, summary_of

KEY = "feedface" * 5
WORDS = {"USER": "zaphodb", "LOGNAME": "zaphodb", "WANDB_USERNAME": "trillianm", "WANDB_USER_EMAIL": "ford@betelgeuse"}
HOST = "magrathea-4711"
WITHOUT_KEY = "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"

PROGRAM = """
import dataclasses, os, sys, tempfile
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from finished import result
from ccsi.tracking import Progress, RunStart, TaskEnd, WeightsAndBiases
folder = Path(sys.argv[1])
made = folder / "task1.npz"
np.savez(made, images=np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8), labels=np.arange(4) % 2)
config = {"seed": 3, "learner": {"lr": 0.125}, "dataset": {"path": str(Path.home() / "data.npz")},
          "tracking": {"wandb": {"entity": "marvin-the-account"}}}
wandb_s = lambda: {key: value for key, value in os.environ.items() if key.startswith("WANDB")}
before = wandb_s()
tracker = WeightsAndBiases(mode="offline", group="a sweep", job_type="trial")
tracker.start(RunStart("blood-s3", folder, config, (("basophil", "eosinophil"), ("erythroblast", "platelet"))))
tracker.progress(Progress(0, "training", 7, 10, {"loss": 0.375, "loss_ce": 0.25}))
tracker.task_end(TaskEnd(0, 2, {"val_micro": 0.625}, {"val": [[3, 1], [0, 4]]}, made))
tracker.finish(result())
assert wandb_s() == before, wandb_s()
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A run's folder, home and host name after a run in a process of its own, whose home is /…/zaphodb."""
    pytest.importorskip("wandb")
    top = tmp_path_factory.mktemp("offline")
    home, temporary = top / "zaphodb", top / "tmp"
    folder = home / "runs" / "blood-s3"
    folder.mkdir(parents=True)
    temporary.mkdir()
    before = set(home.rglob("*"))
    command = [sys.executable, "-c", PROGRAM, str(folder), str(Path(__file__).parents[1] / "report")]
    rename = ["unshare", "--uts", "--map-root-user", "sh", "-c", f'hostname {HOST} && exec "$@"', "sh"]
    can = shutil.which("unshare") and subprocess.run([*rename, "true"], capture_output=True).returncode == 0
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MPLCONFIG", "XDG"))}
    environment |= {**WORDS, "HOME": str(home), "TMPDIR": str(temporary), "WANDB_API_KEY": KEY}
    subprocess.run([*(rename if can else []), *command], env=environment, check=True, timeout=120, cwd=top)
    outside = {path for path in set(home.rglob("*")) - before if folder not in path.parents}
    assert not outside, f"written outside the run's folder: {outside}"
    return folder, temporary, HOST if can else socket.gethostname()


def records(folder: Path, *options: str) -> Any:
    """What W&B's own reader prints: `wandb leet inspect --json`."""
    run = next((folder / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(run)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_CACHE_DIR": str(folder), "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if "No such command" in done.stderr:
        pytest.skip("this wandb has no `wandb leet inspect`")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if options else [json.loads(line) for line in done.stdout.splitlines()]


def test_wandbs_reader_finds_config_metrics_images_and_summary(offline: tuple[Path, Path, str]) -> None:
    folder = offline[0]
    lines = records(folder)
    run = next(line["run"] for line in lines if line["type"] == "run")
    assert run["config"]["update"]["learner"] == {"lr": 0.125}
    assert run["config"]["update"]["seed"] == 3
    assert (run["run_group"], run["job_type"], run["project"]) == ("a sweep", "trial", "ccsi")
    assert run["display_name"] == "blood-s3"
    assert run["run_id"] == (folder / "wandb" / "run_id").read_text()

    step, task = (line["history"]["item"] for line in lines if line["type"] == "history")
    expected = {"task": 1, "training/step": 7, "training/loss": 0.375, "training/loss_ce": 0.25}
    assert expected.items() <= step.items()
    assert (task["task"], task["val_micro"]) == (1, 0.625)
    files = next((folder / "wandb").glob("offline-run-*")) / "files"
    for name in ("impressions", "confusion/val"):
        assert task[f"{name}._type"] == "image-file"
        assert (files / task[f"{name}.path"]).read_bytes().startswith(b"\x89PNG")

    summary = records(folder, "--summary")["summary"]
    assert summary["test_macro_over_tasks"] == 0.5
    assert summary["test_accuracy_matrix"] == [[0.9], [0.25, 0.75]]
    assert summary["val_forgetting"] == pytest.approx(0.45)
    assert summary["stored_bytes"] == 84480
    assert lines[-1]["exit"].get("exit_code", 0) == 0


def test_no_file_names_key_account_user_or_machine(offline: tuple[Path, Path, str]) -> None:
    folder, temporary, host = offline
    names = {*WORDS.values(), KEY, KEY[:16], "marvin-the-account"}
    names |= {host} if len(host) >= 6 else set()  # a shorter one turns up by chance
    files = [path for top in (folder / "wandb", temporary) for path in top.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not {name for name in names if name.encode() in content}, path


def test_nothing_of_wandb_is_left_in_the_temporary_folder(offline: tuple[Path, Path, str]) -> None:
    left = [path.name for path in offline[1].iterdir() if not path.name.startswith("ccsi-matplotlib")]
    assert left == []


def test_online_without_a_key_fails_at_once_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in WITHOUT_KEY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"tracking\.wandb\.mode=online found no key: set WANDB_API_KEY or"):
        WeightsAndBiases(mode="online")
    assert time.monotonic() - began < 1
    assert list(tmp_path.iterdir()) == []


def test_a_refused_key_is_one_sentence(run: RunStart, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in WITHOUT_KEY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "tooshort")  # W&B refuses it without asking the network
    monkeypatch.setenv("HOME", str(run.folder))
    environment = dict(os.environ)
    tracker = WeightsAndBiases(mode="online")
    with pytest.raises(UserError, match=r"tracking\.wandb\.mode=online: W&B did not start") as caught:
        tracker.start(run)
    assert "\n" not in str(caught.value)
    assert "tooshort" not in str(caught.value)
    assert dict(os.environ) == environment


def test_keys_are_looked_for_where_wandb_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WITHOUT_KEY:
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    assert not has_key()
    netrc.write_text(f"machine example.org login user password {KEY}\n")
    netrc.chmod(0o600)
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org:8080/x")
    assert has_key()
    monkeypatch.delenv("WANDB_BASE_URL")
    netrc.write_text("machine api.wandb.ai login user password\nthis is no netrc")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key()


def test_disabled_does_nothing_and_imports_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ccsi.tracking import *;"
        "w = WeightsAndBiases(); w.start(RunStart('n', Path(sys.argv[1]), {}, (('a',),)));"
        "w.progress(Progress(0, 'training', 1, 1, {})); w.task_end(TaskEnd(0, 1, {}, {})); w.finish({});"
        "sys.exit('wandb' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_is_not_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zaphodb")
    config = {"a": [Path("/home/zaphodb/x.npz"), 1, None], "b": {"c": "/data/x", "d": 0.5}}
    assert portable(config) == {"a": ["~/x.npz", 1, None], "b": {"c": "/data/x", "d": 0.5}}


@pytest.mark.parametrize(
    ("home", "path", "shown"),
    [
        ("/", "/data/x", "/data/x"),
        ("/home/jo", "/home/joanna/x", "/home/joanna/x"),
        ("/home/jo", "/home/jo-old/x", "/home/jo-old/x"),
        ("/home/jo", "/home/joé/x", "/home/joé/x"),
        ("/home/jo", "/home/jo", "~"),
        ("/home/jo", "/home/jo/a:/home/jo/b", "~/a:~/b"),
        ("/home/é", "/home/é/x", "~/x"),
    ],
)
def test_only_the_home_folder_itself_is_shortened(
    home: str, path: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    assert portable({"path": path}) == {"path": shown}


def test_the_summary_of_a_run_without_test_figures_has_no_nulls() -> None:
    summary = summary_of(
        {"test": {"macro_over_tasks": None, "accuracy_matrix": None}, "val": {"auc": 0.5}, "stored": []}
    )
    assert summary == {"val_auc": 0.5, "stored_bytes": 0}


class FakeRun:
    """Takes what a W&B run is given."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_a_picture_that_fails_costs_no_figure(
    run: RunStart, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setattr("ccsi.report.run.draw_confusion", lambda *_: 1 / 0)
    tracker, fake = WeightsAndBiases(), FakeRun()
    tracker._run, tracker._scratch, tracker._class_names = fake, run.folder, ["a", "b"]
    for task in range(2):
        tracker.task_end(TaskEnd(task, 2, {"val_micro": 0.5}, {"val": [[1]]}))
    assert fake.rows == [{"task": 1, "val_micro": 0.5}, {"task": 2, "val_micro": 0.5}]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ccsi: tracking.wandb: pictures were not drawn (ZeroDivisionError: division by zero)")


def test_names_that_are_not_utf8_reach_wandb_escaped() -> None:
    config = portable({"dataset": {"path": "/data/caf\udce9", "names": ["\udcff", 3]}})
    assert config == {"dataset": {"path": r"/data/caf\xe9", "names": [r"\xff", 3]}}
    json.dumps(config, ensure_ascii=False).encode()
