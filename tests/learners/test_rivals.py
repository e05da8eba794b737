"""Each rival against something that is not itself."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ccsi import losses
from ccsi.data import Labelled, Task
from ccsi.errors import UserError
from ccsi.learners.ewc import fisher_diagonal
from ccsi.learners.parts.exemplars import ExemplarBudget
from ccsi.learners.parts.heads import joined_head, separate_heads
from ccsi.learners.parts.importance import quadratic
from ccsi.learners.r_dfcil import angle_differences
from ccsi.models import IncrementalNet
from ccsi.stage import Stages

OFF = {
    "lwf": {"distillation": 0.0, "local": False},
    "ewc": {"penalty": 0.0},
    "si": {"penalty": 0.0},
}


@pytest.mark.parametrize("kind", OFF)
def test_without_its_own_term_a_method_is_finetune_to_the_bit(learned, same, kind):
    assert same(learned(3, kind, **OFF[kind]), learned(3, "finetune"))
    assert not same(
        learned(3, kind, **({"penalty": 10.0} if kind != "lwf" else {"local": False})), learned(3, "finetune")
    )


def test_deep_inversion_is_ccsi_without_ccsis_own(learned, same):
    """One objective for the images, one for the net: what is left of either is the same."""
    synthesis = {"init": "noise", "class_moments": 0.0}
    one = learned(3, "deep_inversion", distillation=0.0, synthetic_ratio=0.4)
    off = {"distillation": 0.0, "w_margin": 0.0, "w_idc": 0.0, "imprint": False}
    two = learned(3, "ccsi", synthesis=synthesis, synthetic_ratio=0.4, freeze_prototypes=False, **off)
    assert torch.equal(one.impressions.images, two.impressions.images)
    assert same(one, two)


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


def test_synaptic_importance_is_of_the_cross_entropy_alone(learned, tasks, monkeypatch):
    """At the second task, where the penalty moves the weights too: ω from gradients taken apart from it."""
    from ccsi.training import Training

    options = {"penalty": 50.0, "damping": 1e-3, "training": {"precision": "float64", "epochs": 1}}
    learner, task, steps, penalties = learned(1, "si", **options), tasks()[1], [], []
    old, fit = [omega.clone() for omega in learner.importance], Training.fit

    def weights(net):
        return [net.scale, net.old, net.new, *net.backbone.parameters()]

    def watched(self, net, data, objective, *rest):
        class Watch:
            def __call__(self, net, images, labels):
                parts = objective(net, images, labels)
                before = [p.detach().clone() for p in weights(net)]
                steps.append((before, torch.autograd.grad(parts["ce"], weights(net), retain_graph=True)))
                penalties.append(parts["penalty"].item())
                return parts

            def state_dict(self):
                return objective.state_dict()

            def load_state_dict(self, state):
                objective.load_state_dict(state)

        return fit(self, net, data, Watch(), *rest)

    monkeypatch.setattr(Training, "fit", watched)
    learner.learn(task, Stages())
    places = [before for before, _ in steps] + [[p.detach() for p in weights(learner.net)]]
    ways = [
        -sum(slopes[i] * (after[i] - before[i]) for (before, slopes), after in zip(steps, places[1:], strict=True))
        for i in range(len(places[0]))
    ]
    moved = [b - a for a, b in zip(places[0], places[-1], strict=True)]
    gained = [(way / (far.square() + 1e-3)).clamp(min=0) for way, far in zip(ways, moved, strict=True)]
    scale, old_prototypes, new_prototypes, *backbone = gained
    expected = [scale, torch.cat([old_prototypes, new_prototypes]), *backbone]
    for before, after, new in zip(old, learner.importance, expected, strict=True):
        fuller = F.pad(before, (0, 0, 0, len(after) - len(before))) if after.shape != before.shape else before
        torch.testing.assert_close(after, fuller + new)
    assert max(penalties) > 0.01


# ---- frozen backbones ----


def by_tasks(learner, tasks):
    """The features of all tasks as the learner's own net gives them, and their labels."""
    return torch.cat([learner.features(t.train.images) for t in tasks]), torch.cat([t.train.labels for t in tasks])


def test_acil_is_joint_ridge_regression_in_whatever_order(learned, make, tasks):
    from sklearn.linear_model import Ridge

    learner, all_tasks = learned(3, "acil"), tasks()
    features, labels = by_tasks(learner, all_tasks)
    x = F.relu(features.double() @ learner.buffer).numpy()
    joint = Ridge(alpha=learner.ridge, fit_intercept=False, solver="cholesky").fit(x, np.eye(6)[labels.numpy()])
    largest = np.abs(joint.coef_).max()
    np.testing.assert_allclose(learner.solution.numpy(), joint.coef_.T, rtol=1e-4, atol=1e-4 * largest)
    # the other way round, with the same backbone: the class that came last comes first
    other, renamed = make("acil"), [5, 2, 3, 4, 0, 1]
    other.net = learner.net
    for index, (task, classes) in enumerate(
        zip(reversed(all_tasks), (range(1), range(1, 4), range(4, 6)), strict=True)
    ):
        labels = torch.tensor([renamed.index(c) for c in task.train.labels.tolist()])
        again = Task(index, classes, Labelled(task.train.images, labels), task.val)
        other.heads.append(classes)
        other.update_statistics(again, other.features(task.train.images))
    other.refit()
    torch.testing.assert_close(other.solution, learner.solution[:, renamed], rtol=1e-6, atol=1e-9)


def test_ds_als_second_stream_is_ridge_regression_on_residuals(learned, tasks):
    from sklearn.linear_model import Ridge

    xs, residuals = [], []
    for n, task in enumerate(tasks(), 1):
        main = learned(n, "acil")
        features = main.features(task.train.images)
        left = F.one_hot(task.train.labels, 6).double() - F.pad(
            main.classify_features(features), (0, 6 - task.classes.stop)
        )
        left[:, : task.classes.start], left[:, task.classes.stop :] = 0, 0
        xs.append(torch.tanh(features.double() @ main.buffer)), residuals.append(left)
    joint = Ridge(alpha=0.1, fit_intercept=False, solver="cholesky").fit(
        torch.cat(xs).numpy(), torch.cat(residuals).numpy()
    )
    learner = learned(3, "ds_al")
    np.testing.assert_allclose(learner.second.numpy(), joint.coef_.T, rtol=1e-5, atol=1e-8)
    f = learner.features(tasks()[1].val.images)
    expected = main.classify_features(f) + 0.6 * torch.tanh(f.double() @ main.buffer) @ torch.from_numpy(joint.coef_.T)
    torch.testing.assert_close(learner.classify_features(f), expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_ncm_is_scikit_learns_nearest_centroid(learned, tasks, normalize):
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize as of_length_1

    learner = learned(3, "ncm", normalize=normalize)
    features, labels = by_tasks(learner, tasks())
    val = learner.features(torch.cat([t.val.images for t in tasks()]))
    if normalize:
        unit, judged = of_length_1(features.numpy()), of_length_1(val.numpy())
        means = of_length_1(NearestCentroid().fit(unit, labels.numpy()).centroids_)
        np.testing.assert_allclose(learner.means.numpy(), means, rtol=1e-4, atol=1e-6)
        assert (
            learner.classify_features(val).argmax(1).tolist() == (judged @ means.T).argmax(1).tolist()
        )  # all of length 1
        return
    other = NearestCentroid().fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(learner.means.numpy(), other.centroids_, rtol=1e-5)
    assert learner.classify_features(val).argmax(1).tolist() == other.predict(val.numpy()).tolist()


def test_fecam_is_the_mahalanobis_distance_of_scikit_learns_shrunk_covariance(learned, tasks):
    from sklearn.covariance import ShrunkCovariance

    g = 0.7
    learner = learned(3, "fecam", shrink_diagonal=g, shrink_rest=0.0, tukey=1.0, normalize=False, unit_length=False)
    features, labels = by_tasks(learner, tasks())
    val = learner.features(torch.cat([t.val.images for t in tasks()]))
    for c in range(6):  # (1 − s)Σ + s·V·I with s = γ/(1 + γ), times (1 + γ)
        other = ShrunkCovariance(shrinkage=g / (1 + g)).fit(features[labels == c].double().numpy())
        far = other.mahalanobis(val.double().numpy()) / (1 + g)
        np.testing.assert_allclose(-learner.classify_features(val)[:, c].numpy(), far, rtol=1e-5)


def test_fetril_moves_the_nearest_new_class_to_where_an_old_one_was(learned, tasks, monkeypatch):
    from ccsi.learners import fetril

    given = []
    linear_svm = fetril.linear_svm
    monkeypatch.setattr(fetril, "linear_svm", lambda x, y, c: given.append((x, y)) or linear_svm(x, y, c))
    learner = learned(2, "fetril", fresh=True)
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
    learner = learned(2, "icarl", budget=ExemplarBudget(per_class=1000))
    ncm = learned(1, "ncm")
    ncm.net, ncm.means = learner.net, ncm.means[:0]
    for task in tasks()[:2]:
        ncm.update_statistics(task, ncm.features(task.train.images))
    val = torch.cat([t.val.images for t in tasks()[:2]])
    scores = learner.scores(val / 255)
    torch.testing.assert_close(scores, ncm.classify_features(ncm.features(val)))
    features, labels = (part.numpy() for part in by_tasks(learner, tasks()[:2]))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)  # algorithm 1, with all images of a class
    means = np.stack([unit[labels == c].mean(0) for c in range(5)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    x = learner.features(val).numpy()
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert scores.argmax(1).tolist() == np.linalg.norm(x[:, None] - means, axis=2).argmin(1).tolist()


def test_er_that_keeps_everything_learns_from_the_images_joint_training_does(learned, make, tasks, monkeypatch):
    from ccsi.training import Training

    seen = {}
    fit = Training.fit

    def watched(self, net, data, *rest):
        parts = [data.train] if data.replay is None else [data.train, data.replay]
        rows = [(int(y), x.numpy().tobytes()) for part in parts for x, y in zip(part.images, part.labels, strict=True)]
        seen.setdefault(kind, []).append(sorted(rows))
        assert data.replay_ratio is None
        return fit(self, net, data, *rest)

    monkeypatch.setattr(Training, "fit", watched)
    for kind in ("er", "joint"):
        learned(3, kind, fresh=True, **({"budget": ExemplarBudget(per_class=1000)} if kind == "er" else {}))
    assert seen["er"] == seen["joint"]


def test_exemplars_are_the_tasks_own_images_within_the_budget(learned, tasks):
    learner = learned(3, "er", budget=ExemplarBudget(total=20))
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

    def pulled(a, b):
        return loss(a, b) + 0.05 * ((a - 1) ** 2 + b**2)

    found = make("bic").fitted(logits, labels, 2)
    best = min((pulled(a, b), a, b) for a in np.linspace(0.2, 1.5, 66) for b in np.linspace(-2, 1, 61))
    assert found == pytest.approx(best[1:], abs=0.05)
    assert pulled(*found) <= best[0] + 1e-9
    apart = 20 * np.eye(4)  # all called right: without the pull there would be no end
    assert make("bic").fitted(apart, np.arange(4), 2) == pytest.approx([1.0, 0.0], abs=0.01)


def test_bic_holds_out_as_many_of_each_class_and_trains_on_none_of_them(learned, tasks):
    learner = learned(1, "bic", budget=ExemplarBudget(per_class=10), held_out=0.2)
    task = tasks()[1]
    train, replay, held = learner.split(task)
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
    assert torch.equal(learner.corrected(z[:, :2]), z[:, :2])  # the teacher's, which has no third head yet
    learner.heads.append(range(5, 6))  # a new task, whose numbers are still to come
    wider = torch.cat([z, z[:, :1]], 1)
    assert torch.equal(learner.corrected(wider), torch.cat([expected, z[:, :1]], 1))


def test_bic_is_corrected_on_what_it_held_out(learned, tasks):
    learner = learned(1, "bic", budget=ExemplarBudget(per_class=10), held_out=0.5)
    task = tasks()[1]
    _, _, held = learner.split(task)
    learner.learn(task, Stages())
    assert learner.correction[0].tolist() == [1, 0] != learner.correction[1].tolist()

    def loss(a, b):
        learner.correction[1] = torch.tensor([a, b])
        with torch.no_grad():
            fit = F.cross_entropy(learner.scores(held.images / 255).double(), held.labels).item()
        return fit + 0.05 * ((a - 1) ** 2 + b**2)

    a, b = learner.correction[1].tolist()
    assert all(loss(a, b) <= loss(a + da, b + db) + 1e-6 for da in (-0.05, 0, 0.05) for db in (-0.05, 0, 0.05))


def test_a_budget_too_small_is_refused_before_anything_is_learned(make):
    with pytest.raises(UserError, match=r"learner\.budget\.total=5 is less than one image for each of 6 classes"):
        make("icarl", budget=ExemplarBudget(total=5)).check([2, 3, 1])
    with pytest.raises(UserError, match="at least two images for each of 6 classes"):
        make("bic", budget=ExemplarBudget(per_class=1)).check([2, 3, 1])
    with pytest.raises(UserError, match="at least two images for each of 6 classes"):
        make("bic", budget=ExemplarBudget(total=11)).check([2, 3, 1])


def test_bic_corrects_nothing_where_a_class_has_a_single_image(learned, tasks):
    learner = learned(1, "bic", budget=ExemplarBudget(per_class=10))
    keep = torch.cat([torch.arange(1), (learner.kept_labels == 1).nonzero()[:, 0]])
    learner.kept_images, learner.kept_labels = learner.kept_images[keep], learner.kept_labels[keep]
    _, replay, held = learner.split(tasks()[1])
    assert not len(held) and len(replay) == len(keep)
    learner.learn(tasks()[1], Stages())
    assert learner.correction.tolist() == [[1, 0], [1, 0]]


def test_a_diverged_backbone_is_told_before_anything_is_computed_from_it(make, tasks):
    learner = make("fetril", training={"lr": 1e30})
    with pytest.raises(UserError, match="task 1: training diverged: its loss"):
        learner.learn(tasks()[0], Stages())


# ---- generated images ----


@pytest.mark.parametrize("norm", ["batch", "cn"])
def test_deep_inversions_images_are_ccsis_with_its_options_off(learned, norm):
    off = {"synthesis": {"init": "noise", "class_moments": 0.0}, "norm": norm}
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

    for i, value in enumerate(angle_differences(a, b).tolist()):
        loop = [abs(cosine(a, i, j, k) - cosine(b, i, j, k)) for j in range(4) for k in range(4)]
        assert value == pytest.approx(np.mean(loop), rel=1e-9)


def test_pass_turns_images_and_scores_them_upright(learned, tasks):
    learner = learned(2, "pass")
    assert learner.net.n_classes == 4 * 5
    assert learner.scores(tasks()[0].val.images / 255).shape[1] == 5
    features = learner.features(tasks()[1].train.images)
    labels = tasks()[1].train.labels
    torch.testing.assert_close(learner.means[3], features[labels == 3].mean(0))


def test_pass_replays_noise_of_the_measured_radius(learned, tasks):
    learner = learned(1, "pass")
    features, labels = learner.features(tasks()[0].train.images).numpy(), tasks()[0].train.labels.numpy()
    traces = [np.trace(np.cov(features[labels == c].T, bias=True)) / features.shape[1] for c in (0, 1)]
    assert learner.radius.item() == pytest.approx(np.sqrt(np.mean(traces)), rel=1e-5)
    around, of = learner.augmented(4000, torch.Generator().manual_seed(0))
    assert set(of.tolist()) == {0, 1}
    apart = around - learner.means[of]
    assert apart.std().item() == pytest.approx(learner.radius.item(), rel=0.02)


# ---- what each puts together of these ----


@pytest.fixture
def first_batch(make, learned, tasks, monkeypatch):
    """A function that gives a learner at its second task, the loss parts of a batch of it, and the net before."""

    def first_batch(kind, **options):
        from ccsi.training import Training

        learner, before = learned(1, kind, **options), learned(1, kind, **options).net.requires_grad_(False).eval()
        kept = {}

        def fit(self, net, data, objective, *rest):
            if not kept:
                net.train()
                parts = [(data.train, 6)] if data.replay is None else [(data.train, 6), (data.replay, 4)]
                images = torch.cat([part.images[:n] for part, n in parts])
                labels = torch.cat([part.labels[:n] for part, n in parts])
                kept.update(images=images / 255, labels=labels)
                kept["parts"] = objective(net, kept["images"], labels)
                kept["features"] = net.features(kept["images"], moving=0)
                kept["logits"] = net.scale * net.cosines(kept["features"])
            return {}

        with monkeypatch.context() as patch, contextlib.suppress(UserError):  # there is nothing to go on with
            patch.setattr(Training, "fit", fit)
            learner.learn(tasks()[1], Stages())
        return learner, before, kept

    return first_batch


@pytest.mark.parametrize(("kind", "options"), [("lwf", {}), ("lwf", {"separate": True}), ("eeil", {})])
def test_old_outputs_are_distilled_each_head_by_itself_or_all_as_one(first_batch, kind, options):
    learner, before, batch = first_batch(kind, distillation=3.0, temperature=2.5, **options)
    z, old = batch["logits"], before(batch["images"])
    first = 2 if kind == "lwf" else 0
    assert len(batch["labels"]) == (6 if kind == "lwf" else 10)  # exemplars among them
    torch.testing.assert_close(batch["parts"]["ce"], F.cross_entropy(z[:, first:], batch["labels"] - first))
    torch.testing.assert_close(batch["parts"]["distillation"], 3 * losses.knowledge_distillation(z[:, :2], old, 2.5))
    learner.heads = [range(2), range(2, 5)]  # at its third task
    assert separate_heads(learner.heads) == [range(2), range(2, 5)] and joined_head(learner.heads) == [range(5)]
    assert separate_heads([range(4), range(4, 5)]) == [range(5)]


def test_lwf_at_its_third_task_sums_over_heads(learned, tasks, monkeypatch):
    found = {}
    for separate in (False, True):
        learner = learned(2, "lwf", separate=separate)
        before = learned(2, "lwf", separate=separate).net
        images = tasks()[2].train.images[:8] / 255
        told = []
        monkeypatch.setattr(
            type(learner), "fit", lambda self, task, objective, *rest, told=told: told.append(objective)
        )
        learner.learn(tasks()[2], Stages())
        monkeypatch.undo()
        z, old = learner.net(images), before(images)
        heads = [slice(0, 2), slice(2, 5)] if separate else [slice(0, 5)]
        expected = sum(losses.knowledge_distillation(z[:, h], old[:, h], 2.0) for h in heads)
        found[separate] = told[0](learner.net, images, tasks()[2].train.labels[:8])["distillation"]
        torch.testing.assert_close(found[separate], expected, rtol=1e-3, atol=1e-5)


def test_lwf_mc_learns_new_labels_and_old_outputs(first_batch):
    _, before, batch = first_batch("lwf_mc", distillation=2.0)
    z, old = batch["logits"], before(batch["images"]).sigmoid()
    wanted = torch.cat([old, F.one_hot(batch["labels"], 5)[:, 2:].float()], 1)
    one_by_one = F.binary_cross_entropy_with_logits(z, wanted, reduction="none").sum(0) / len(z)
    torch.testing.assert_close(batch["parts"]["bce"], one_by_one[2:].sum())
    torch.testing.assert_close(batch["parts"]["distillation"], 2 * one_by_one[:2].sum())


def test_lucirs_parts_are_ccsis_on_the_same_images(first_batch, learned, tasks):
    from ccsi.learners.ccsi import Update

    settings = {"distillation": 4.0, "w_margin": 0.7, "margin": 0.4, "top_k": 2}
    learner, before, batch = first_batch("lucir", **settings)
    ccsi = learned(1, "ccsi", w_idc=0.0, balance="none", **settings)
    ccsi.net = learner.net
    expected = Update(ccsi, tasks()[1], before)(learner.net, batch["images"], batch["labels"])
    for name in ("ce", "distillation", "margin"):
        torch.testing.assert_close(batch["parts"][name], expected[name])


def test_abds_parts(first_batch, tasks):
    learner, before, batch = first_batch("abd", distillation=0.3, fine_tuning=0.5)
    net, parts = learner.net.train(), batch["parts"]
    learner.train_generator(tasks()[1], Stages())
    generated, pseudo_labels = learner.generated(6)
    assert torch.equal(pseudo_labels, before(generated).argmax(1)) and generated.min() >= 0 and generated.max() <= 1
    both = torch.cat([batch["images"], generated])
    f, old = net.features(both, moving=0), before.features(both)
    z = net.scale * net.cosines(f)
    torch.testing.assert_close(parts["ce"], F.cross_entropy(z[:6, 2:], batch["labels"] - 2))
    w = torch.cat([before.old, before.new])
    moved = [((a - b) @ row / row.norm()) ** 2 for a, b in zip(f, old, strict=True) for row in w]
    torch.testing.assert_close(parts["distillation"], 0.3 * torch.stack(moved).mean())
    everyone = torch.cat([batch["labels"], pseudo_labels])
    torch.testing.assert_close(parts["fine_tuning"], 0.5 * F.cross_entropy(z, everyone))
    moves = torch.autograd.grad(parts["fine_tuning"], list(net.backbone.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in moves)  # the classifier alone


def test_r_dfcils_parts(first_batch, tasks):
    learner, before, batch = first_batch("r_dfcil", w_ce=0.5, w_hard=0.2, w_relation=0.3)
    net, parts = learner.net.train(), batch["parts"]
    learner.train_generator(tasks()[1], Stages())
    generated, _ = learner.generated(6)
    f = net.features(torch.cat([batch["images"], generated]), moving=0)
    z = net.scale * net.cosines(f)
    alpha, beta = np.log2(3 / 2 + 1), np.sqrt(2 / 3)
    ce = F.cross_entropy(z[:6, 2:], batch["labels"] - 2)
    torch.testing.assert_close(parts["ce"], 0.5 * (1 + 1 / alpha) / beta * ce)
    hard = (z[6:, :2] - before(generated)).abs().mean()
    torch.testing.assert_close(parts["hard"], 0.2 * alpha * beta * hard)
    now, then = (m(x) for m, x in zip(net.relation, (f[:6], before.features(batch["images"])), strict=True))
    torch.testing.assert_close(parts["relation"], 0.3 * alpha * beta * angle_differences(now, then).mean())


def test_bics_parts(first_batch):
    _, before, batch = first_batch("bic", budget=ExemplarBudget(per_class=10), temperature=2.5)
    assert batch["labels"].tolist()[6:] == [0, 0, 0, 0]  # exemplars among them
    z, old = batch["logits"], before(batch["images"])  # the first task has no correction, its numbers are 1 and 0
    share = 2 / 5
    torch.testing.assert_close(batch["parts"]["ce"], (1 - share) * F.cross_entropy(z, batch["labels"]))
    kept = losses.knowledge_distillation(z[:, :2], old, 2.5)
    torch.testing.assert_close(batch["parts"]["distillation"], share * kept)


def test_bics_teacher_is_corrected_too(learned, tasks, monkeypatch):
    learner, before = learned(2, "bic"), learned(2, "bic").net
    learner.correction = torch.tensor([[1.0, 0.0], [0.5, -2.0]])
    images, told = tasks()[2].train.images[:8] / 255, []
    monkeypatch.setattr(type(learner), "fit", lambda self, task, objective, *rest: told.append(objective))
    learner.learn(tasks()[2], Stages())
    learner.correction = learner.correction[:2]  # as it was while the net learned
    with torch.no_grad():
        z, old = learner.net(images), before(images)
    for logits in (z, old):
        logits[:, 2:5] = 0.5 * logits[:, 2:5] - 2
    expected = 5 / 6 * losses.knowledge_distillation(z[:, :5], old, 2.0)
    parts = told[0](learner.net, images, tasks()[2].train.labels[:8])
    torch.testing.assert_close(parts["distillation"], expected)


def test_deep_inversions_parts(first_batch):
    _, before, batch = first_batch("deep_inversion", distillation=3.0, temperature=2.5)
    z, old = batch["logits"], before(batch["images"])
    assert len(z) == 10 and set(batch["labels"].tolist()[6:]) <= {0, 1}  # images it made among them
    torch.testing.assert_close(batch["parts"]["ce"], F.cross_entropy(z, batch["labels"]))
    torch.testing.assert_close(batch["parts"]["distillation"], 3 * losses.knowledge_distillation(z[:, :2], old, 2.5))


def test_passs_parts(first_batch, tasks):
    learner, before, batch = first_batch("pass", w_prototypes=0.3, distillation=0.7)
    net = learner.net.train()
    x, y = batch["images"], batch["labels"]  # 4·c: upright
    turned = torch.cat([x, x.rot90(1, (2, 3)), x.rot90(2, (2, 3)), x.rot90(3, (2, 3))])
    f, old = net.features(turned, moving=0), before.features(turned)
    z = net.scale * net.cosines(f)
    assert z.shape == (24, 20) and y.min() >= 8 and not (y % 4).any()
    torch.testing.assert_close(batch["parts"]["ce"], F.cross_entropy(z, torch.cat([y, y + 1, y + 2, y + 3])))
    far = np.linalg.norm((f - old).detach().numpy(), axis=1).mean()
    assert batch["parts"]["distillation"].item() == pytest.approx(0.7 * far, rel=1e-5)
    around, of = learner.augmented(6, learner.streams.generator("augmented prototypes", 1))
    prototypes = torch.cat([net.old, net.new])
    z = net.scale * F.normalize(around) @ F.normalize(prototypes).T
    torch.testing.assert_close(batch["parts"]["prototypes"], 0.3 * F.cross_entropy(z, 4 * of))


# ---- slips of who writes a learner ----


def test_images_must_be_kept_by_the_kind_that_ends_data_free(learned):
    from ccsi.learners import Finetune

    class Keeps(Finetune):
        stored_buffers = {"old": "memories"}  # noqa: RUF012

    learner = learned(1, "finetune")
    learner.__class__, learner.old = Keeps, [torch.zeros(5, 1, 8, 8, dtype=torch.uint8)]
    with pytest.raises(TypeError, match=r"Keeps\.stored_buffers: old are images; expected their kind to be exemplars"):
        learner.stored()
    Keeps.stored_buffers = {"old": "exemplars"}
    (kept,) = learner.stored()
    assert (kept.count, kept.bytes) == (5, 5 * 64)


def test_a_net_without_room_for_the_task_is_told(make, tasks):
    learner = make("finetune")
    with pytest.raises(RuntimeError, match=r"Finetune\.learn: no room for the task's classes; expected self\.grow"):
        learner.fit(tasks()[0], learner.objective(tasks()[0]), Stages())


# ---- second stages, which even out old and new classes ----


@pytest.fixture
def fits(learned, tasks, monkeypatch):
    """A function that lets a learner learn its second task, and gives what each stage of training was asked."""

    def fits(kind, **options):
        from ccsi.training import Training

        learner, seen, fit = learned(1, kind, **options), [], Training.fit

        def watched(self, net, data, *rest):
            before = {name: value.clone() for name, value in net.state_dict().items()}
            done = fit(self, net, data, *rest)
            moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
            seen.append((self, data.train, moved))
            return done

        with monkeypatch.context() as patch:
            patch.setattr(Training, "fit", watched)
            learner.learn(tasks()[1], Stages())
        return learner, seen

    return fits


BY_VAL = {"select": "best_val", "schedule": "plateau", "lr": 0.1}
"""What would undo a balanced stage: the task's val images are of new classes only."""


def test_eeils_second_stage_sees_as_many_of_each_class_and_goes_to_its_end(fits):
    learner, ((first, real, _), (second, balanced, _)) = fits(
        "eeil", training=BY_VAL, budget=ExemplarBudget(per_class=7), balanced_lr=0.3
    )
    assert (first.select, first.schedule, set(real.labels.tolist())) == ("best_val", "plateau", {2, 3, 4})
    assert (second.select, second.schedule, second.epochs) == ("last", "cosine", 1)
    assert second.lr == pytest.approx(0.03)
    assert balanced.labels.bincount().tolist() == [7] * 5
    assert torch.equal(balanced.images, learner.kept_images)


def test_r_dfcils_refinement_moves_the_classifier_alone(fits):
    _, ((_, _, first), (second, _, moved)) = fits("r_dfcil", training=BY_VAL)
    assert any(name.startswith("backbone") for name in first)
    assert moved == {"old", "new", "scale"}
    assert (second.select, second.schedule) == ("last", "cosine")


@pytest.mark.parametrize(("off", "left"), [("w_hard", {"ce", "relation"}), ("w_relation", {"ce", "hard"})])
def test_a_weight_of_0_costs_r_dfcil_nothing(first_batch, off, left):
    assert set(first_batch("r_dfcil", **{off: 0.0})[2]["parts"]) == left


def test_r_dfcils_weights_by_hand(make):
    learner = make("r_dfcil", w_ce=0.5)
    alpha, beta = np.log2(3 / 2 + 1), np.sqrt(6 / 3)
    assert learner.weights_for(6, 3) == pytest.approx((0.5 * (1 + 1 / alpha) / beta, alpha * beta))


def test_online_ewc_fades_old_fishers(learned, make, tasks):
    one, two = learned(1, "ewc", decay=0.5), learned(2, "ewc", decay=0.5)
    newest = fisher_diagonal(two.net, two.sample(tasks()[1]))
    for old, both, new in zip(one.fisher, two.fisher, newest, strict=True):
        faded = F.pad(0.5 * old, (0, 0, 0, len(both) - len(old))) if old.shape != both.shape else 0.5 * old
        torch.testing.assert_close(both, faded + new)


def test_fetril_judges_as_the_support_vector_machine_does(learned, tasks, monkeypatch):
    from sklearn.svm import LinearSVC

    from ccsi.learners import fetril

    given = []
    linear_svm = fetril.linear_svm
    monkeypatch.setattr(fetril, "linear_svm", lambda x, y, c: given.append((x, y)) or linear_svm(x, y, c))
    for n in (1, 2):  # of two classes, and of five
        given.clear()
        learner = learned(n, "fetril", fresh=True)
        svm = LinearSVC(C=1.0, dual=False).fit(given[-1][0].double().numpy(), given[-1][1].numpy())
        features = learner.features(tasks()[0].val.images)
        expected = svm.decision_function(F.normalize(features).double().numpy())
        found = learner.classify_features(features).numpy()
        np.testing.assert_allclose(found[:, 1] if n == 1 else found, expected, rtol=1e-6, atol=1e-9)
        assert found.argmax(1).tolist() == svm.predict(F.normalize(features).double().numpy()).tolist()


def test_fecams_defaults_by_a_loop(learned, tasks):
    learner = learned(2, "fecam", shrink_diagonal=0.7, shrink_rest=0.4)
    features, labels = by_tasks(learner, tasks()[:2])
    val = learner.features(tasks()[0].val.images).double().numpy()[:3]

    def power(x):
        return np.sign(x) * np.abs(x) ** 0.5

    def unit(x):
        return x / np.linalg.norm(x)

    for c in range(5):
        x = power(features[labels == c].double().numpy())
        d = x.shape[1]
        cov = np.cov(x.T, bias=True)
        v1, v2 = np.trace(cov) / d, (cov.sum() - np.trace(cov)) / (d * (d - 1))
        cov = cov + 0.7 * v1 * np.eye(d) + 0.4 * v2 * (1 - np.eye(d))
        deviation = np.sqrt(np.diag(cov))
        inverse = np.linalg.pinv(cov / np.outer(deviation, deviation))
        for i, image in enumerate(val):
            apart = unit(power(image)) - unit(x.mean(0))
            assert -learner.classify_features(torch.from_numpy(val))[i, c].item() == pytest.approx(
                apart @ inverse @ apart, rel=1e-5
            )


def test_a_class_of_one_image_does_not_take_all_others(make, tasks):
    learner, task = make("fecam"), tasks()[0]
    keep = torch.cat([(task.train.labels == 0).nonzero()[:1, 0], (task.train.labels == 1).nonzero()[:, 0]])
    one = dataclasses.replace(task, train=Labelled(task.train.images[keep], task.train.labels[keep]))
    learner.learn(one, Stages())
    assert learner.scores(task.val.images / 255).isfinite().all()
    guesses = learner.scores(task.train.images / 255).argmax(1)
    assert 1 in guesses.tolist()
