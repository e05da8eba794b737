"""The inversion: grouped equals the loop over single groups, and everything METHOD section 4 asks of its state."""

import dataclasses
import io

import pytest
import torch

from ccsi.errors import UserError
from ccsi.rng import Streams
from ccsi.stage import Stage
from ccsi.synthesis import Synthesis

WEIGHTS = {"w_ce": 1.0, "w_f": 1.0, "w_tv": 0.01, "w_l2": 0.1}
SMALL = {"per_class": 5, "group_size": 4, "warmup": 3}


def draws_of(synthesis: Synthesis, memory, labels: torch.Tensor) -> list:
    return [synthesis.draw(memory, row, 1, group, Streams(0)) for group, row in enumerate(labels)]


@pytest.mark.parametrize("norm", ["cn", "batch"])
def test_grouped_equals_the_loop_over_single_groups(made, norm):
    """Four groups as one tensor against each alone: same draws, float64, 50 steps, within 1e-6."""
    net, memory = made(norm)
    synthesis = Synthesis(iterations=50, warmup=10)
    labels = torch.arange(4 * 6).view(4, 6) % 3
    draws = draws_of(synthesis, memory, labels)
    at_once = synthesis.invert(net, memory, labels, draws, WEIGHTS)
    alone = [synthesis.invert(net, memory, labels[i : i + 1], draws[i : i + 1], WEIGHTS) for i in range(4)]
    assert (at_once - torch.cat(alone)).abs().max().item() <= 1e-6
    start = torch.stack([start for start, *_ in draws]).clamp(0, 1)
    assert (at_once - start).abs().max().item() > 0.1  # something was done
    assert (at_once[0] - at_once[1]).abs().max().item() > 0.1


def test_a_group_is_not_moved_by_its_neighbours(made):
    """The same group beside others: a pooled statistic, loss or best state would show."""
    net, memory = made("cn")
    synthesis = Synthesis(iterations=20, warmup=2)
    labels = torch.tensor([[0, 1, 2], [2, 2, 2], [0, 0, 0]])
    draws = draws_of(synthesis, memory, labels)
    first = synthesis.invert(net, memory, labels[:2], draws[:2], WEIGHTS)[0]
    second = synthesis.invert(net, memory, labels[[0, 2]], [draws[0], draws[2]], WEIGHTS)[0]
    assert (first - second).abs().max().item() <= 1e-9


@pytest.mark.parametrize("norm", ["cn", "batch"])
def test_run_gives_the_same_images_however_many_groups_go_together(made, norm):
    net, memory = made(norm)
    results = []
    for groups_at_once in (1, 2, 4, "auto"):
        synthesis = Synthesis(iterations=20, groups_at_once=groups_at_once, **SMALL)
        results.append(synthesis.run(net, memory, 1, Streams(0), Stage()))
    for result in results[1:]:
        assert torch.equal(result["labels"], results[0]["labels"])
        assert torch.equal(result["images"], results[0]["images"])


def test_pooled_statistics_are_another_method(made):
    net, memory = made("cn")
    pooled = Synthesis(iterations=20, statistics="pooled", **SMALL)
    assert pooled.labels(3, 1).shape == (1, 15)
    images = pooled.run(net, memory, 1, Streams(0), Stage())["images"]
    assert images.shape == (15, 3, 12, 12)


class Recorded(Synthesis):
    """Keeps what the objective saw and gave."""

    def objective(self, net, memory, x, labels, weights):
        parts = super().objective(net, memory, x, labels, weights)
        self.record.append((x.detach().clone(), torch.stack(list(parts.values())).sum(0).detach()))
        return parts


def recorded(**options) -> Recorded:
    synthesis = Recorded(**{"jitter": 0, "flip": 0.0} | options)
    object.__setattr__(synthesis, "record", [])
    return synthesis


def test_the_best_state_is_a_copy_of_each_groups_lowest_loss(made):
    net, memory = made("cn")
    synthesis = recorded(iterations=40)
    object.__setattr__(synthesis, "learning_rate", lambda step: 0.02 + 0.02 * step)  # losses fall, then rise
    labels = torch.arange(3 * 4).view(3, 4) % 3
    result = synthesis.invert(net, memory, labels, draws_of(synthesis, memory, labels), WEIGHTS)
    losses = torch.stack([loss for _, loss in synthesis.record])  # [steps, G]
    best = losses.argmin(0).tolist()
    assert len(set(best)) > 1 and max(best) < 39  # groups differ, and the last state is not the best
    for group, step in enumerate(best):
        assert torch.equal(result[group], synthesis.record[step][0][group].clamp(0, 1))


def test_every_channel_is_clamped_after_each_step(made):
    net, memory = made("cn")
    synthesis = recorded(iterations=6, init="noise", lr=0.5)
    labels = torch.tensor([[0, 1, 2]])
    synthesis.invert(net, memory, labels, draws_of(synthesis, memory, labels), WEIGHTS)
    start, *later = [x for x, _ in synthesis.record]
    assert all(start[:, :, c].min() < 0 and start[:, :, c].max() > 1 for c in range(3))
    assert all(x.min() >= 0 and x.max() <= 1 for x in later)
    assert all(later[0][:, :, c].min() == 0 and later[0][:, :, c].max() == 1 for c in range(3))


def test_the_path_of_the_images_is_that_of_a_loop_written_out(made):
    """Each group's path against a loop over steps: its own shift and flip, torch's Adam and its own schedulers."""
    net, memory = made("cn")
    synthesis = recorded(iterations=12, warmup=4, lr=0.03, jitter=2, flip=0.5)
    labels = torch.tensor([[0, 1, 2], [2, 1, 1]])
    draws = draws_of(synthesis, memory, labels)
    synthesis.invert(net, memory, labels, draws, WEIGHTS)
    for group, (start, shifts, flips) in enumerate(draws):
        assert flips.any() and not flips.all() and shifts.unique(dim=0).shape[0] > 3
        x = start.clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=0.03, betas=(0.5, 0.9))
        warm = torch.optim.lr_scheduler.LinearLR(adam, 1 / 4, 1, total_iters=3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 8)
        for step in range(12):
            down, right = shifts[step].tolist()
            seen = torch.roll(torch.roll(x, down, dims=2), right, dims=3)
            seen = seen[..., range(seen.shape[3] - 1, -1, -1)] if flips[step] else seen
            torch.testing.assert_close(synthesis.record[step][0][group], seen.detach(), atol=1e-9, rtol=0)
            adam.zero_grad()
            sum(Synthesis().objective(net, memory, seen[None], labels[[group]], WEIGHTS).values()).sum().backward()
            adam.step()
            x.data.clamp_(0, 1)
            if step != 3:  # the full rate stands for two steps: the last of the warm-up, the first of the cosine
                (warm if step < 3 else cosine).step()


def test_learning_rates():
    synthesis = Synthesis(iterations=300, warmup=100, lr=0.05)
    rates = [synthesis.learning_rate(step) for step in range(300)]
    assert rates[0] == pytest.approx(0.0005) and rates[49] == pytest.approx(0.025) and rates[99] == rates[100] == 0.05
    assert rates[200] == pytest.approx(0.025) and 0 < rates[-1] < 1e-5
    assert rates[100:] == sorted(rates[100:], reverse=True)
    short = Synthesis(iterations=10, warmup=100, lr=1.0)
    assert [short.learning_rate(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert Synthesis(iterations=5, warmup=0, lr=1.0).learning_rate(0) == 1.0


def test_starts_are_class_means_with_noise_or_noise_alone(made):
    _, memory = made("cn")
    labels = torch.arange(300) % 3
    start, shifts, flips = Synthesis(iterations=500, noise=0.2).draw(memory, labels, 1, 0, Streams(0))
    residue = start - torch.stack([memory.means[c] for c in labels.tolist()])
    assert residue.mean().abs() < 2e-3 and abs(residue.std() - 0.2) < 2e-3
    assert set(shifts.flatten().tolist()) == {-2, -1, 0, 1, 2} and shifts.shape == (500, 2)
    assert 0.4 < flips.float().mean() < 0.6
    noise, *_ = Synthesis(iterations=5, init="noise").draw(memory, labels, 1, 0, Streams(0))
    assert noise.mean().abs() < 2e-2 and abs(noise.std() - 1) < 1e-2
    still = Synthesis(iterations=50, jitter=0, flip=0.0).draw(memory, labels, 1, 0, Streams(0))
    assert not still[1].any() and not still[2].any()


def test_draws_belong_to_a_group_and_task_whatever_else_is_drawn(made):
    _, memory = made("cn")
    synthesis, labels = Synthesis(iterations=5), torch.arange(4) % 3
    first = synthesis.draw(memory, labels, 1, 2, Streams(0))
    synthesis.draw(memory, labels, 1, 3, Streams(0))
    again = synthesis.draw(memory, labels, 1, 2, Streams(0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (synthesis.draw(memory, labels, 2, 2, Streams(0)), synthesis.draw(memory, labels, 1, 2, Streams(1))):
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("norm", ["cn", "batch"])
def test_the_model_stays_as_it_is(made, norm):
    net, memory = made(norm, torch.float32)
    net.backbone.stem.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [p.requires_grad for p in net.parameters()]
    net.train()
    Synthesis(iterations=4, **SMALL).run(net, memory, 1, Streams(0), Stage())
    assert not net.training  # eval mode, whatever it was in
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "n_old", "task", "shape", "kept"),
    [
        ({"per_class": 5, "group_size": 4}, 3, 1, (4, 4), 15),
        ({"per_class": 100}, 2, 1, (5, 40), 200),
        ({"per_class": 7, "group_size": 40}, 2, 1, (1, 14), 14),
        ({"per_class": None, "batches": 16}, 2, 1, (16, 40), 640),
        ({"per_class": None, "batches": [16, 24, 30]}, 6, 3, (30, 40), 1200),
        ({"per_class": None, "batches": 2, "group_size": 5}, 3, 1, (2, 5), 10),
    ],
)
def test_number_and_balance_of_impressions(options, n_old, task, shape, kept):
    synthesis = Synthesis(**options)
    labels = synthesis.labels(n_old, task)
    assert labels.shape == shape
    keep = labels.flatten()[:kept]
    counts = torch.bincount(keep, minlength=n_old)
    assert counts.max() - counts.min() <= (0 if options["per_class"] else 1) and len(counts) == n_old
    if options["per_class"]:
        assert (counts == options["per_class"]).all()


@pytest.mark.parametrize("options", [SMALL, {"per_class": None, "batches": 2, "group_size": 5}])
def test_run_gives_as_many_images_as_asked_for_with_their_labels(made, options):
    net, memory = made("cn", torch.float32)
    made_images = Synthesis(iterations=2, **options).run(net, memory, 1, Streams(0), Stage())
    n = 15 if options["per_class"] else 10
    assert made_images["images"].shape == (n, 3, 12, 12) and made_images["images"].dtype == torch.uint8
    assert made_images["labels"].tolist() == [i % 3 for i in range(n)]


@pytest.mark.parametrize("term", ["w_ce", "w_f", "w_tv", "w_l2"])
def test_each_term_is_brought_down(made, term):
    net, memory = made("cn", torch.float32)
    synthesis = Synthesis(iterations=25, warmup=3, lr=0.05)
    labels = torch.tensor([[0, 1, 2, 0]])
    only = dict.fromkeys(WEIGHTS, 0.0) | {term: 1.0}
    draws = draws_of(synthesis, memory, labels)
    result = synthesis.invert(net, memory, labels, draws, only)
    (before,) = synthesis.objective(net, memory, draws[0][0][None].clamp(0, 1), labels, only).values()
    (after,) = synthesis.objective(net, memory, result, labels, only).values()
    assert after.item() < 0.95 * before.item()


@pytest.mark.parametrize("off", ["w_ce", "w_f", "w_tv", "w_l2", "class_moments", "bn_moments", "all"])
def test_any_term_can_be_switched_off(made, off):
    net, memory = made("cn", torch.float32)
    weights = dict.fromkeys(WEIGHTS, 0.0) if off == "all" else {off: 0.0}
    forwards = []
    net.backbone.register_forward_hook(lambda module, args, out: forwards.append(1))
    images = Synthesis(iterations=3, **SMALL, **weights).run(net, memory, 1, Streams(0), Stage())["images"]
    assert len(images) == 15 and bool(forwards) == (off != "all")


def test_per_task_weights_are_the_tasks(made):
    net, memory = made("cn", torch.float32)
    lists = Synthesis(iterations=3, w_tv=[0.1, 0.7], w_ce=[2.0, 1.0], **SMALL)
    plain = Synthesis(iterations=3, w_tv=0.7, w_ce=1.0, **SMALL)
    a, b = (s.run(net, memory, 2, Streams(0), Stage())["images"] for s in (lists, plain))
    assert torch.equal(a, b)


@pytest.mark.parametrize("both", [{"per_class": 5, "batches": 2}, {"per_class": None, "batches": None}])
def test_one_count_of_impressions_not_two(both):
    with pytest.raises(UserError, match=r"learner\.synthesis\.per_class.*learner\.synthesis\.batches"):
        Synthesis(**both)


class StopError(Exception):
    pass


@pytest.mark.parametrize("groups_at_once", [1, 3])
@pytest.mark.parametrize("at", [1, 8, 9, 16])
def test_interrupted_and_gone_on_gives_the_same_bits(made, groups_at_once, at):
    net, memory = made("cn", torch.float32)
    six_groups = {"per_class": 8, "group_size": 4, "groups_at_once": groups_at_once}
    synthesis = Synthesis(iterations=8, warmup=3, **six_groups)
    whole = synthesis.run(net, memory, 1, Streams(0), Stage())
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
        synthesis.run(net, memory, 1, Streams(0), Stage(None, lambda: True, save))
    fresh, memory = made("cn", torch.float32)
    steps = []
    rest = synthesis.run(fresh, memory, 1, Streams(0), Stage(saved, lambda: True, lambda state: steps.append(1)))
    assert torch.equal(rest["images"], whole["images"]) and torch.equal(rest["labels"], whole["labels"])
    assert len(steps) == 8 * (6 // groups_at_once) - at  # no step twice


def test_progress_is_told_over_all_chunks(made):
    net, memory = made("cn", torch.float32)
    told = []
    stage = Stage(log=lambda step, steps, values: told.append((step, steps, set(values))))
    Synthesis(iterations=60, groups_at_once=2, **SMALL).run(net, memory, 1, Streams(0), stage)
    names = {"loss_ce", "loss_moments", "loss_tv", "loss_l2"}
    assert told == [(step, 120, names) for step in (50, 60, 110, 120)]


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Synthesis().lr = 1.0
