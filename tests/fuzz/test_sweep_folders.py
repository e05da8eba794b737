"""Odd and hostile sweep folders: `ccsi status` and `resume` end in a sentence, in time, and lose nothing."""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))  # helpers of the sweep's tests
pytest.importorskip("ray")
from driver import drive

import ccsi.sweep.driver
from ccsi import cli
from ccsi.sweep.compose import compose
from ccsi.sweep.events import JobId, RunId
from ccsi.sweep.recorder import SweepInterruptedError, SweepRecorder
from ccsi.sweep.resume import with_folder

CASES = 500 if os.environ.get("CCSI_TEST_SLOW") else 50
SECONDS = 20  # of computing
HANG = 90  # seconds after which a command waits for something: the machine may be shared
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none"]
HOSTILE: list[Any] = [
    None, True, -1, 0, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\0", "../../x", "ä\ud800",
    [], [[]], {}, {"a": {"b": 1}}, [None], "p1-c99999999999", "p9-c00", {"_target_": "os.abort"}, "[/x]",
]  # fmt: skip
FILES = ("runs.csv", "best.yaml", "trials.csv", "leaderboard.csv", ".lock", ".probe", ".sweep.yaml.part")
FILES += (".processes.json", "plots", ".data", "ray", "runs/.p1-c01-s100.attempts", "runs/.p1-c01-s100.lock")
"""What a sweep's folder may hold beside the runs and its two own files."""
Mutate = Callable[[Path, random.Random], None]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccsi.sweep.journal.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("ccsi.io.atomic.os.fsync", lambda descriptor: None)
    monkeypatch.setattr(ccsi.sweep.driver, "run_phases", no_ray)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "sweep"))
    monkeypatch.chdir(tmp_path)


def no_ray(recorder: SweepRecorder, console: Any) -> None:
    raise SweepInterruptedError("no Ray here")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [made(tmp_path_factory.mktemp(search) / "s", search) for search in ("random", "optuna")]


def made(folder: Path, search: str) -> Path:
    """A sweep in the middle: some trials are done, one failed, one runs, one is pruned; one finalist has a run."""
    (folder / "runs").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "sweep"))
        space = "sweep.space={quality: {uniform: [0, 1]}, tasks: {choice: [2, 3]}}"
        more = [f"sweep.search={search}", "sweep.num_samples=6", "sweep.seeds.tuning=[100]", "sweep.top_k=2"]
        definition = with_folder(compose([*STANDIN, space, *more, "sweep.scheduler=asha"]), folder)
    (folder / "sweep.yaml").write_text(definition.dump())
    recorder = SweepRecorder(definition)

    def run_config(values: dict[str, Any], phase: int, seed: int, run_dir: Path) -> dict[str, Any]:
        return values | {"seed": seed, "run_dir": str(run_dir)}

    object.__setattr__(definition, "run_config", run_config)

    def learn(config: dict[str, Any], phase: int) -> list[float]:
        return [] if config["quality"] < 0.2 else [config["quality"]] * 3

    drive(recorder, learn, events_left=14)
    recorder.end_job(JobId(1, 3), "ValueError: boom", "Traceback\nValueError: boom")
    for run in (folder / "runs").glob("p*-s*"):
        (run / "config.yaml").write_text(yaml.safe_dump(recorder.state.configs[RunId.parse(run.name).trial]))
        (run / "metrics.jsonl").write_text('{"task": 1, "phase": "training", "step": 3, "steps": 9, "seconds": 1.0}\n')
        (run / "checkpoint.pt").write_bytes(b"x" * 300)
    for name in FILES:
        (folder / name).write_text("1\n")
    return folder


def delete(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_by_pipe(path: Path, rng: random.Random) -> None:
    delete(path, rng)
    os.mkfifo(path)


def replace_by_folder(path: Path, rng: random.Random) -> None:
    delete(path, rng)
    path.mkdir()


def replace_by_link(path: Path, rng: random.Random) -> None:
    delete(path, rng)
    path.symlink_to(rng.choice([path.name, "/dev/zero", "nowhere", "."]))  # a loop, a device, a dangling one, itself


def replace_by_bytes(path: Path, rng: random.Random) -> None:
    delete(path, rng)
    path.write_bytes(rng.choice([b"", b"\xff\xfe\x00", rng.randbytes(200), b"[" * 100_000, b"{}", b"null", b"5\n"]))


def damage_bytes(path: Path, rng: random.Random) -> None:
    if not path.is_file():
        return
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content)) if content else 0
    if rng.random() < 0.5:
        del content[place:]
    else:
        content[place : place + 3] = rng.randbytes(3)
    path.write_bytes(content)


def replace_value(tree: Any, rng: random.Random) -> Any:
    """The tree with one of its nodes replaced or removed."""
    places = [(tree, key) for key in (tree if isinstance(tree, dict) else range(len(tree)))]
    for holder, key in places:
        if isinstance(holder[key], dict | list):
            below = holder[key]
            places += [(below, one) for one in (below if isinstance(below, dict) else range(len(below)))]
    if places:
        holder, key = rng.choice(places)
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice(HOSTILE)
    return tree


def change_value(path: Path, rng: random.Random) -> None:
    """Another value, or none, for a key of a YAML or JSON file, or of a line of the journal."""
    if not path.is_file() or path.is_symlink():
        return
    try:
        if path.suffix == ".jsonl":
            lines = path.read_text().splitlines()
            for _ in range(rng.choice([1, 1, 5])):
                number = rng.randrange(len(lines))
                lines[number] = json.dumps(replace_value(json.loads(lines[number]), rng))
            if rng.random() < 0.2:
                rng.shuffle(lines)
            path.write_text("\n".join(lines) + "\n")
        elif path.suffix in (".yaml", ".json"):
            load, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
            path.write_text(dump(replace_value(load(path.read_text()), rng)))
    except (ValueError, TypeError, IndexError, yaml.YAMLError):  # damaged before, or it cannot be written
        return


def bomb(path: Path, rng: random.Random) -> None:
    """A few lines of YAML that stand for 10^9 nodes."""
    lines = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)),
    ]
    if path.suffix == ".yaml" and path.is_file():
        path.write_text(path.read_text() + "\n".join(lines) + "\n")


MUTATIONS: tuple[Mutate, ...] = (
    delete, replace_by_pipe, replace_by_folder, replace_by_link, replace_by_bytes, damage_bytes, change_value,
    change_value, change_value, bomb,
)  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    """What a sweep has found: it must survive everything."""
    return {str(path): path.read_bytes() for path in folder.glob("runs/p*/result.json") if path.is_file()}


class HangError(BaseException):
    """A command took longer than `HANG`."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(signum: int, frame: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int | str, str]:
    """The exit code, or a traceback; and what was printed to stderr."""
    signal.alarm(HANG)
    started = time.process_time()
    try:
        code: int | str = cli.main(arguments)
        if time.process_time() - started > SECONDS:
            code = "slow"
    except HangError:
        code = "hang: " + traceback.format_exc(limit=-8)
    except BaseException:
        code = traceback.format_exc(limit=-8)
    finally:
        signal.alarm(0)
    return code, capsys.readouterr().err


def test_odd_sweep_folders_end_in_a_sentence(
    tmp_path: Path, templates: list[Path], capsys: pytest.CaptureFixture[str], alarm: None
) -> None:
    problems, codes = list[str](), set[int | str]()
    for template in templates:  # as they are
        assert run(["status", str(template)], capsys) == (0, "")
        code, said = run(["sweep", f"resume={shutil.copytree(template, tmp_path / template.parent.name)}"], capsys)
        assert code == 1 and "no Ray here" in said
    for seed in range(CASES):
        rng, folder, done = random.Random(seed), tmp_path / "s", list[str]()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(templates[seed % 2], folder)
        for _ in range(rng.choice([1, 1, 2, 3])):
            runs = sorted(folder.glob("runs/p*")) + sorted(folder.glob("runs/p*/*"))
            kinds = [
                [folder / "sweep.yaml"],
                [folder / "journal.jsonl"],
                sorted(folder.glob("runs/p*/result.json")),
                runs,
            ]
            mutate, path = (
                rng.choice(MUTATIONS),
                rng.choice(rng.choice([*filter(None, kinds), [folder / name for name in FILES]])),
            )
            if os.path.lexists(path) and not path.is_symlink():
                mutate(path, rng)
                done.append(f"{mutate.__name__} {path.relative_to(folder)}")
        journal = folder / "journal.jsonl"
        found, lines = results(folder), journal.read_bytes() if journal.is_file() else b""
        more = ["sweep.num_samples=9"] if seed % 5 == 0 else []
        for arguments in (["status", str(folder)], ["sweep", f"resume={folder}", *more]):
            code, said = run(arguments, capsys)
            codes.add(code)
            where = f"seed {seed}: {arguments[0]} after {', '.join(done)}"
            if code not in (0, 1, 2):
                problems.append(f"{where}: {code}")
            elif code == 2 and (said.count("\n") != 1 or not said.startswith("ccsi: ")):
                problems.append(f"{where}: {said}")
            if not results(folder).items() >= found.items() or (lines and not journal.read_bytes().startswith(lines)):
                problems.append(f"{where}: something was lost")
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:20])
    assert codes == {0, 1, 2}, codes
