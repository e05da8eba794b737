"""The training loop against loops written out here, torch's own schedulers, and its own uninterrupted self."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import ccsi.training
from ccsi.data import Augment, Labelled
from ccsi.data.pool import Pool, draws_per_epoch, epoch_order
from ccsi.learners import Loss
from ccsi.models import IncrementalNet, random_prototypes
from ccsi.models.backbones import ResidualNet, initialise
from ccsi.rng import Streams, TaskStreams
from ccsi.stage import Stage
from ccsi.training import Training, TrainingData


def data(n: int, seed: int, labels: range = range(4)) -> Labelled:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(labels.start, labels.stop, (n,), generator=g)
    x = torch.randint(0, 100, (n, 1, 8, 8), generator=g) + 40 * y[:, None, None, None] % 256
    return Labelled(x.to(torch.uint8), y)


REAL, VAL, SYNTHETIC = data(23, 0, range(2, 4)), data(9, 1, range(2, 4)), data(31, 2, range(2))


def fresh(dtype: torch.dtype = torch.float32) -> IncrementalNet:
    g = torch.Generator().manual_seed(0)
    net = IncrementalNet(ResidualNet(1, [8, 16], 1, 1, 2, True, 4)).to(dtype)
    initialise(net, g)
    net.grow(random_prototypes(2, 64, g).to(dtype))
    net.grow(random_prototypes(2, 64, g).to(dtype))
    return net


class CrossEntropy(Loss):
    """Of one worker, without smoothing."""

    def __init__(self) -> None:
        super().__init__(lambda net, images, labels: {"ce": F.cross_entropy(net(images), labels)})


def fit(training, net, stage: Stage | None = None, task: int = 1, objective=None, replay=None, ratio=None, **more):
    data, streams = TrainingData(REAL, VAL, replay, ratio), TaskStreams(Streams(0), task)
    return training.fit(net, data, objective or CrossEntropy(), streams, stage or Stage(), **more)


def test_plain_sgd_is_a_loop_written_out():
    """Two epochs with momentum, weight decay, clipping and cosine, in float64, from the same orders."""
    training = Training(epochs=2, batch_size=5, lr=0.2, momentum=0.9, weight_decay=0.01, clip_norm=0.5)
    net, bare = fresh(torch.float64), fresh(torch.float64)
    fit(training, net, replay=SYNTHETIC, ratio=0.5)
    x = torch.cat([REAL.images, SYNTHETIC.images]).double() / 255
    y = torch.cat([REAL.labels, SYNTHETIC.labels])
    trained = list(bare.train().parameters())
    speed = [torch.zeros_like(p) for p in trained]
    steps, step = 2 * 9, 0  # 46 draws an epoch; the one left over joins the ninth batch
    for epoch in range(2):
        order = epoch_order(54, 23, 0.5, Streams(0).generator("batches", 1, epoch)).tolist()
        for batch in [order[i : i + 5] for i in range(0, 40, 5)] + [order[40:]]:
            gradients = torch.autograd.grad(F.cross_entropy(bare(x[batch]), y[batch]), trained)
            norm = math.sqrt(sum((g * g).sum().item() for g in gradients))
            lr = 0.2 * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.no_grad():
                for p, g, v in zip(trained, gradients, speed, strict=True):
                    v.mul_(0.9).add_(min(1.0, 0.5 / norm) * g + 0.01 * p)
                    p -= lr * v
            step += 1
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert not net.training


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 0.95), st.integers(0, 99))
def test_the_synthetic_share_of_an_epoch_is_exact(n_real, n_synthetic, ratio, seed):
    n = n_real + n_synthetic
    order = epoch_order(n, n_real, ratio, torch.Generator().manual_seed(seed))
    assert len(order) == draws_per_epoch(n, n_real, ratio) == round(n_real / (1 - ratio))
    assert (order >= n_real).sum() == round(ratio * len(order))
    assert order.min() >= 0 and order.max() < n


@given(st.integers(1, 9), st.integers(0, 9), st.data())
def test_a_pool_is_both_parts_behind_each_other_without_a_copy_of_the_first(n_real, n_synthetic, data):
    g = torch.Generator().manual_seed(0)
    parts = [
        Labelled(torch.randint(256, (n, 2, 3, 3), generator=g, dtype=torch.uint8), torch.arange(n) + n * 10)
        for n in (n_real, n_synthetic)
    ]
    pool = Pool(parts[0], parts[1] if n_synthetic else None)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(pool) - 1))), dtype=torch.int64)
    images, labels = pool[chosen]
    assert torch.equal(images, torch.cat([part.images for part in parts])[chosen])
    assert torch.equal(labels, torch.cat([part.labels for part in parts])[chosen])
    assert images.is_contiguous() and pool.images[0] is parts[0].images


def test_orders_without_a_ratio_are_permutations():
    g = torch.Generator().manual_seed(0)
    assert sorted(epoch_order(9, 5, None, g).tolist()) == list(range(9))
    assert sorted(epoch_order(5, 5, 0.66, g).tolist()) == list(range(5))  # nothing synthetic to draw from
    assert draws_per_epoch(9, 5, None) == 9 and draws_per_epoch(5, 5, 0.66) == 5


def test_draws_are_mixed_and_even():
    order = epoch_order(300, 100, 0.5, torch.Generator().manual_seed(0))
    synthetic = (order >= 100).float()
    assert 0.35 < synthetic[:100].mean() < 0.65  # not one kind behind the other
    many = torch.cat([epoch_order(20, 10, 0.5, torch.Generator().manual_seed(seed)) for seed in range(300)])
    counts = torch.bincount(many, minlength=20)
    assert counts.min() > 220 and counts.max() < 380  # expected 300 each


class Seen(CrossEntropy):
    """Cross-entropy that notes the labels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[torch.Tensor] = []

    def __call__(self, net, images, labels):
        assert images.dtype == net.scale.dtype and images.max() <= 1 and images.min() >= 0
        self.batches.append(labels)
        return super().__call__(net, images, labels)


@pytest.mark.parametrize(("batch_size", "sizes"), [(10, [10, 10, 3]), (11, [11, 12]), (40, [23]), (8, [8, 8, 7])])
def test_every_image_once_an_epoch_and_never_one_alone(batch_size, sizes):
    seen = Seen()
    fit(Training(epochs=2, batch_size=batch_size), fresh(), objective=seen)
    assert [len(batch) for batch in seen.batches] == 2 * sizes
    assert torch.cat(seen.batches).bincount().tolist() == (2 * REAL.labels.bincount()).tolist()


def rates(training: Training, net=None, **more) -> list[float]:
    """The learning rate at each epoch's end, as it is logged."""
    told = []
    fit(training, net or fresh(), Stage(log=lambda step, steps, values: told.append(values["lr"])), **more)
    return told


def test_cosine_is_torchs():
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    wanted = []
    for _ in range(7):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), schedule.step()
    assert rates(Training(epochs=7, batch_size=40, lr=0.3)) == pytest.approx(wanted)


def test_warm_up_then_cosine_or_constant():
    assert rates(Training(epochs=6, batch_size=40, lr=1.0, warmup=4, schedule="constant")) == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = rates(Training(epochs=6, batch_size=40, lr=1.0, warmup=4))
    assert cosine == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5])
    assert rates(Training(epochs=2, batch_size=40, lr=1.0, warmup=9)) == pytest.approx([1 / 9, 2 / 9])


def test_a_net_that_starts_at_random_may_have_its_own_rate_and_epochs():
    training = Training(epochs=3, batch_size=40, lr=0.5, first_lr=0.1, first_epochs=2, schedule="constant")
    first = fresh()
    first.resize(0, first.n_classes, torch.cat([first.old, first.new]))
    assert rates(training, first) == [0.1, 0.1] and rates(training, task=1) == [0.5] * 3


@pytest.mark.parametrize(
    ("batch_size", "steps", "epochs"),
    [(40, 7, 7), (20, 7, 4), (20, 6, 3), (20, 1, 1), (8, 12, 4), (8, 10, 3)],  # of 24 images
)
def test_steps_in_place_of_epochs_are_rounded_to_whole_epochs(batch_size, steps, epochs):
    assert len(rates(Training(epochs=50, batch_size=batch_size, steps=steps), task=1)) == epochs
    first = fresh()
    first.resize(0, first.n_classes, torch.cat([first.old, first.new]))
    assert len(rates(Training(epochs=50, first_epochs=9, batch_size=40, first_steps=3, steps=2), first)) == 3
    assert Training(steps=10).second_stage(4, 0.1).epochs_of(5, fresh=False) == 4


@pytest.fixture
def scripted(monkeypatch):
    """Lets val accuracies be a given sequence."""

    def script(values: list[float]) -> None:
        left = iter(values)
        monkeypatch.setattr(ccsi.training, "own_accuracy", lambda net, val: next(left))

    return script


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_plateau_is_torchs_in_max_mode(scripted, patience):
    accuracies = [0.5, 0.4, 0.5, 0.6, 0.6, 0.3, 0.3, 0.3, 0.7, 0.7, 0.6, 0.1]
    scripted(accuracies)
    training = Training(epochs=12, batch_size=40, lr=0.8, schedule="plateau", plateau_patience=patience)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=0.3, patience=patience, threshold=0, eps=0
    )
    wanted = []
    for accuracy in accuracies:
        wanted.append(optimizer.param_groups[0]["lr"])
        schedule.step(accuracy)
    assert rates(training) == pytest.approx(wanted) and wanted[-1] < 0.8


@pytest.mark.parametrize(("select", "epoch"), [("best_val", 1), ("last", 3)])
def test_the_weights_kept_are_a_copy_of_the_best_or_the_last_epochs(scripted, select, epoch):
    scripted([0.5, 0.9, 0.9, 0.6])
    net, after = fresh(), []

    def log(step, steps, values) -> None:
        after.append({key: value.clone() for key, value in net.state_dict().items()})

    result = fit(Training(epochs=4, batch_size=12, select=select), net, Stage(log=log))
    assert all(torch.equal(result[key], after[epoch][key]) for key in result)
    assert all(torch.equal(net.state_dict()[key], after[epoch][key]) for key in result)
    assert not torch.equal(after[1]["scale"], after[3]["scale"])


def test_val_accuracy_is_a_count_over_images():
    net = fresh().eval()
    hits = sum(int(net(x[None].float() / 255).argmax() == y) for x, y in zip(VAL.images, VAL.labels, strict=True))
    assert ccsi.training.own_accuracy(net, VAL, batch_size=4) == hits / len(VAL)


@pytest.mark.parametrize("train_old", [False, True])
def test_frozen_prototypes_stay_to_the_bit(train_old):
    net = fresh()
    before = net.old.detach().clone(), net.new.detach().clone(), net.scale.item()
    training = Training(epochs=2, batch_size=8, momentum=0.9, weight_decay=0.1)
    fit(training, net, replay=SYNTHETIC, train_old_prototypes=train_old)
    assert torch.equal(net.old, before[0]) != train_old
    assert not torch.equal(net.new, before[1]) and net.scale.item() != before[2]


class Running(CrossEntropy):
    """An objective with running state and draws of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.draws = torch.zeros(()), torch.Generator().manual_seed(5)

    def __call__(self, net, images, labels):
        parts = super().__call__(net, images, labels)
        self.mean = 0.9 * self.mean + 0.1 * parts["ce"].detach()
        return parts | {"more": self.mean * torch.rand(1, generator=self.draws)[0] * net.scale}

    def state_dict(self):
        return {"mean": self.mean, "draws": self.draws.get_state()}

    def load_state_dict(self, state):
        self.mean = state["mean"]
        self.draws.set_state(state["draws"])


class StopError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 4, 5, 6, 11, 14, 15])
@pytest.mark.parametrize(
    "training",
    [
        Training(epochs=3, batch_size=10, momentum=0.9, select="best_val", augment=Augment(shift=1, colour=0.2)),
        Training(epochs=3, batch_size=10, schedule="plateau", plateau_patience=0, lr=0.5),
    ],
)
def test_interrupted_and_gone_on_gives_the_same_bits(training, at):
    """Five batches an epoch: in the first and last step, at an epoch's end, and after everything."""
    more = {"replay": SYNTHETIC, "ratio": 0.54, "train_old_prototypes": False}
    whole = fit(training, fresh(), objective=Running(), **more)
    saved, offers = None, 0

    def save(state) -> None:
        nonlocal saved, offers
        offers += 1
        if offers == at:
            file = io.BytesIO()
            torch.save(state, file)
            saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            raise StopError

    with pytest.raises(StopError):
        fit(training, fresh(), Stage(None, lambda: True, save), objective=Running(), **more)
    rest: list[int] = []
    stage = Stage(saved, lambda: True, lambda state: rest.append(1))
    gone_on = fit(training, fresh(), stage, objective=Running(), **more)
    assert len(rest) == 15 - at
    assert whole.keys() == gone_on.keys()
    assert all(torch.equal(whole[key], gone_on[key]) for key in whole)


def test_augmentation_is_of_the_batches_and_from_a_stream_of_its_own():
    plain, changed = Seen(), Seen()
    a = fit(Training(epochs=1, batch_size=8), fresh(), objective=plain)
    b = fit(Training(epochs=1, batch_size=8, augment=Augment(flip_horizontal=True)), fresh(), objective=changed)
    assert all(torch.equal(x, y) for x, y in zip(plain.batches, changed.batches, strict=True))  # same order
    assert not torch.equal(a["backbone.stem.weight"], b["backbone.stem.weight"])


def test_bfloat16_keeps_weights_in_float32_and_learns_the_same():
    exact, near = [], []
    for precision, told in (("float32", exact), ("bfloat16", near)):
        stage = Stage(log=lambda step, steps, values, told=told: told.append(values["loss"]))
        result = fit(Training(epochs=3, batch_size=8, precision=precision), fresh(), stage)
        assert all(value.dtype == torch.float32 for value in result.values())
    assert near == pytest.approx(exact, rel=0.05) and near != exact


def test_what_is_logged_is_the_last_batchs_parts():
    told = []
    stage = Stage(log=lambda step, steps, values: told.append((step, steps, dict(values))))
    fit(Training(epochs=2, batch_size=8), fresh(), stage, objective=Running())
    assert [(step, steps) for step, steps, _ in told] == [(3, 6), (6, 6)]
    for *_, values in told:
        assert set(values) == {"loss", "loss_ce", "loss_more", "lr", "val_accuracy"}
        assert values["loss"] == pytest.approx(values["loss_ce"] + values["loss_more"])
