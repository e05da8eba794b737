"""What a file may do: name this package's own classes, and nothing else. Hostile files execute nothing."""

import copy
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import TINY, composed, tiny

import ccsi.config
from ccsi import cli
from ccsi.config import trust as trust_module
from ccsi.errors import UserError
from ccsi.io.atomic import inside
from ccsi.sweep.compose import compose
from ccsi.sweep.definition import Definition
from ccsi.sweep.events import ConfigSuggested
from ccsi.sweep.journal import Journal
from ccsi.sweep.remote import Remote
from ccsi.sweep.resume import is_local_address, with_folder
from ccsi.sweep.warm_start import completed_trials

EVIL = "from pathlib import Path\nPath(__file__).with_name('marker').touch()\ndef run(*args, **more):\n    pass\n"
"""A module of the working folder. Importing it is what must not happen."""
TOUCH = "touch marker"


def put(*path_and_value: Any) -> Callable[[Any], None]:
    *path, last, value = path_and_value

    def change(tree: Any) -> None:
        for key in path:
            tree = tree[key]
        tree[last] = copy.deepcopy(value)

    return change


def target(name: str, /, **keys: Any) -> dict[str, Any]:
    return {"_target_": name, **keys}


PARTIAL = {"_partial_": True}
HOSTILE: dict[str, Callable[[Any], None]] = {
    "os.system": put("dataset", target("os.system", command=TOUCH)),
    "subprocess.Popen": put("scenario", target("subprocess.Popen", args=TOUCH, shell=True)),
    "eval": put("dataset", target("builtins.eval", source="open('marker', 'w')")),
    "exec": put("training", target("builtins.exec", source="open('marker', 'w')")),
    "__import__": put("tracking", "console", target("builtins.__import__", name="evil")),
    "open": put("dataset", "name", target("builtins.open", file="marker", mode="w")),
    "torch.load": put("learner", "synthesis", target("torch.load", f="evil.pt", weights_only=False)),
    "a shell of PyTorch": put("tracking", "console", target("torch.utils.collect_env.run", command=TOUCH)),
    "sympify": put("learner", "idc", target("sympy.sympify", a="__import__('evil')")),
    "joblib": put("dataset", target("joblib.load", filename="evil.joblib")),
    "pickle": put("dataset", target("pickle.loads", data="cos\nsystem\n(S'touch marker'\ntR.")),
    "write_text": put("run_dir", target("pathlib.Path.write_text", self="marker", data="")),
    "functools.partial": put("model", target("functools.partial", **PARTIAL, func=target("os.system"))),
    "instantiate": put("model", target("hydra.utils.instantiate", config=target("os.system", command=TOUCH))),
    "get_method": put("training", "augment", target("hydra.utils.get_method", path="evil.run")),
    "an own function": put("learner", target("ccsi.io.atomic.write_atomically", **PARTIAL, path="marker", data="")),
    "an own download": put("dataset", target("ccsi.data.download.fetch", url="file:///", path="marker", md5="")),
    "an own class elsewhere": put("tracking", "console", target("ccsi.data.Digits")),
    "an own class as the root": put("_target_", "ccsi.models.ccsi_small"),
    "a run inside a run": put("tracking", "more", target("ccsi.experiment.run")),
    "an early name": put("learner", "synthesis", target("ccsi.exemplars.__loader__")),
    "a learner": put("learner", "_target_", "evil.run"),
    "the root": put("_target_", "evil.run"),
    "in a number": put("seed", target("evil.run")),
    "in a list": put("scenario", "classes_per_task", [target("evil.run")]),
    "in a list in a list": put("scenario", "class_order", [[target("evil.run")]]),
    "a tracker": put("tracking", "mine", target("evil.run")),
    "a tracker's list": put("tracking", "mine", [target("evil.run")]),
    "in a mapping": put("tracking", "mine", {"a": {"b": target("evil.run")}}),
    "partial text": put("learner", "_partial_", "evil.run"),
    "partial object": put("dataset", "_partial_", target("evil.run")),
    "made at once": put("_partial_", False),
    "arguments": put("learner", "_args_", ["touch marker"]),
    "convert": put("learner", "_convert_", "all"),
    "recursive": put("dataset", "_recursive_", target("evil.run")),
    "defaults": put("defaults", ["/learner: ../../evil"]),
    "hydra": put("hydra", {"searchpath": ["file://evil"]}),
    "environment": put("name", "${oc.env:HOME}"),
    "environment by parts": put("name", "${${run_dir}.env:HOME}"),
    "escaped environment": put("name", "\\${oc.env:HOME}"),
    "decode": put("name", "${oc.decode:'1'}"),
    "create": put("dataset", "${oc.create:{_target_: evil.run}}"),
    "a parameter of the spine": put("on_task_end", target("ccsi.data.Digits", **PARTIAL)),
    "another of them": put("describe", False),
    "a package of no one": put("model", "_target_", "nothing_of_this_name.run"),
    "no name": put("model", "_target_", ["os.system"]),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module that says when it is imported; no names are trusted."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # worse than it is: nothing is on the path by itself
    monkeypatch.setattr(trust_module, "TRUSTED", set())
    monkeypatch.delenv("CCSI_TRUST", raising=False)
    yield tmp_path
    sys.modules.pop("evil", None)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one sentence with which a command ends."""
    capsys.readouterr()
    assert cli.main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("ccsi: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert not Path("marker").exists() and "evil" not in sys.modules
    return err


@pytest.fixture(scope="module")
def sweep() -> Definition:
    return compose([*TINY, "sweep.space={seed_offset: null}", "sweep.num_samples=1"])


def write_sweep(definition: Definition, folder: Path, change: Callable[[Any], None]) -> Path:
    """The folder of a sweep with a sweep.yaml that someone has changed."""
    (folder / "runs").mkdir(parents=True)
    record = yaml.safe_load(with_folder(definition, folder).dump())
    change(record)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_executes_nothing(
    name: str, here: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = copy.deepcopy(composed(*TINY))
    HOSTILE[name](tree)
    (here / "best.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    refused(["run", "best.yaml"], capsys)
    refused(["run", "best.yaml", "threads=2"], capsys)

    def change(record: Any) -> None:
        HOSTILE[name](record["bases"][""])

    folder = write_sweep(sweep, here / "swept", change)
    refused(["sweep", f"resume={folder}"], capsys)
    cli.main(["status", str(folder)])  # reads the sweep's own sections only; whether it shows them does not matter
    with pytest.raises(UserError):
        completed_trials(str(folder), sweep)
    assert not (here / "marker").exists() and "evil" not in sys.modules


SWEEPS: dict[str, Callable[[Any], None]] = {
    "a candidate": put("sweep", "space", {"learner.idc": {"choice": [target("evil.run")]}}),
    "a candidate's name": put("sweep", "space", {"learner._target_": {"choice": ["evil.run"]}}),
    "a space that is a node": put("sweep", "space", target("evil.run")),
    "seeds": put("sweep", "seeds", target("evil.run", tuning=[1], reporting=[2])),
    "resources": put("resources", target("evil.run")),
    "a number of Ray": put("ray", "num_cpus", target("evil.run")),
    "metric": put("sweep", "metric", target("evil.run")),
    "environment": put("sweep", "name", "${oc.env:HOME}"),
    "another's cluster": put("ray", "address", "192.0.2.1:6379"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_hostile_sweep_executes_nothing(
    name: str, here: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(sweep, here / "swept", SWEEPS[name])
    refused(["sweep", f"resume={folder}"], capsys)
    cli.main(["status", str(folder)])
    assert not (here / "marker").exists() and "evil" not in sys.modules


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learner._target_=evil.run", "CCSI_TRUST=evil"),
        ("+tracking.mine={_target_: evil.run}", "CCSI_TRUST=evil"),
        ("hydra.searchpath=[file://.]", "Hydra's own are not used"),
        ("name=${oc.env:HOME}", "expected no resolver"),
        ("learner=../../../../evil", "expected one of the group's choices"),
        ("+../evil@learner=x", "cannot be read"),
    ],
)
def test_hostile_overrides_of_a_sweep_are_not_composed(
    override: str, words: str, here: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(sweep, here / "swept", lambda record: record["overrides"].append(override))
    assert words in refused(["sweep", f"resume={folder}", "sweep.max_failures=1"], capsys)


def test_a_hostile_journal_executes_nothing(here: Path, sweep: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    space = put("sweep", "space", {"learner.w_idc": {"uniform": [0, 1]}})
    folder = write_sweep(sweep, here / "swept", space)
    event = ConfigSuggested({"learner.w_idc": target("evil.run")})
    Journal(folder / "journal.jsonl").append(event, 0.0)
    assert "CCSI_TRUST=evil" in refused(["sweep", f"resume={folder}"], capsys)


YAML = {
    "a Python object": "!!python/object/apply:os.system ['touch marker']",
    "a Python name": "_target_: !!python/name:os.system",
    "laughs": "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12)),
    "merged laughs": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(12)),
    "a list that holds itself": "a: &a [*a]",
    "very long": "a: [" + "1, " * 30_000 + "1]",
    "very deep": "a: " + "[" * 3_000,
    "bytes": "\x00\x01",
    "a list": "- 1",
    "nothing": "",
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_is_a_trap(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccsi.config.tree.MOST_NODES", 2000)  # else it takes seconds to reach them
    monkeypatch.setattr("ccsi.sweep.resume.MOST_NODES", 2000)
    (here / "best.yaml").write_text(YAML[name])
    (here / "swept").mkdir()
    (here / "swept" / "sweep.yaml").write_text(YAML[name])
    start = time.process_time()
    refused(["run", "best.yaml"], capsys)
    refused(["sweep", "resume=swept"], capsys)
    refused(["status", "swept"], capsys)
    assert time.process_time() - start < 10


def test_what_is_repeated_in_a_file_is_read() -> None:
    text = "a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n"
    assert ccsi.config.parse_yaml(text, 100) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}
    with pytest.raises(UserError, match="repeat too many"):
        ccsi.config.parse_yaml(text, 20)
    with pytest.raises(UserError, match="too many values"):
        ccsi.config.parse_yaml(text, 5)


OWN = """
from ccsi.learners import Finetune

class Mine(Finetune):
    default_name = "mine"
"""


def test_ones_own_learner_needs_a_word_for_a_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own.py").write_text(OWN)
    tree = copy.deepcopy(composed(*tiny("finetune"), "learner=finetune"))
    tree["learner"]["_target_"] = "own.Mine"
    (here / "best.yaml").write_text(yaml.safe_dump(tree))
    assert "put CCSI_TRUST=own before the command" in refused(["run", "best.yaml"], capsys)
    monkeypatch.setenv("CCSI_TRUST", "ow,own.Min,owner")
    assert "put CCSI_TRUST=own before" in refused(["run", "best.yaml"], capsys)  # whole names, not parts of them
    assert "own" not in sys.modules
    for variable in ("own", "other, own.Mine"):
        monkeypatch.setenv("CCSI_TRUST", variable)
        ccsi.config.check(ccsi.config.from_arguments(["best.yaml"]))
        assert sys.modules.pop("own").Mine.default_name == "mine"
    monkeypatch.delenv("CCSI_TRUST")
    typed = ccsi.config.from_arguments(["best.yaml", "learner._target_=own.Mine"])
    ccsi.config.check(typed)
    assert sys.modules.pop("own") and "own.Mine" in ccsi.config.trusted()
    ccsi.config.check(ccsi.config.load([*tiny("finetune"), "learner=finetune", "learner._target_=own.Mine"]))
    assert sys.modules.pop("own")


def test_a_typed_target_stands_where_an_object_is_expected(here: Path) -> None:
    for override, words in (
        ("training.lr={_target_: evil.run}", "training.lr: expected a number"),
        ("scenario.classes_per_task=[{_target_: evil.run}]", "not a group of settings with a _target_"),
        ("+seeds={_target_: evil.run}", "seeds is not a setting"),
        ("training._args_=[1]", r"Could not override|training\._args_"),
    ):
        with pytest.raises(UserError, match=words):
            ccsi.config.check(ccsi.config.load([*TINY, override]))
    assert "evil" not in sys.modules
    for name in ("torch.utils.collect_env.run", "builtins.print", "os.system"):
        with pytest.raises(UserError, match=r"^tracking\.x\._target_="):
            ccsi.config.check(ccsi.config.load([*TINY, f"+tracking.x={{_target_: {name}, command: {TOUCH}}}"]))
    assert not Path("marker").exists()


def test_the_names_of_our_own_classes_come_from_the_shipped_files() -> None:
    shipped = trust_module.targets_in(ccsi.config.config_dir())
    found = {
        name
        for path in ccsi.config.config_dir().rglob("*.yaml")
        for _, name in trust_module.named_targets(yaml.safe_load(path.read_text()))
    }
    assert shipped == found and all(name.startswith("ccsi.") for name in found)


SECRET = "v3ry-s3cret-value"


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "my_secret",
     "DB_PASS", "MY_APIKEY", "AZURE_STORAGE_CONNECTION_STRING", "SQL_CONNECTIONSTRING", "HTTP_AUTH"])  # fmt: skip
def test_a_secret_of_the_environment_reaches_no_configuration(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, SECRET)
    tree = copy.deepcopy(composed(*TINY))
    tree["tracking"]["wandb"]["project"] = f"a {SECRET}"
    (here / "best.yaml").write_text(yaml.safe_dump(tree))
    plain = copy.deepcopy(composed(*TINY))
    (here / "plain.yaml").write_text(yaml.safe_dump(plain))
    for arguments in (
        ["run", f"name=${{oc.env:{name}}}"],
        ["run", f"name=x-{SECRET}"],
        ["run", "best.yaml"],
        ["run", "plain.yaml", f"name=${{oc.env:{name}}}"],
        ["sweep", "--show", f"sweep.space.tracking.wandb.name={{choice: [{SECRET}]}}"],
        ["sweep", "--show", f"sweep.space={{tracking.wandb.name: {{choice: ['${{oc.env:{name}}}']}}}}"],
        ["sweep", "--show", f"sweep.name=${{oc.env:{name}}}"],
        ["sweep", "--show", f"{SECRET}"],
    ):
        message = refused(arguments, capsys)
        assert name in message and SECRET not in message


@pytest.mark.parametrize("arguments", [["run"], ["run", "plain.yaml"], ["sweep", "--show"]])
def test_the_environment_is_not_read_by_what_is_typed(
    arguments: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOT_KNOWN_AS_ONE", SECRET)
    (here / "plain.yaml").write_text(yaml.safe_dump(composed(*TINY)))
    for typed in ("name=${oc.env:NOT_KNOWN_AS_ONE}", "name=${ oc.env :NOT_KNOWN_AS_ONE,x}"):
        assert "reads the environment" in refused([*arguments, typed], capsys)


def test_common_values_of_the_environment_are_no_secrets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "MY_DATA": "/somewhere/x.npz",
        "AWS_REGION": "us-east-1",
        "A_KEY": "short",
        "NO_PROXY_BYPASS": "us-east-1",
        "TOX_TESTENV_PASSENV": "us-east-1",
        "AUTH_REGION": "us-east-1",
        "AUTHOR": "us-east-1",
        "PWD": str(here),
    }.items():
        monkeypatch.setenv(key, value)
    (here / "best.yaml").write_text(yaml.safe_dump(composed(*TINY)))
    for arguments in ([*TINY], ["best.yaml"]):
        tree = ccsi.config.from_arguments([*arguments, "run_dir=/somewhere/x.npz", "name='us-east-1 short'"])
        assert (tree["run_dir"], tree["name"]) == ("/somewhere/x.npz", "us-east-1 short")
    assert ccsi.config.load([f"run_dir='{here}/run'"])["run_dir"] == f"{here}/run"


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hidden@bucket/x",
        "s3://bucket/x?secret_key=hidden",
        "https://x.org/?a=1&token=hidden",
        "abfs://b/x?sas=hidden",
    ],
)
def test_a_password_in_an_address_is_not_written(url: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["sweep", f"sweep.storage='{url}'"], capsys)
    assert "expected an address without name, password or key" in message and "hidden" not in message
    assert not (here / "sweeps").exists()


def test_addresses_without_a_secret() -> None:
    for url in ("s3://bucket/x?region=us-east-1&endpoint_override=localhost:9000", "file:///a/b", "https://x.org/a@b"):
        trust_module.check_secrets({"sweep": {"storage": url}})


def test_whether_a_cluster_is_here() -> None:
    assert (
        is_local_address(None)
        and is_local_address("auto")
        and is_local_address("127.0.0.1:6379")
        and is_local_address("localhost:6379")
    )
    assert not is_local_address("192.0.2.1:6379") and not is_local_address("no.such.host.invalid:1")


def test_what_is_made_is_for_its_owner(here: Path) -> None:
    from ccsi.data import Digits, open_dataset
    from ccsi.experiment.folder import lock_run_dir
    from ccsi.sweep.folder import lock_sweep

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    (here / "existing").mkdir(mode=0o755)
    (here / "existing").chmod(0o755)
    before = os.umask(0o022)
    try:
        with lock_run_dir(here / "runs" / "one", {"seed": 1}), lock_sweep(here / "sweeps" / "one"):
            assert mode(here / "runs" / "one") == mode(here / "sweeps" / "one") == 0o700
        with lock_run_dir(here / "existing", {"seed": 1}):
            assert mode(here / "existing") == 0o755  # what the user made stays as it is
        open_dataset(Digits(), here / "data")
        (home,) = (here / "data").iterdir()
        assert mode(home) == 0o700
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//x", "", ".."])
def test_names_that_lead_out_of_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out"):
        inside(tmp_path, name)


def test_a_name_inside_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert inside(tmp_path / "folder", "a/b.txt") == tmp_path / "folder" / "a" / "b.txt"
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert inside(tmp_path / "link", "a") == tmp_path / "link" / "a"  # the folder itself may be one
    (tmp_path / "folder" / "a").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link"):
        inside(tmp_path / "folder", "a/b.txt")


def test_a_storage_is_copied_neither_from_nor_to_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "secret").write_text("hidden")
    (tmp_path / "storage" / "sweep").mkdir(parents=True)
    remote = Remote(f"file://{tmp_path}/storage")
    (tmp_path / "storage" / "sweep" / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="is a link"):
        remote.pull("sweep", tmp_path / "pulled")
    assert not (tmp_path / "pulled" / "x").exists()
    monkeypatch.setattr(Remote, "files", lambda self, name: [f"{self.root}/{name}/../../secret"])
    with pytest.raises(UserError, match="leads out of its folder"):
        remote.pull("sweep", tmp_path / "pulled")
    with pytest.raises(UserError, match="leads out of its folder"):
        remote.fetch_results(["../../x"], tmp_path / "pulled")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "mine" / "a").write_text("a")
    remote.push(tmp_path / "mine", "pushed")
    assert [path.name for path in (tmp_path / "storage" / "pushed").iterdir()] == ["a"]


def test_modules_of_the_working_folder_do_not_take_the_place_of_others(here: Path) -> None:
    """`python -m ccsi` in a folder of someone else's files."""
    for name in ("yaml", "hydra", "numpy", "wandb", "difflib", "textwrap"):
        (here / f"{name}.py").write_text(EVIL)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    environment |= {"PYTHONPATH": str(Path(ccsi.__path__[0]).parent)}
    command = [sys.executable, "-m", "ccsi", "run", "--show"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(json.dumps(yaml.safe_load(done.stdout)))["seed"] == 0
    assert not (here / "marker").exists()
