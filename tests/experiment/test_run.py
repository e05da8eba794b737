"""The spine on a tiny budget: every ablation is one override, and the record says what was done."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from tiny_run import TINY, run_tiny, tiny

import ccsi.config
from ccsi.errors import UserError
from ccsi.evaluation.metrics import SCALARS
from ccsi.experiment import validate
from ccsi.experiment.checkpoint import Checkpoints, sha256_of
from ccsi.experiment.record import finite
from ccsi.experiment.tasks import set_up
from ccsi.tracking.files import Files

REAL = "report={real_images: true}"
FINETUNE = ["learner=finetune", *tiny("finetune")]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the figures of a run with nothing changed."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return folder, run_tiny(folder)


Plain = tuple[Path, dict[str, Any]]

LOSSES = {  # override -> the loss part that must be gone from the metrics, and the phase it was in
    "learner.distillation=0": ("training", "distillation"),
    "learner.w_margin=0": ("training", "margin"),
    "learner.w_idc=0": ("training", "idc"),
    "learner.synthesis.w_ce=0": ("synthesis", "ce"),
    "learner.synthesis.w_f=0": ("synthesis", "moments"),
    "learner.synthesis.w_tv=0": ("synthesis", "tv"),
    "learner.synthesis.w_l2=0": ("synthesis", "l2"),
}
OTHERS = [
    "learner.synthesis.bn_moments=0",
    "learner.synthesis.group_size=8",
    "learner.synthesis.jitter=0 learner.synthesis.flip=0",
    "learner.synthesis.per_class=null learner.synthesis.batches=2 learner.synthesis.group_size=8",
    "model.groups=4",
    "learner.idc.target=unlabeled_pool",
    "learner.idc.target=as_released",
    "learner.idc.batch_size=8",
    "training.select=best_val training.epochs=2",
    "training.schedule=plateau training.plateau_patience=0 training.epochs=3",
    "training.schedule=constant",
    "training.label_smoothing=0.1",
    "training.clip_norm=0.1",
    "scenario.class_order=shuffle",
]

AT_A_LEARNER = [  # tests/learners/test_ccsi.py does the same without a run around it
    "learner.synthesis.init=noise",
    "learner.synthesis.class_moments=0",
    "model.norm=batch",
    "learner.idc.form=per_class",
    "learner.imprint=false",
    "learner.freeze_prototypes=false",
    "learner.balance=class_weights",
    "learner.balance=both",
    "learner.balance=none",
    "training.precision=bfloat16",
]

TWO_TASKS = "scenario.classes_per_task=[5,5]"


@pytest.fixture(scope="module")
def unablated(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """As `plain`, in two tasks."""
    folder = tmp_path_factory.mktemp("unablated") / "run"
    return folder, run_tiny(folder, TWO_TASKS)


@pytest.mark.parametrize(
    "ablation", [*LOSSES, *OTHERS, *(pytest.param(one, marks=pytest.mark.slow) for one in AT_A_LEARNER)]
)
def test_every_ablation_is_one_override(ablation: str, unablated: Plain, tmp_path: Path) -> None:
    folder, before = unablated
    test = f"evaluate_test={'as_released' in ablation}".lower()  # which trains on test images, and needs them
    after = run_tiny(tmp_path / "run", TWO_TASKS, *ablation.split(), test)
    assert after["weights_sha256"] != before["weights_sha256"]  # it does something
    assert all(0 <= accuracy <= 1 for row in after["val"]["accuracy_matrix"] for accuracy in row)
    if ablation in LOSSES:
        phase, part = LOSSES[ablation]
        for where, expected in ((folder, True), (tmp_path / "run", False)):
            logged = [line for line in lines_of(where) if line["phase"] == phase and line["task"] > 1]
            assert logged and all((f"loss_{part}" in line) == expected for line in logged)


def test_pooled_is_one_group(plain: Plain, tmp_path: Path) -> None:
    pooled = run_tiny(tmp_path / "run", "learner.synthesis.statistics=pooled", "learner.synthesis.group_size=8")
    assert pooled["weights_sha256"] == plain[1]["weights_sha256"]  # where all fit into one group of 40


UPPER = "joint training on the images of all tasks (upper bound)"
TRANSDUCTIVE = "transductive: uses unlabelled val images of all classes seen"
LEAK = "leaks unlabelled test images into training (only to measure the leak)"
BOTH = {"class means", "normalization moments"}


@pytest.mark.parametrize(
    ("override", "permissions", "protocol", "kept"),
    [
        ("learner=ccsi", [], "data-free", BOTH),
        ("learner=ci", [], "data-free", {"class means"}),
        ("learner=finetune", [], "data-free", set()),
        ("learner=joint", ["all_tasks"], UPPER, set()),
        ("learner=icarl", [], "exemplar replay", {"exemplars", "exemplar labels", "class mean features"}),
        ("learner=ewc", [], "data-free", {"Fisher information"}),
        ("learner.idc.target=unlabeled_pool", ["unlabeled_pool"], TRANSDUCTIVE, BOTH),
        ("learner.idc.target=as_released", ["test_images"], LEAK, BOTH),
        ("learner.idc.target=as_released learner.w_idc=0", [], "data-free", BOTH),
    ],
)
def test_the_record_names_permissions_and_protocol(
    override: str, permissions: list[str], protocol: str, kept: set[str], tmp_path: Path
) -> None:
    figures = run_tiny(tmp_path / "run", *override.split())
    assert (figures["permissions"], figures["protocol"]) == (permissions, protocol)
    assert figures["data_free"] == (not permissions and "exemplars" not in kept)
    stored = {item["kind"]: item["bytes"] for item in figures["stored"]}
    assert stored.keys() == kept
    assert stored.get("class means", 2560) == 10 * 8 * 8 * 4
    assert [{item["kind"] for item in after} for after in figures["stored_after_task"]] == [kept] * 3
    assert figures["stored_after_task"][-1] == figures["stored"]
    if "exemplars" in kept:
        counts = [after[0]["count"] for after in figures["stored_after_task"]]
        assert counts == [3 * 4, 3 * 7, 3 * 10]
        ends = [line for line in lines_of(tmp_path / "run") if line["phase"] == "task_end"]
        assert [end["stored"] for end in ends] == figures["stored_after_task"]


PER_TASK = ["synthetic_ratio", "idc.rho", "idc.tau", *(f"synthesis.{name}" for name in ("w_ce", "w_f", "w_tv", "w_l2"))]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a run whose per-task settings are all 0.5."""
    folder = tmp_path_factory.mktemp("halves") / "run"
    figures: dict[str, Any] = run_tiny(folder, *(f"learner.{key}=0.5" for key in PER_TASK))
    return figures


def test_a_list_of_equal_values_is_that_value(halves: dict[str, Any], tmp_path: Path) -> None:
    listed = run_tiny(tmp_path / "run", *(f"learner.{key}=[0.5,0.5]" for key in PER_TASK))
    assert listed["weights_sha256"] == halves["weights_sha256"]


@pytest.mark.parametrize("key", PER_TASK)
def test_a_value_a_task(key: str, halves: dict[str, Any], tmp_path: Path) -> None:
    settings = {name: "0.5" for name in PER_TASK} | {key: "[0.5,0.25]"}
    other = run_tiny(tmp_path / "run", *(f"learner.{name}={value}" for name, value in settings.items()))
    assert other["test"]["confusion"][:2] == halves["test"]["confusion"][:2]  # the first entry is for the second task
    assert other["impressions_sha256"][0] == halves["impressions_sha256"][0]
    assert other["weights_sha256"] != halves["weights_sha256"]
    assert (other["impressions_sha256"][1] != halves["impressions_sha256"][1]) == key.startswith("synthesis.")


@pytest.mark.parametrize("key", [*PER_TASK, "synthesis.batches"])
def test_a_list_of_wrong_length(key: str, tmp_path: Path) -> None:
    tree = ccsi.config.load([*TINY, f"run_dir={tmp_path / 'run'}"])
    if key == "synthesis.batches":
        tree = ccsi.config.apply(tree, {"learner.synthesis.per_class": None})
    value = 1 if key == "synthesis.batches" else 0.5
    for n in (0, 1, 3):
        run = ccsi.config.build(ccsi.config.apply(tree, {f"learner.{key}": [value] * n}))
        with pytest.raises(UserError, match=rf"^learner.{key}=\[.* {n} values; expected .* each of the 2 tasks"):
            run()
    assert not (tmp_path / "run").exists()


def test_same_settings_same_bits(plain: Plain, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator is not used
    torch.rand(7)
    _, before = plain
    after = run_tiny(tmp_path / "run")
    for key in ("seconds", "starts", "peak_memory_bytes", "commit"):  # the checkout may change under a test
        after, before = ({k: v for k, v in figures.items() if k != key} for figures in (after, before))
    assert after == before


def test_other_seeds_differ(plain: Plain, tmp_path: Path) -> None:
    other = run_tiny(tmp_path / "run", "seed=1")
    assert other["weights_sha256"] != plain[1]["weights_sha256"]
    assert other["impressions_sha256"] != plain[1]["impressions_sha256"]
    assert other["seed"] == 1 and other["name"] == "digits-ccsi-s1"


def test_without_test_the_weights_are_the_same(plain: Plain, tmp_path: Path) -> None:
    figures = run_tiny(tmp_path / "run", "evaluate_test=false")
    assert figures["weights_sha256"] == plain[1]["weights_sha256"]
    assert figures["val"] == plain[1]["val"]
    assert figures["test"] == dict.fromkeys(figures["val"])
    assert not any(key.startswith("test") for line in lines_of(tmp_path / "run") for key in line)


def test_what_the_folder_holds(plain: Plain) -> None:
    folder, figures = plain
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert held == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoint.pt",
        "result.json",
        "summary.txt",
        "split.csv",
        "predictions.csv",
        "class_means.npz",
        "impressions/task2.npz",
        "impressions/task3.npz",
    }
    assert json.loads((folder / "result.json").read_text()) == figures
    state = Checkpoints(folder, 0).load()
    assert state is not None and sha256_of(state["learner"]["net"]) == figures["weights_sha256"]
    for task, digest in zip((2, 3), figures["impressions_sha256"], strict=True):
        with np.load(folder / "impressions" / f"task{task}.npz") as made:
            images, labels = made["images"], made["labels"]
        assert sha256_of({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}) == digest
        n_old = 4 if task == 2 else 7
        assert images.dtype == np.uint8 and images.shape == (4 * n_old, 1, 8, 8)
        assert np.bincount(labels).tolist() == [4] * n_old
    with np.load(folder / "class_means.npz") as kept:
        assert kept["images"].shape == (10, 1, 8, 8) and kept["images"].max() <= 1
    assert figures["scenario"] == {"class_order": list(range(10)), "classes_per_task": [4, 3, 3]}
    assert figures["dataset"]["train"] == 100
    assert figures["threads"] == 1
    assert [len(row) for row in figures["test"]["accuracy_matrix"]] == [1, 2, 3]
    assert {"synthesis", "training", "evaluation", "total"} == set(figures["seconds"])
    assert set(figures["peak_memory_bytes"]) == {"synthesis", "training", "evaluation"}
    ends = [line for line in lines_of(folder) if line["phase"] == "task_end"]
    assert [line["task"] for line in ends] == [1, 2, 3]
    assert [line["test_micro"] for line in ends] == figures["test"]["accuracy_after_task"]
    for split in ("val", "test"):
        assert {name: ends[-1][f"{split}_{name}"] for name in SCALARS} == {
            name: figures[split][name] for name in SCALARS
        }


def test_class_order_says_which_class_comes_when(tmp_path: Path) -> None:
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    figures = run_tiny(tmp_path / "run", f"scenario.class_order={order}")
    assert figures["scenario"]["class_order"] == order
    assert figures["dataset"]["class_names"] == [str(c) for c in order]


def test_a_task_of_one_class_has_no_auc(tmp_path: Path) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    figures = run_tiny(tmp_path / "run", "scenario.classes_per_task=[1,9]")
    written = json.loads((tmp_path / "run" / "result.json").read_text(), parse_constant=refuse)
    assert written == figures and written["test"]["auc_after_task"][0] is None


def test_one_task_alone(tmp_path: Path) -> None:
    figures = run_tiny(tmp_path / "run", "scenario.classes_per_task=10", "learner.idc.rho=[]")
    assert figures["test"]["forgetting"] == 0 and figures["impressions_sha256"] == []


def test_threads_are_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    try:
        with pytest.raises(UserError, match="is a file"):
            run_tiny(tmp_path / "file", "threads=3")
        assert torch.get_num_threads() == 3
        with pytest.raises(UserError, match=r"^threads=100000: this machine has 3 CPUs; expected at most so many"):
            run_tiny(tmp_path / "file", "threads=100000")  # torch would end the process
    finally:
        torch.set_num_threads(before)


def test_a_disk_that_fills_up_is_one_sentence(plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Files, record: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "_write", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            run_tiny(tmp_path / "run")
    assert run_tiny(tmp_path / "run")["weights_sha256"] == plain[1]["weights_sha256"]


def test_other_os_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Files, record: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Files, "_write", broken)
    with pytest.raises(OSError, match="Input/output"):
        run_tiny(tmp_path / "run")


@pytest.mark.parametrize("override", ["learner=joint", "learner.idc.target=as_released", REAL])
def test_shared_data_change_nothing_but_where_they_lie(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("draw_accuracy_matrix", "draw_accuracy_over_tasks", "draw_confusion"):
        monkeypatch.setattr(f"ccsi.report.run.{other}", lambda path, *_: path)  # they show no image
    private = run_tiny(tmp_path / "private", override)
    for name in ("first", "second"):
        shared = run_tiny(tmp_path / name, override, f"share_data={tmp_path / 'data'}")
        differs = {"seconds", "starts", "peak_memory_bytes"}
        assert {key: shared[key] for key in shared if key not in differs} == {
            key: private[key] for key in private if key not in differs
        }
        if override == REAL:
            pictures = [(tmp_path / run / "plots/impressions.png").read_bytes() for run in ("private", name)]
            assert pictures[0] == pictures[1]


def test_no_real_image_is_drawn_unless_the_user_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("ccsi.report.run.draw_run", lambda folder, result, real: shown.append(real))
    default = ccsi.config.load([])["report"]
    assert default == {"real_images": False}
    for number, report in enumerate((False, True, default, {"real_images": True})):
        tree = ccsi.config.load([*FINETUNE, f"run_dir={tmp_path / str(number)}"]) | {"report": report}
        ccsi.config.build(tree)()
    assert [real is not None for real in shown] == [False, False, True]  # and nothing was drawn for false
    assert shown[-1].images.shape == (100, 1, 8, 8) and sorted(set(shown[-1].labels.tolist())) == list(range(10))
    with pytest.raises(
        UserError, match=r"report=\{'real_image': True\}: expected true or false, or \{real_images: …\}"
    ):
        ccsi.config.build(tree | {"report": {"real_image": True}})


def test_report_of_earlier_versions(tmp_path: Path) -> None:
    old = tmp_path / "best.yaml"
    for report, changed in (("true", {"real_images": True}), ("false", None)):
        text = ccsi.config.to_yaml(ccsi.config.load(FINETUNE) | {"report": report == "true"})
        old.write_text(text)
        if changed is not None:
            tree = ccsi.config.from_arguments([str(old), "report.real_images=true"])
            assert tree["report"] == changed
        assert ccsi.config.from_arguments([str(old), "report=false"])["report"] is False
    with pytest.raises(
        UserError, match=r"report\.real_images has no place, because another setting took that of report"
    ):
        ccsi.config.load(["report=false", "report.real_images=true"])


def test_validate_takes_a_runs_configuration_and_writes_nothing(tmp_path: Path) -> None:
    tree, only_checked = ccsi.config.load([*TINY, f"run_dir={tmp_path / 'run'}"]), {"_target_": validate}
    assert ccsi.config.build(tree | only_checked)().plan == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    changed = ccsi.config.apply(tree, {"learner.idc.target": "as_released", "evaluate_test": False})
    with pytest.raises(UserError, match="expected another target"):
        ccsi.config.build(changed | only_checked)()
    assert not (tmp_path / "run").exists()


def test_set_up_takes_no_key_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="shared_data"):
        set_up(shared_data=None)  # type: ignore[call-arg]


def test_finite() -> None:
    assert finite({"a": [1.0, math.nan, {"b": math.inf}], "c": "nan"}) == {"a": [1.0, None, {"b": None}], "c": "nan"}


@pytest.mark.parametrize("threads", [1, 2])
def test_every_library_keeps_to_the_runs_threads(tmp_path, threads):
    before = torch.get_num_threads()
    try:
        run_tiny(tmp_path / "run", "learner=finetune", "scenario.classes_per_task=10", f"threads={threads}")
        assert torch.get_num_threads() == threads
        pools = threadpool_info()
        assert len(pools) >= 2 and {pool["num_threads"] for pool in pools} == {threads}, pools
    finally:
        torch.set_num_threads(before)
        threadpool_limits(before)
