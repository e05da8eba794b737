"""Each rival against something that is not itself."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ccsi import losses
from ccsi.data import Labelled
from ccsi.exemplars import Budget
from ccsi.importance import quadratic
from ccsi.learners.ewc import fisher_diagonal
from ccsi.learners.r_dfcil import angles_apart
from ccsi.models import IncrementalNet
from ccsi.stage import Stages

OFF = {
    "lwf": {"distillation": 0.0, "local": False},
    "ewc": {"penalty": 0.0},
    "si": {"penalty": 0.0},
    "deep_inversion": {"distillation": 0.0},
}


@pytest.mark.parametrize("kind", ["lwf", "ewc", "si"])
def test_without_its_own_term_a_method_is_finetune_to_the_bit(learned, same, kind):
    assert same(learned(3, kind, **OFF[kind]), learned(3, "finetune"))
    assert not same(
        learned(3, kind, **({"penalty": 10.0} if kind != "lwf" else {"local": False})), learned(3, "finetune")
    )


# ---- distillation ----


def test_distillation_at_a_temperature_is_the_kl_written_out():
    g = torch.Generator().manual_seed(0)
    z, old = (3 * torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    expected = 0.0
    for a, b in zip(z.numpy(), old.numpy(), strict=True):
        p, q = np.exp(b / 2.5) / np.exp(b / 2.5).sum(), np.exp(a / 2.5) / np.exp(a / 2.5).sum()
        expected += (p * np.log(p / q)).sum() / 5
    assert losses.knowledge_distillation(z, old, 2.5).item() == pytest.approx(expected, rel=1e-12)
    assert losses.knowledge_distillation(z, z, 2.5).item() == 0


def test_sigmoid_cross_entropy_written_out():
    g = torch.Generator().manual_seed(0)
    z, t = torch.randn(3, 4, generator=g), torch.rand(3, 4, generator=g)
    p = 1 / (1 + np.exp(-z.numpy()))
    expected = -(t.numpy() * np.log(p) + (1 - t.numpy()) * np.log(1 - p)).sum() / 3
    assert losses.binary_cross_entropy(z, t).item() == pytest.approx(expected, rel=1e-6)


# ---- importance ----


class Flat(nn.Module):
    """Pixels as features."""

    n_features = 6

    def forward(self, x, taps=None, moving=None):
        return x.flatten(1)


class Linear(IncrementalNet):
    """z = W·x: a linear softmax model."""

    def cosines(self, features):
        return features @ torch.cat([self.old, self.new]).T


def test_the_fisher_diagonal_of_a_linear_softmax_model_is_its_closed_form():
    g = torch.Generator().manual_seed(0)
    net = Linear(Flat())
    net.grow(torch.randn(2, 6, generator=g))
    net.grow(torch.randn(1, 6, generator=g))
    images = torch.randint(0, 256, (40, 1, 2, 3), generator=g).to(torch.uint8)
    x = images.flatten(1) / 255
    p = (x @ torch.cat([net.old, net.new]).detach().T).softmax(1)
    expected = torch.einsum("nc,nd->cd", p * (1 - p), x.square()) / 40
    scale, prototypes = fisher_diagonal(net, images)
    torch.testing.assert_close(prototypes, expected)
    z = x @ torch.cat([net.old, net.new]).detach().T  # ∂ log p_c / ∂σ = z_c − Σ p z, at σ = 1
    torch.testing.assert_close(scale, ((p * z.square()).sum(1) - (p * z).sum(1).square()).mean())


def test_the_quadratic_penalty_is_the_sum_over_weights(learned):
    net = learned(1, "finetune").net
    g = torch.Generator().manual_seed(1)
    weights = [net.scale, torch.cat([net.old, net.new]), *net.backbone.parameters()]
    stiffness, anchor = ([torch.rand(p.shape, generator=g) for p in weights] for _ in range(2))
    expected = sum(
        float(w * (p - a) ** 2) / 2
        for ws, ps, anchors in zip(stiffness, weights, anchor, strict=True)
        for w, p, a in zip(ws.flatten(), ps.detach().flatten(), anchors.flatten(), strict=True)
    )
    assert quadratic(net, stiffness, anchor).item() == pytest.approx(expected, rel=1e-4)
    net.grow(torch.ones(3, net.backbone.n_features))  # free
    assert quadratic(net, stiffness, anchor).item() == pytest.approx(expected, rel=1e-4)


def test_synaptic_importance_adds_up_to_what_the_loss_fell_by(make, tasks):
    """On small steps of full batches: Σ ω·(Δ² + ξ) is the path integral of the gradient."""
    task = tasks()[0]
    training = {
        "epochs": 60,
        "batch_size": len(task.train),
        "lr": 0.002,
        "schedule": "constant",
        "precision": "float64",
    }
    learner = make("si", training=training, damping=1e-3)
    before = None

    def loss():
        with torch.no_grad():
            learner.net.train()
            return F.cross_entropy(learner.net(task.train.images.double() / 255), task.train.labels).item()

    class Watched(Stages):
        def run(self, name, work):
            nonlocal before
            before, start[:] = loss(), [p.detach().clone() for p in weights()]
            return super().run(name, work)

    def weights():
        return [learner.net.scale, torch.cat([learner.net.old, learner.net.new]), *learner.net.backbone.parameters()]

    start: list[torch.Tensor] = []
    learner.learn(task, Watched())
    fell = before - loss()
    walked = [
        w * ((p.detach() - a).square() + 1e-3) for w, p, a in zip(learner.importance, weights(), start, strict=True)
    ]
    total = sum(part.sum().item() for part in walked)
    assert fell > 0.01
    assert total == pytest.approx(fell, rel=0.1)  # ω below 0 are cut off, and steps are not infinitely small


# ---- frozen backbones ----


def by_tasks(learner, tasks):
    """The features of all tasks as the learner's own net gives them, and their labels."""
    return torch.cat([learner.features(t.train.images) for t in tasks]), torch.cat([t.train.labels for t in tasks])


def test_acil_is_joint_ridge_regression_in_whatever_order(learned, tasks):
    from sklearn.linear_model import Ridge

    learner, all_tasks = learned(3, "acil"), tasks()
    features, labels = by_tasks(learner, all_tasks)
    x = F.relu(features.double() @ learner.buffer).numpy()
    joint = Ridge(alpha=learner.ridge, fit_intercept=False, solver="cholesky").fit(x, np.eye(6)[labels.numpy()])
    np.testing.assert_allclose(
        learner.solution.numpy(), joint.coef_.T, rtol=1e-4, atol=1e-4 * np.abs(joint.coef_).max()
    )
    other = learned(1, "acil")
    first = other.solution
    other.auto, other.cross = torch.zeros_like(other.auto), other.cross[:, :0]
    swapped = [dataclasses.replace(all_tasks[i], classes=range(stop)) for i, stop in ((2, 6), (1, 6), (0, 6))]
    for task in swapped:  # from the last to the first
        one = F.one_hot(task.train.labels, 6).double()
        x = F.relu(other.features(task.train.images).double() @ other.buffer)
        other.auto, other.cross = other.auto + x.T @ x, F.pad(other.cross, (0, 6 - other.cross.shape[1])) + x.T @ one
    other.solve()
    assert first.shape == (64, 2)
    torch.testing.assert_close(other.solution, learner.solution, rtol=1e-6, atol=1e-9)


def test_ds_als_second_stream_is_ridge_regression_on_residuals(learned, tasks):
    from sklearn.linear_model import Ridge

    xs, residuals = [], []
    for n, task in enumerate(tasks(), 1):
        main = learned(n, "acil")
        features = main.features(task.train.images)
        left = F.one_hot(task.train.labels, 6).double() - F.pad(main.judge(features), (0, 6 - task.classes.stop))
        left[:, : task.classes.start], left[:, task.classes.stop :] = 0, 0
        xs.append(torch.tanh(features.double() @ main.buffer)), residuals.append(left)
    joint = Ridge(alpha=0.1, fit_intercept=False, solver="cholesky").fit(
        torch.cat(xs).numpy(), torch.cat(residuals).numpy()
    )
    learner = learned(3, "ds_al")
    np.testing.assert_allclose(learner.second.numpy(), joint.coef_.T, rtol=1e-5, atol=1e-8)
    f = learner.features(tasks()[1].val.images)
    expected = main.judge(f) + 0.6 * torch.tanh(f.double() @ main.buffer) @ torch.from_numpy(joint.coef_.T)
    torch.testing.assert_close(learner.judge(f), expected)


def test_ncm_is_scikit_learns_nearest_centroid(learned, tasks):
    from sklearn.neighbors import NearestCentroid

    learner = learned(3, "ncm", normalize=False)
    features, labels = by_tasks(learner, tasks())
    other = NearestCentroid().fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(learner.means.numpy(), other.centroids_, rtol=1e-5)
    val = learner.features(torch.cat([t.val.images for t in tasks()]))
    assert learner.judge(val).argmax(1).tolist() == other.predict(val.numpy()).tolist()


def test_fecam_is_the_mahalanobis_distance_of_scikit_learns_shrunk_covariance(learned, tasks):
    from sklearn.covariance import ShrunkCovariance

    g = 0.7
    learner = learned(3, "fecam", shrink_diagonal=g, shrink_rest=0.0, tukey=1.0, normalize=False)
    features, labels = by_tasks(learner, tasks())
    val = learner.features(torch.cat([t.val.images for t in tasks()]))
    for c in range(6):  # (1 − s)Σ + s·V·I with s = γ/(1 + γ), times (1 + γ)
        other = ShrunkCovariance(shrinkage=g / (1 + g)).fit(features[labels == c].double().numpy())
        far = other.mahalanobis(val.double().numpy()) / (1 + g)
        np.testing.assert_allclose(-learner.judge(val)[:, c].numpy(), far, rtol=1e-5)


def test_fetril_moves_the_nearest_new_class_to_where_an_old_one_was(learned, tasks, monkeypatch):
    from ccsi.learners import fetril

    given = []
    separated = fetril.separated
    monkeypatch.setattr(fetril, "separated", lambda x, y, c: given.append((x, y)) or separated(x, y, c))
    learner = learned(2, "fetril")
    task = tasks()[1]
    new = learner.features(task.train.images).numpy()
    y, old = task.train.labels.numpy(), learner.means[:2].numpy()
    x, labels = given[1]
    rows = [F.normalize(torch.from_numpy(new))]
    for p in (0, 1):
        means = [new[y == c].mean(0) for c in task.classes]
        like = int(np.argmax([m @ old[p] / np.linalg.norm(m) / np.linalg.norm(old[p]) for m in means]))
        rows.append(F.normalize(torch.from_numpy(new[y == task.classes[like]] - means[like] + old[p])))
    torch.testing.assert_close(x, torch.cat(rows))
    assert set(labels.tolist()) == {0, 1, 2, 3, 4}


# ---- exemplars ----


def test_icarl_that_keeps_everything_is_ncm_on_all_data(learned, tasks):
    learner = learned(2, "icarl", budget=Budget(per_class=1000))
    ncm = learned(1, "ncm")
    ncm.net, ncm.means = learner.net, ncm.means[:0]
    for task in tasks()[:2]:
        ncm.take_up(task, ncm.features(task.train.images))
    val = torch.cat([t.val.images for t in tasks()[:2]])
    torch.testing.assert_close(learner.scores(val / 255), ncm.judge(ncm.features(val)))


def test_er_that_keeps_everything_learns_from_the_images_joint_training_does(learned, make, tasks, monkeypatch):
    from ccsi.training import Training

    seen = {}
    fit = Training.fit

    def watched(self, net, real, val, objective, task, streams, stage, synthetic=None, ratio=None, train_old=True):
        parts = [real] if synthetic is None else [real, synthetic]
        rows = [(int(y), x.numpy().tobytes()) for part in parts for x, y in zip(part.images, part.labels, strict=True)]
        seen.setdefault(kind, []).append(sorted(rows))
        assert ratio is None
        return fit(self, net, real, val, objective, task, streams, stage, synthetic, ratio, train_old)

    monkeypatch.setattr(Training, "fit", watched)
    for kind in ("er", "joint"):
        learned(3, kind, **({"budget": Budget(per_class=1000), "balanced": False} if kind == "er" else {}))
    assert seen["er"] == seen["joint"]


def test_exemplars_are_the_tasks_own_images_within_the_budget(learned, tasks):
    learner = learned(3, "er", budget=Budget(total=20))
    kept = learner.exemplars()
    assert kept.labels.bincount().tolist() == [3] * 6
    for image, label in zip(kept.images, kept.labels, strict=True):
        own = next(t.train for t in tasks() if int(label) in t.classes)
        assert any(torch.equal(image, x) for x in own.images[own.labels == label])
    assert {one.kind: one.bytes for one in learner.stored()} == {"exemplars": 18 * 64, "exemplar labels": 18 * 8}


def test_bics_correction_is_the_best_pair_on_a_grid(make):
    rng = np.random.default_rng(0)
    logits, labels = 2 * rng.normal(size=(60, 4)), rng.integers(0, 4, 60)
    logits[np.arange(60), labels] += 2
    logits[:, 2:] = 1.5 * logits[:, 2:] + 1.0  # new classes preferred

    def loss(a, b):
        z = np.hstack([logits[:, :2], a * logits[:, 2:] + b])
        return -(z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(60), labels].mean()

    found = make("bic").fitted(logits, labels, 2)
    best = min((loss(a, b), a, b) for a in np.linspace(0.2, 1.5, 66) for b in np.linspace(-2, 1, 61))
    assert found == pytest.approx(best[1:], abs=0.05)
    assert loss(*found) <= best[0] + 1e-9


def test_bic_holds_out_as_many_of_each_class_and_trains_on_none_of_them(learned, tasks):
    learner = learned(1, "bic", budget=Budget(per_class=10), held_out=0.2)
    task = tasks()[1]
    train, replay, held = learner.parted(task)
    assert held.labels.bincount().tolist() == [2] * 5
    assert replay.labels.bincount().tolist() == [8, 8]
    assert len(train) + 6 == len(task.train)

    def rows(*parts):
        return sorted(x.numpy().tobytes() for part in parts for x in part.images)

    assert rows(train, replay, held) == rows(task.train, learner.exemplars())


def test_bic_corrects_each_tasks_logits_with_its_own_numbers(learned):
    learner = learned(2, "bic")
    learner.correction = torch.tensor([[1.0, 0.0], [0.5, -2.0]])
    z = torch.arange(10.0).view(2, 5)
    expected = torch.cat([z[:, :2], 0.5 * z[:, 2:] - 2], 1)
    assert torch.equal(learner.corrected(z), expected)


# ---- dreams ----


def test_deep_inversions_images_are_ccsis_with_its_options_off(learned):
    off = {"synthesis": {"init": "noise", "class_moments": 0.0}, "norm": "batch"}
    one, two = (learned(2, kind, **off).impressions for kind in ("deep_inversion", "ccsi"))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)


def test_a_generators_batch_moments_are_compared_as_gaussians():
    from torch.distributions import Normal, kl_divergence

    from ccsi.models import ContinualNorm2d
    from ccsi.synthesis.moments import batch_norm_divergence, map_moments

    g = torch.Generator().manual_seed(0)
    norm = ContinualNorm2d(3, None)
    norm.running_mean.copy_(torch.randn(3, generator=g)), norm.running_var.copy_(0.5 + torch.rand(3, generator=g))
    a = torch.randn(7, 3, 4, 4, generator=g)
    batch = Normal(a.mean((0, 2, 3)), a.var((0, 2, 3), correction=0).sqrt())
    running = Normal(norm.running_mean, (norm.running_var + norm.eps).sqrt())
    expected = kl_divergence(running, batch).mean()
    torch.testing.assert_close(batch_norm_divergence(norm, *map_moments(a)), expected)


def test_relational_distillation_by_a_loop_over_triples():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(2))

    def cosine(f, i, j, k):
        x, y = f[j] - f[i], f[k] - f[i]
        return 0.0 if j == i or k == i else float(F.cosine_similarity(x, y, dim=0))

    for i, value in enumerate(angles_apart(a, b).tolist()):
        loop = [abs(cosine(a, i, j, k) - cosine(b, i, j, k)) for j in range(4) for k in range(4)]
        assert value == pytest.approx(np.mean(loop), rel=1e-9)


def test_pass_turns_images_and_scores_them_upright(learned, tasks):
    learner = learned(2, "pass")
    assert learner.net.n_classes == 4 * 5
    assert learner.scores(tasks()[0].val.images / 255).shape[1] == 5
    features = learner.features(tasks()[1].train.images)
    labels = tasks()[1].train.labels
    torch.testing.assert_close(learner.means[3], features[labels == 3].mean(0))


def test_pass_replays_noise_of_the_measured_radius(learned):
    learner = learned(1, "pass")
    around, of = learner.augmented(4000, torch.Generator().manual_seed(0))
    assert set(of.tolist()) == {0, 1}
    apart = around - learner.means[of]
    assert apart.std().item() == pytest.approx(learner.radius.item(), rel=0.02)


def test_a_data_free_rival_declares_no_exemplars(learned):
    part = Labelled(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert part.images.dtype == torch.uint8
    for kind in ("lwf", "ewc", "si", "acil", "fecam", "pass", "abd"):
        assert all("exemplar" not in one.kind for one in learned(1, kind).stored())
