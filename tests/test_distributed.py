"""Two workers that share a batch against one that has it all: sums, norms, losses, learners, whole runs."""

import copy
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joined import Joined
from tiny_run import TINY, run_tiny, tiny
from torch import Tensor

import ccsi.synthesis.inversion
from ccsi import losses
from ccsi.data import Augment, Labelled
from ccsi.data.scenario import make_tasks
from ccsi.distributed import AgreedError, ProcessGroup
from ccsi.errors import UserError
from ccsi.evaluation import Evaluator
from ccsi.experiment.checkpoint import Checkpoints
from ccsi.learners import CCSI, IdC
from ccsi.models import ContinualNorm2d, IncrementalNet
from ccsi.models.backbones import ResidualNet, initialise
from ccsi.rng import Streams
from ccsi.stage import Stage, Stages
from ccsi.synthesis import Synthesis, remember
from ccsi.training import Training

CPU = torch.device("cpu")


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_cover_everything_once_and_evenly(n, size):
    shares = [list(range(n)[ProcessGroup(rank, size).shard(n)]) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_by_itself_is_alone():
    here, x = ProcessGroup.current(), torch.arange(3.0)
    assert here == ProcessGroup(0, 1) and here.world_size == 1 and here.is_main
    assert here.shard(7) == slice(0, 7)
    assert here.all_gather_object("a") == ["a"] and here.broadcast_object("a") == "a" and here.count(3) == 3
    assert here.sum(x) is x and here.all_reduce(x) is x and here.all_gather_rows(x) is x
    assert here.mean(x) == 1 and here.mean(x, torch.tensor([0.0, 1, 3])) == 7 / 4
    assert here.mean(x[:0], x[:0]) == 0


def talk() -> dict:
    here = ProcessGroup.current()
    rows = torch.full((here.rank + 1, 2), float(here.rank))
    x = torch.tensor([1.0, 10.0]) * (here.rank + 1)
    x.requires_grad_()
    (here.sum(x) * torch.tensor([1.0, 2.0])).sum().backward()

    def refused() -> str:
        if here.rank == 1:
            raise UserError("not here.")
        return "fine"

    def outcome(work) -> str:
        try:
            return work()
        except AgreedError as error:
            return f"refused: {error}"

    return {
        "gather": here.all_gather_rows(rows).tolist(),
        "sum": here.all_reduce(torch.tensor([here.rank + 1])).tolist(),
        "gradient": x.grad.tolist(),
        "mean": float(here.mean(rows[:, 0])),
        "count": here.count(len(rows)),
        "objects": here.all_gather_object(here.rank),
        "broadcast": here.broadcast_object(f"from {here.rank}"),
        "on_all": outcome(lambda: here.on_all(refused)),
        "on_main": outcome(lambda: here.on_main(refused)),
    }


def test_collective_operations_of_two_workers(pair):
    first, second = pair(talk)
    for key in ("gather", "sum", "gradient", "count", "objects", "broadcast", "on_all", "on_main"):
        assert first[key] == second[key]
    assert first["gather"] == [[0, 0], [1, 1], [1, 1]]
    assert first["sum"] == [3] and first["count"] == 3
    assert first["gradient"] == [2, 4]  # each worker's x counts in both workers' sums
    assert first["mean"] == 0 and second["mean"] == pytest.approx(2 / 3)  # the sum is the mean of 0, 1, 1
    assert first["objects"] == [0, 1] and first["broadcast"] == "from 0"
    assert first["on_all"] == "refused: not here." and first["on_main"] == "fine"


def some_norm(groups: int | None) -> ContinualNorm2d:
    norm = ContinualNorm2d(8, groups).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8)), norm.bias.copy_(torch.linspace(-1, 1, 8))
    return norm


def share_of_norm(a: Tensor, groups: int | None, cut: list[int], steps: int = 3) -> dict:
    here, norm = ProcessGroup.current(), some_norm(groups)
    x = a[[slice(None, cut[0]), slice(cut[0], None)][here.rank]] if here.world_size > 1 else a
    x = x.clone().requires_grad_()
    for _ in range(steps):
        y = norm(x)
    y.sin().sum().backward()
    return {
        "y": y.detach(), "dx": x.grad, "dw": norm.weight.grad, "db": norm.bias.grad,
        "moments": torch.stack([norm.running_mean, norm.running_var]),
    }  # fmt: skip


@pytest.mark.parametrize("groups", [None, 4])
@pytest.mark.parametrize("cut", [3, 1, 5])
def test_continual_norm_of_two_workers_is_that_of_the_whole_batch(pair, groups, cut):
    a = torch.randn(5, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    whole, parts = share_of_norm(a, groups, [cut]), pair(share_of_norm, a, groups, [cut])
    for key in ("y", "dx"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), whole[key])
    for key in ("dw", "db"):
        torch.testing.assert_close(parts[0][key] + parts[1][key], whole[key])
    for part in parts:
        torch.testing.assert_close(part["moments"], whole["moments"])


def share_of_two_batches(a: Tensor, b: Tensor, groups: int | None) -> dict:
    """As `share_of_norm`, of two batches in one call; alone, in a call each."""
    here, norm = ProcessGroup.current(), some_norm(groups)
    x, z = (v[here.shard(len(v))].clone().requires_grad_() for v in (a, b))
    y = torch.cat([norm(x), norm(z, moving=0)]) if here.world_size == 1 else norm(torch.cat([x, z]), moving=len(x))
    y.sin().sum().backward()
    y1, y2 = y.detach().split([len(x), len(z)])
    return {
        "y1": y1, "y2": y2, "dx": x.grad, "dz": z.grad, "dw": norm.weight.grad, "db": norm.bias.grad,
        "moments": torch.stack([norm.running_mean, norm.running_var]),
    }  # fmt: skip


@pytest.mark.parametrize("groups", [None, 4])
@pytest.mark.parametrize("sizes", [(5, 2), (4, 4), (1, 3)])
def test_two_batches_in_one_call_of_two_workers_are_each_that_of_the_whole(pair, groups, sizes):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 8, 4, 4, dtype=torch.float64, generator=g) * 2 + 1 for n in sizes)
    whole, parts = share_of_two_batches(a, b, groups), pair(share_of_two_batches, a, b, groups)
    for key in ("y1", "y2", "dx", "dz"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), whole[key])
    for key in ("dw", "db"):
        torch.testing.assert_close(parts[0][key] + parts[1][key], whole[key])
    for part in parts:
        torch.testing.assert_close(part["moments"], whole["moments"])


def share_of_losses(scores: Tensor, labels: Tensor, weights: Tensor) -> list[Tensor]:
    here = ProcessGroup.current()
    part = here.shard(len(labels))
    z = scores[part].clone().requires_grad_()
    y = labels[part]
    centroids, present = losses.class_centroids(z, y, 5, here)
    parts = [
        losses.cross_entropy(z, y, None, 0.1, here),
        losses.cross_entropy(z, y, weights, 0.0, here),
        losses.distillation(z, z.detach().roll(1, 1), here),
        losses.margin(z, y, 3, 0.5, 2, here),
        losses.intra_domain_conservative(centroids, scores[:5], present, 0.5) / here.world_size,
    ]
    values = torch.stack([value.detach() for value in parts])
    torch.stack(parts).sum().backward()
    return [values, z.grad]


@pytest.mark.parametrize("old", [True, False])
def test_losses_of_two_workers_add_up_to_that_of_the_whole_batch(pair, old):
    g = torch.Generator().manual_seed(1)
    scores = torch.rand(7, 5, dtype=torch.float64, generator=g) * 2 - 1
    labels = torch.tensor([0, 4, 3, 1, 0, 3, 4] if old else [3, 4, 3, 3, 4, 3, 4])
    weights = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    (value, gradient), parts = share_of_losses(scores, labels, weights), pair(share_of_losses, scores, labels, weights)
    torch.testing.assert_close(parts[0][0] + parts[1][0], value)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), gradient)


def test_weighted_cross_entropy_is_torchs():
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 3, 0])
    weights = torch.tensor([1.0, 2, 0.5, 3])
    for smoothing in (0.0, 0.2):
        theirs = torch.nn.functional.cross_entropy(z, y, weights, label_smoothing=smoothing)
        torch.testing.assert_close(losses.cross_entropy(z, y, weights, smoothing), theirs)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_part_of_a_batch_is_augmented_as_in_the_whole(n):
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    augment = Augment(
        flip_horizontal=True, transpose=True, shift=2, rotate=20, scale=0.2, brightness=0.2, colour=0.1, gamma=0.1,
        noise=0.1,
    )  # fmt: skip
    whole = augment(x, torch.Generator().manual_seed(3))
    for part in (slice(0, n), slice(n, 5)):
        torch.testing.assert_close(augment(x[part], torch.Generator().manual_seed(3), 5, part), whole[part])


# a learner, all of whose losses are on


def patterns(n: int, seed: int) -> Labelled:
    labels = torch.arange(n) % 6
    images = torch.randint(0, 60, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    for i, c in enumerate(labels.tolist()):
        images[i, 0, 1 + c % 3 * 2 : 3 + c % 3 * 2, 1 + c // 3 * 3 : 4 + c // 3 * 3] += 180
    return Labelled(images.to(torch.uint8), labels)


def net_of(in_channels: int, generator: torch.Generator, norm: str) -> ResidualNet:
    net = ResidualNet(in_channels, [8, 16], 1, 1, 2, True, 4 if norm == "cn" else None)
    initialise(net, generator)
    return net


def learn(norm: str = "cn", batch: int = 10, **options) -> dict:
    """CCSI on three tasks in float64; everything that must not depend on the number of workers."""
    here = ProcessGroup.current()
    training = Training(epochs=2, batch_size=batch, lr=0.1, momentum=0.9, precision="float64", select="best_val")
    learner = CCSI(
        model=partial(net_of, norm=norm), in_channels=1, training=training, streams=Streams(0), device=CPU,
        synthesis=Synthesis(iterations=4, warmup=1, per_class=6, group_size=5), idc=IdC(), **options,
    )  # fmt: skip
    train, val, plan = patterns(60, 0), patterns(24, 1), [[0, 1], [2, 3, 4], [5]]
    evaluator, seen, logged = Evaluator(val, plan, CPU), [], list[dict[str, float]]()

    def log(name: str, step: int, steps: int, values) -> None:
        if name == "training":  # in synthesis each worker logs its own images
            logged.append(dict(values))

    for task in make_tasks(train, val, plan, CPU):
        learner.learn(task, Stages(log=log))
        evaluator(learner)
        seen.append(copy.deepcopy(learner.net.state_dict()))
    memory = learner.memory
    return {
        "alone": here.world_size == 1, "weights": seen, "impressions": learner.impressions.images, "logged": logged,
        "memory": [memory.means, *memory.group_means, *memory.group_vars], "confusions": evaluator.confusions,
        "aucs": evaluator.aucs,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "options"),
    [("cn", {}), ("cn", {"balance": "class_weights", "freeze_prototypes": False, "batch": 7}), ("batch", {})],
)
def test_a_learner_on_two_workers_is_the_learner_on_one(pair, norm, options):
    one, two = learn(norm, **options), pair(partial(learn, norm, **options))
    assert one["alone"] and not two[0]["alone"]
    for worker in two:
        for before, after in zip(one["weights"], worker["weights"], strict=True):
            for key in before:
                torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-7)
        for before, after in zip(one["memory"], worker["memory"], strict=True):
            torch.testing.assert_close(after, before)
        assert worker["confusions"] == one["confusions"]
        assert worker["aucs"] == pytest.approx(one["aucs"])
        for before, after in zip(one["logged"], worker["logged"], strict=True):
            assert after == pytest.approx(before, rel=1e-6)
    for key in two[0]["weights"][-1]:  # among themselves they agree to the bit
        assert torch.equal(two[0]["weights"][-1][key], two[1]["weights"][-1][key])
    assert torch.equal(two[0]["impressions"], two[1]["impressions"])


def synthesize(groups_at_once: int, per_class: int) -> Tensor:
    net = IncrementalNet(net_of(1, torch.Generator().manual_seed(0), "cn"))
    net.grow(torch.randn(3, net.backbone.n_features, generator=torch.Generator().manual_seed(1)))
    net.eval()
    data = patterns(60, 0)
    memory = remember(net, Labelled(data.images[data.labels < 3], data.labels[data.labels < 3]), range(3))
    memory.means = memory.means.clone()
    for kept in (memory.means, *memory.group_means, *memory.group_vars):  # its last bits depend on who summed it
        kept.copy_((kept * 2**12).round() / 2**12)
    synthesis = Synthesis(iterations=8, warmup=2, per_class=per_class, group_size=4, groups_at_once=groups_at_once)
    return synthesis.run(net, memory, 1, Streams(0), Stage())["images"]


@pytest.mark.parametrize(("groups_at_once", "per_class"), [(1, 8), (1, 12), (2, 7), (4, 3)])
def test_impressions_made_in_shards_are_those_made_by_one_bit_for_bit(pair, groups_at_once, per_class):
    one = synthesize(groups_at_once, per_class)
    for images in pair(synthesize, groups_at_once, per_class):
        assert torch.equal(images, one)


# a whole run

FEW = ["workers=2", "training.batch_size=9", "training.augment.shift=1"]


def run_shared(folder: str, overrides: list[str], keep: bool = False, learner: str = "ccsi") -> str:
    """One of a run's workers; `keep`: the leader keeps a copy of every checkpoint."""
    ccsi.synthesis.inversion.LOG_EVERY, save = 2, Checkpoints.save
    kept = 0

    def save_and_keep(self, state) -> None:
        nonlocal kept
        save(self, state)
        shutil.copy(self.path, self.path.with_name(f"checkpoint-{kept}.pt"))
        kept += 1

    if keep:
        Checkpoints.save = save_and_keep
    try:
        return json.dumps(run_tiny(Path(folder), *overrides, f"learner={learner}", base=[*tiny(learner), *FEW]))
    finally:
        Checkpoints.save = save


def test_a_run_of_two_workers_is_written_once_and_close_to_that_of_one(pair, tmp_path):
    one = run_tiny(tmp_path / "one", "workers=1", "training.precision=float64", base=[*TINY, *FEW])
    texts = pair(run_shared, str(tmp_path / "two"), ["training.precision=float64"])
    first, second = map(json.loads, texts)
    assert first["weights_sha256"] == second["weights_sha256"]
    assert json.loads((tmp_path / "two/result.json").read_text()) == first
    assert first["workers"] == 2 and one["workers"] == 1
    for key in ("stored", "data_free"):
        assert first[key] == one[key]
    for key in ("accuracy_matrix", "confusion"):
        assert first["test"][key] == one["test"][key]
    events = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [event["task"] for event in events if event["phase"] == "task_end"] == [1, 2, 3]
    a, b = (Checkpoints(tmp_path / name, 0).load() for name in ("one", "two"))
    assert a is not None and b is not None
    for key, value in a["learner"]["net"].items():
        torch.testing.assert_close(b["learner"]["net"][key], value, rtol=0, atol=1e-5)


SUMMED = ["abd", "bic", "ewc", "fecam", "pass", "r_dfcil", "si"]
"""The learners that sum over workers in ways of their own; two represent them in the fast tests."""


@pytest.mark.parametrize(
    "learner", [pytest.param(name, marks=() if name in ("ewc", "r_dfcil") else pytest.mark.slow) for name in SUMMED]
)
def test_a_rival_on_two_workers_comes_close_to_itself_on_one(pair, learner, tmp_path):
    kind = ["training.precision=float64"]
    one = run_tiny(tmp_path / "one", "workers=1", f"learner={learner}", *kind, base=[*tiny(learner), *FEW])
    first, second = map(json.loads, pair(run_shared, str(tmp_path / "two"), kind, False, learner))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["stored_after_task"] == one["stored_after_task"]
    for key in ("accuracy_matrix", "confusion"):
        assert first["test"][key] == one["test"][key]
    a, b = (Checkpoints(tmp_path / name, 0).load() for name in ("one", "two"))
    assert a is not None and b is not None
    for key, value in a["learner"]["net"].items():
        torch.testing.assert_close(b["learner"]["net"][key], value, rtol=0, atol=1e-5)


@pytest.fixture
def three() -> Iterator[Joined]:
    workers = Joined(3)
    yield workers
    workers.close()


@pytest.mark.slow
def test_a_run_of_three_workers_goes_on_from_any_checkpoint_to_the_same_bits(three, tmp_path):
    # a + b + c in another order is another number: two workers would not show it
    options = ["checkpoint_every=0", "workers=3", "dataset.max_per_class=4"]
    whole = json.loads(three(run_shared, str(tmp_path / "whole"), options, True)[0])
    states: dict[str, list[Path]] = {}  # stage -> the checkpoints inside it
    for path in sorted((tmp_path / "whole").glob("checkpoint-*.pt"), key=lambda p: int(p.stem.split("-")[1])):
        state = torch.load(path, weights_only=True)
        states.setdefault(state["stages"]["name"] if state["stages"] else "between tasks", []).append(path)
    assert states.keys() == {"training", "synthesis", "between tasks"}
    for stage, paths in states.items():
        rest = tmp_path / stage
        rest.mkdir()
        for name in ("config.yaml", "metrics.jsonl"):
            shutil.copy(tmp_path / "whole" / name, rest)
        shutil.copy(paths[len(paths) // 2], rest / "checkpoint.pt")
        again = [json.loads(text) for text in three(run_shared, str(rest), options)]
        for key in ("weights_sha256", "impressions_sha256", "test"):
            assert again[0][key] == again[1][key] == again[2][key] == whole[key], (stage, key)


def test_what_one_worker_finds_wrong_stops_all(pair, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("mine")
    said = pair(refusal, str(tmp_path / "other"))
    assert said[0] == said[1] and "holds other files (letter.txt)" in said[0]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]


def refusal(folder: str) -> str:
    try:
        return run_shared(folder, [])
    except UserError as error:
        return str(error)


def test_the_number_of_workers_must_be_true(tmp_path):
    with pytest.raises(UserError, match=r"workers=2, but here is 1: .*ccsi train"):
        run_tiny(tmp_path / "run", "workers=2")
    assert not (tmp_path / "run").exists()
