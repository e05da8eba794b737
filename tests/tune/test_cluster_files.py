"""Cluster files: read by Ray's own code where it has some for them, run where this machine can run them."""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from launcher import MARK, ROOT, Sweep, until

from ccsi.sweep.compose import compose
from ccsi.sweep.resume import resumed, with_folder

pytest.importorskip("ray")
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts import scripts

FILES = ROOT / "tune" / "cluster"
SCRIPTS = sorted(FILES.glob("*.sh"))
STANDIN = ["_target_=standin.run", "+quality=0.5", "+wait=0.0", "+tasks=2", "+fault=none", "sweep.search=grid"]
CODE = {"ccsi", "configs", "tune", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
"""What an installation is made from."""


def kuberay() -> tuple[dict[str, Any], dict[str, Any]]:
    """The two documents: the volume's claim and the job."""
    claim, job = yaml.safe_load_all((FILES / "kuberay.yaml").read_text())
    return claim, job


def commands() -> Iterator[list[str]]:
    """The keys of every sweep that the cluster files, their README and the documentation start."""
    lines = [kuberay()[1]["spec"]["entrypoint"]]
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), FILES / "README.md"):
        text = re.sub(r"\\\n *", " ", path.read_text())
        lines += re.findall(r"^    .*$", text, re.MULTILINE)
        lines += [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for line in lines:
        if not re.search(r"(tune/cluster/\w+\.sh|ccsi sweep) \S*[=/]", line):
            continue
        words = shlex.split(line, comments=True)
        if ".sh " in words[-1]:  # what `ray exec` is to run
            words = shlex.split(words[-1])
        (place,) = (
            n for n, word in enumerate(words) if word.endswith(".sh") or words[n - 1 : n + 1] == ["ccsi", "sweep"]
        )
        keys = words[place + 1 + words[place].endswith(".sh") :]
        joined = ["ray.address=auto"] if words[place].endswith(".sh") else []  # as sweep.sh does
        yield joined + [key for key in keys if key != "…" and not key.startswith("resume=")]


def ray_version() -> str:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    return pinned[1]


def start_options() -> set[str]:
    """The options `ray start` has."""
    return {option for parameter in scripts.start.params for option in parameter.opts}


@pytest.mark.slow
def test_every_sweep_in_these_files_is_one_and_the_same_line_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images").mkdir()
    found = [list(keys) for keys in dict.fromkeys(map(tuple, commands()))]
    rivals = [keys for keys in found if "rivals" in " ".join(keys)]  # twenty-two learners each: one of them will do
    found = [keys for keys in found if keys not in rivals[:-1]]
    assert len(rivals) == 5 and len(found) >= 10
    definitions = [compose(keys) for keys in found]
    (tmp_path / "sweep.yaml").write_text(with_folder(definitions[0], tmp_path).dump())
    assert resumed(tmp_path, found[0]).bases == definitions[0].bases


def test_ray_up_reads_its_file_and_nothing_is_open_but_ssh() -> None:
    config = yaml.safe_load((FILES / "aws.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"]["CPU"] == 0
    assert [types[name]["min_workers"] for name in ("cpu", "gpu")] == [0, 0]
    assert types["gpu"]["resources"]["GPU"] > 0
    assert "IpPermissions" not in prepared["provider"]["security_group"]
    starts = "\n".join(prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"])
    assert "--autoscaling-config" in starts
    assert "--dashboard-host" not in starts  # Ray's default is the loopback address
    for text in (starts, (ROOT / "docs" / "clusters.md").read_text()):
        used = re.findall(r"--[\w-]+", " ".join(re.findall(r"ray start ([^#\n]*)", text)))
        assert used and set(used) <= start_options()
    assert {parameter.name: parameter.default for parameter in scripts.start.params}["dashboard_host"] == "127.0.0.1"
    mounts = dict(config["file_mounts"])
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token"
    assert mounts == {f"/home/ubuntu/ccsi/{name}": name for name in CODE}
    assert all((ROOT / name).exists() for name in CODE)


def test_kuberay_job_scales_from_nothing_and_asks_for_a_token() -> None:
    claim, job = kuberay()
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["backoffLimit"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    derived = autoscaling_config._derive_autoscaling_config_from_ray_cr({"metadata": job["metadata"], "spec": cluster})
    types = derived["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["cpu"]["resources"]["CPU"] > 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert all(types[name]["min_workers"] == 0 < types[name]["max_workers"] for name in ("cpu", "gpu"))
    images = set()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= start_options()
        pod = group["template"]["spec"]
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
        images.add(container["image"])
    assert len(images) == 1
    assert spec["entrypoint"].split()[:3:2] == ["bash", "/shared/sweeps/first"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    recipe = (FILES / "Dockerfile").read_text()
    assert cluster["rayVersion"] == ray_version()
    assert f"FROM rayproject/ray:{ray_version()}-py" in recipe
    copied = [line.split()[2:] for line in recipe.splitlines() if line.startswith("COPY")]
    assert {name for line in copied for name in line[:-1]} == CODE
    workdir = re.search(r"^WORKDIR (.*)$", recipe, re.MULTILINE)
    assert workdir and spec["entrypoint"].split()[1] == f"{workdir[1]}/tune/cluster/sweep.sh"


def test_what_is_submitted_is_the_code_alone(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    environment = yaml.safe_load((FILES / "runtime_env.yaml").read_text())
    tree, here = tmp_path / "tree", Path.cwd()
    wanted = {"ccsi/data/__init__.py", "configs/dataset/digits.yaml", "tune/sweep.py", "tune/cluster/sweep.sh"}
    left = {".git/HEAD", ".venv/bin/python", "sweeps/a/sweep.yaml", "runs/a/checkpoint.pt", "data/a.npz", "b.npz"}
    for name in wanted | left:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    for folder in (tree, ROOT):
        try:
            os.chdir(folder)
            excludes = RuntimeEnv(**environment)["excludes"]
        finally:
            os.chdir(here)
        package = tmp_path / f"{folder.name}.zip"
        create_package(str(folder), package, include_gitignore=folder == ROOT, excludes=excludes)
        names = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
        if folder == tree:
            assert names == wanted
        assert wanted <= names
        assert package.stat().st_size < 1.5 * 2**20


def test_the_scripts_are_sound() -> None:
    assert [path.name for path in SCRIPTS] == ["slurm.sh", "submit.sh", "sweep.sh"]
    for path in SCRIPTS:
        assert path.stat().st_mode & stat.S_IXUSR
    check = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"
    done = subprocess.run([check, "--severity=warning", *SCRIPTS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    head = [line.split()[1] for line in (FILES / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=B:USR1@120", "--ntasks-per-node=1", "--open-mode=append"} <= set(head)


def test_the_same_line_begins_a_sweep_and_goes_on_with_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    python.chmod(0o700)

    def told() -> str:
        command = ["bash", str(FILES / "sweep.sh"), str(tmp_path / "a sweep"), "sweep.space={a: {choice: [1]}}"]
        environment = os.environ | {"PYTHON": str(python)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    script = "-P|-m|ccsi|sweep|ray.address=auto|"
    assert told() == f"{script}sweep.dir={tmp_path}/a sweep|sweep.space={{a: {{choice: [1]}}}}|"
    (tmp_path / "a sweep").mkdir()
    (tmp_path / "a sweep/sweep.yaml").touch()
    assert told() == f"{script}resume={tmp_path}/a sweep|sweep.space={{a: {{choice: [1]}}}}|"


SHIMS = {
    # the command once per node, signals passed on
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        tasks=()
        for ((task = 0; task < SLURM_NNODES; task++)); do
            SLURM_PROCID=$task SLURMD_NODENAME=localhost "$@" & tasks+=($!)
        done
        trap 'kill "${tasks[@]}"' TERM
        for task in "${tasks[@]}"; do while kill -0 "$task" 2>/dev/null; do wait "$task"; done; done
    """,
    "scontrol": 'echo "$@" > requeued',
}


class Job(Sweep):
    """A script of `tune/cluster` in `home`, which looks like a checkout, under a SLURM of two nodes of one CPU."""

    def __init__(self, home: Path, script: str, arguments: list[str], **environment: str) -> None:
        self.mark, self.home = uuid.uuid4().hex, home
        path = f"{home}:{os.environ['PATH']}"
        modules = os.pathsep.join([str(ROOT / "tests" / "sweep"), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PATH": path, "HOME": str(home), "PYTHON": sys.executable, MARK: self.mark}
        env |= {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(home / "mpl")}
        env |= {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1", **environment}
        env.pop("RAY_AUTH_MODE", None)
        self.process = subprocess.Popen(
            ["bash", f"tune/cluster/{script}", *arguments],
            cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.said = ""


@pytest.mark.slow
def test_slurm_takes_a_submitted_job_too_and_goes_into_the_queue_again_when_time_is_up(tmp_path: Path) -> None:
    (tmp_path / "tune").symlink_to(ROOT / "tune")
    for name, body in SHIMS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o700)
    half = [*STANDIN, "resources.cpu=0.5"]  # leaves room for the second sweep
    first = [str(tmp_path / "first"), *half, "wait=60", "sweep.space={quality: {grid: [0.1, 0.2]}}"]
    job = Job(tmp_path, "slurm.sh", first)
    jobs = [job]
    try:
        assert until(lambda: len(list((tmp_path / "sweeps").glob(".slurm-*/up-*"))) == 2), job.process.poll()
        (private,) = (tmp_path / "sweeps").iterdir()
        assert [stat.S_IMODE(path.stat().st_mode) for path in (private, private / "token")] == [0o700, 0o600]
        second = [str(tmp_path / "second"), *half, "sweep.seeds.reporting=[0]", "sweep.space={quality: {grid: [0.3]}}"]
        door = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{(private / 'dashboard').read_text().strip()}"}
        jobs.append(Job(tmp_path, "submit.sh", second, **door, RAY_AUTH_TOKEN="0" * 64))
        jobs.append(Job(tmp_path, "submit.sh", second, **door, RAY_AUTH_TOKEN_PATH=str(private / "token")))
        assert jobs[1].wait() != 0
        assert jobs[2].wait() == 0, jobs[2].said
        assert (tmp_path / "second/leaderboard.csv").is_file()
        job.process.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 130, job.said
        assert f"resume={tmp_path}/first" in job.said
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"
        assert job.left() == []
        assert not list((tmp_path / "sweeps").iterdir())
    finally:
        for started in jobs:
            for process in started.family():
                process.kill()
            started.process.communicate()
