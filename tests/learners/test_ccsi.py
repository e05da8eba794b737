"""CCSI's update against METHOD sections 3 and 5: each loss's value, weight, share and cost."""

import math

import pytest
import torch
from torch.nn import functional as F

from ccsi import losses
from ccsi.data import Labelled
from ccsi.errors import UserError
from ccsi.learners import NetLearner
from ccsi.learners.ccsi import Update
from ccsi.stage import Stages


def update_of(learner, task, teacher=None) -> Update:
    return Update(learner, task, teacher)


@pytest.fixture
def ready(learned, tasks):
    """A function that makes a learner at the start of its second task's update, and a mixed batch."""

    def ready(**options):
        learner = learned(1, **options)
        task = tasks()[1]
        teacher = learned(1, **options).net.requires_grad_(False).eval()
        images = torch.randint(0, 256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        learner.impressions = Labelled(images, torch.arange(12) % 2)
        learner.net.grow(learner.imprinted(task))
        objective = update_of(learner, task, teacher)
        images = torch.cat([task.train.images[:6], learner.impressions.images[:4]]) / 255
        labels = torch.cat([task.train.labels[:6], learner.impressions.labels[:4]])
        return learner, task, teacher, objective, images, labels

    return ready


def test_the_parts_of_one_batch_are_the_methods_losses(ready):
    learner, task, teacher, objective, images, labels = ready()
    net = learner.net.train()
    with torch.no_grad():
        net.scale.fill_(2.5)
        f = net.features(images, moving=0)
        f_old = teacher.features(images)
        w = torch.cat([net.old, net.new])
        s = torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in w]) for a in f])
    g = learner.streams.generator("target", task.index)
    chosen = torch.randint(len(task.train), (len(labels),), generator=g)
    with torch.no_grad():
        target = net.cosines(net.features(task.train.images[chosen] / 255, moving=0))
    parts = {name: value.item() for name, value in objective(net, images, labels).items()}
    n_old, n_new = 2, 3
    ce = -sum(math.log(math.exp(2.5 * s[i, y]) / (2.5 * s[i]).exp().sum()) for i, y in enumerate(labels)) / 10
    far = sum(1 - (a @ b / (a.norm() * b.norm())).item() for a, b in zip(f, f_old, strict=True)) / 10
    old = [i for i, y in enumerate(labels) if y < n_old]
    near = sum(max(0.0, 0.3 - s[i, labels[i]].item() + s[i, n_old:].max().item()) for i in old) / len(old)
    pseudo = target.argmax(1)
    both = [c for c in range(5) if (labels == c).any() and (pseudo == c).any()]
    e = [
        [F.cosine_similarity(target[pseudo == c].mean(0), s[labels == b].mean(0), dim=0).exp().item() for b in both]
        for c in both
    ]
    idc = math.log(sum(map(sum, e))) - math.log(sum(e[i][i] for i in range(len(both)))) if both else 0.0
    wanted = {"ce": ce, "distillation": 5 * math.sqrt(n_old / n_new) * far, "margin": near, "idc": idc}
    assert len(both) >= 2
    assert parts == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_lambda_grows_with_the_real_number_of_new_classes(learned, tasks):
    learner = learned(2)
    task = tasks()[2]  # one class, fewer than the tasks before
    learner.net.grow(learner.random_prototypes(1, 2))
    assert update_of(learner, task).w_distillation == pytest.approx(5 * math.sqrt(5 / 1))


def test_the_first_task_is_cross_entropy_alone(make, tasks):
    learner, task = make(), tasks()[0]
    learner.net.grow(learner.random_prototypes(2, 0))
    parts = update_of(learner, task)(learner.net, task.train.images[:8] / 255, task.train.labels[:8])
    assert set(parts) == {"ce"}


@pytest.mark.parametrize(
    ("options", "left", "student", "teacher"),
    [
        ({}, {"ce", "distillation", "margin", "idc"}, 2, 1),
        ({"distillation": 0.0}, {"ce", "margin", "idc"}, 2, 0),
        ({"w_margin": 0.0}, {"ce", "distillation", "idc"}, 2, 1),
        ({"w_idc": 0.0}, {"ce", "distillation", "margin"}, 1, 1),
        ({"distillation": 0.0, "w_margin": 0.0, "w_idc": 0.0}, {"ce"}, 1, 0),
    ],
)
def test_a_weight_of_zero_costs_no_forward(ready, options, left, student, teacher):
    learner, _, old, objective, images, labels = ready(**options)
    forwards = []
    learner.net.backbone.register_forward_hook(lambda *args: forwards.append("student"))
    old.backbone.register_forward_hook(lambda *args: forwards.append("teacher"))
    assert set(objective(learner.net.train(), images, labels)) == left
    assert (forwards.count("student"), forwards.count("teacher")) == (student, teacher)


def test_target_images_move_no_running_moment(ready):
    after = []
    for weight in (0.0, 1.0):
        learner, _, _, objective, images, labels = ready(w_idc=weight)
        objective(learner.net.train(), images, labels)
        after.append(learner.net.state_dict())
    assert all(torch.equal(after[0][key], after[1][key]) for key in after[0] if "running" in key)


def test_the_teacher_is_the_model_before_and_stays_so(make, tasks):
    learner = make()
    first, second, _ = tasks()
    learner.learn(first, Stages())
    before = {key: value.clone() for key, value in learner.net.state_dict().items()}
    teachers = []

    class Watching(Stages):
        def run(self, name, work):
            if name == "synthesis":
                teachers.append(work.__closure__)
            return super().run(name, work)

    learner.learn(second, Watching())
    (teacher,) = (c.cell_contents for c in teachers[0] if hasattr(c.cell_contents, "backbone"))
    assert teacher is not learner.net and not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_old_prototypes_are_frozen_or_not(learned):
    before = learned(1).net
    rows = torch.cat([before.old, before.new])
    for settings in ({}, {"training": {"weight_decay": 0.1, "momentum": 0.9}}):
        rows = learned(1, **settings).net.new
        assert torch.equal(learned(2, **settings).net.old, rows)
    assert not torch.equal(learned(2, freeze_prototypes=False).net.old, rows)


def test_sigma_is_learned_and_carried(learned):
    one, two = learned(1).net.scale.item(), learned(2).net.scale.item()
    assert one != 1.0 and two != one
    assert abs(two - one) < 0.5 * abs(one)  # it went on from there


def test_new_prototypes_are_imprinted_or_random(learned, tasks):
    task = tasks()[1]
    plain = learned(1, imprint=False)
    drawn = plain.random_prototypes(3, 1)
    plain.grow(task)
    assert torch.equal(plain.net.new, drawn)
    learner = learned(1)
    made = learner.imprinted(task)
    with torch.no_grad():
        f = F.normalize(learner.net.features(task.train.images / 255))
    norm = learner.net.new.norm(dim=1).mean()
    for row, c in enumerate((2, 3, 4)):
        torch.testing.assert_close(made[row], F.normalize(f[task.train.labels == c].mean(0), dim=0) * norm)


def test_class_weights_are_inverse_frequencies(ready):
    learner, task, _, objective, images, labels = ready(balance="class_weights")
    counts = [6, 6, 16, 16, 16]  # 12 impressions of two classes, 48 real images of three
    assert torch.bincount(task.train.labels).tolist()[2:] == counts[2:]
    wanted = torch.tensor([60 / (5 * n) for n in counts])
    torch.testing.assert_close(objective.class_weights, wanted)
    assert (wanted * torch.tensor(counts)).sum() == pytest.approx(60)  # one on average over images
    net = learner.net.train()
    with torch.no_grad():
        logp = (net.scale * net.cosines(net.features(images, moving=0))).log_softmax(1)
    each = [wanted[y] for y in labels]
    ce = -sum(w * logp[i, y] for i, (w, y) in enumerate(zip(each, labels, strict=True))) / sum(each)
    assert objective(net, images, labels)["ce"].item() == pytest.approx(ce.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("balance", "sampled", "weighted"),
    [("sampler", True, False), ("class_weights", False, True), ("both", True, True), ("none", False, False)],
)
def test_one_remedy_for_imbalance_unless_asked(learned, tasks, make, balance, sampled, weighted):
    learner = learned(1, balance=balance, synthetic_ratio=0.5)
    batches = []
    task = tasks()[1]

    class Told(Stages):
        def run(self, name, work):
            result = super().run(name, work)
            if name == "synthesis":
                learner.net.backbone.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
            return result

    learner.w_idc, learner.distillation = 0.0, 0.0
    learner.learn(task, Told())
    n_new, n_old = 48, 12
    # what passed the net: features of the new images to imprint, two epochs each with its val images, and the memory
    epochs = 2 * (2 * n_new if sampled else n_new + n_old)
    assert sum(batches) == n_new + epochs + 2 * len(task.val) + n_new
    assert (update_of(learner, task).class_weights is not None) == weighted


def test_what_is_stored_is_named_and_counted(learned):
    stored = {item.kind: item for item in learned(2).stored()}
    assert stored["class means"].bytes == 5 * 64 * 4
    assert stored["normalization moments"].bytes == 5 * 6 * 2 * 4 * 4  # classes, layers, mean and variance, groups
    assert [item.kind for item in learned(1, norm="batch").stored()] == ["class means"]
    assert all(item.kind != "exemplars" for item in stored.values())


def test_impressions_are_of_every_old_class_as_many(learned):
    learner = learned(3)
    assert torch.bincount(learner.impressions.labels).tolist() == [6] * 5
    assert learner.impressions.images.dtype == torch.uint8 and learner.memory.means.shape == (6, 1, 8, 8)
    assert learned(1).impressions is None


@pytest.mark.parametrize(
    ("target", "permissions"),
    [("new_train", ()), ("unlabeled_pool", ("unlabeled_pool",)), ("as_released", ("test_images",))],
)
def test_targets_beyond_the_tasks_own_need_a_permission(make, target, permissions):
    assert make(idc={"target": target}).permissions == permissions
    assert make(idc={"target": target}, w_idc=0.0).permissions == ()  # switched off: nothing is read


def test_idc_looks_at_the_images_it_was_granted(make, tasks):
    learner, task = make(idc={"target": "unlabeled_pool"}), tasks()[0]
    learner.learn(task, Stages())
    learner.net.grow(learner.random_prototypes(3, 1))
    pool = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    granted = type(task)(1, range(2, 5), tasks()[1].train, tasks()[1].val, pool)
    assert update_of(learner, granted).target is pool
    assert update_of(learner, tasks()[1]).target.shape == (48, 1, 8, 8)


def test_idc_keeps_centroids_over_batches(ready):
    learner, _, _, objective, images, labels = ready(idc={"rho": 0.9}, distillation=0.0, w_margin=0.0)
    net = learner.net.train()
    source, seen = torch.zeros(5, 5), torch.zeros(5, dtype=torch.bool)
    for rows in (slice(0, 5), slice(3, 10), slice(0, 2)):
        with torch.no_grad():
            scores = net.cosines(net.features(images[rows], moving=0))
        batch, present = losses.class_centroids(scores, labels[rows], 5)
        source, seen = losses.moving_centroids(source, seen, batch, present, 0.9)
        objective(net, images[rows], labels[rows])
        torch.testing.assert_close(objective.source, source)
        assert torch.equal(objective.seen, seen) and not objective.source.requires_grad


def test_bfloat16_is_the_networks_alone(learned):
    """Labelled and target images are changed alike, and cosines are told apart, in float32."""
    seen = []

    def augment(images, generator, whole, part):
        seen.append(torch.is_autocast_enabled("cpu"))
        return images

    learner = learned(2, training={"precision": "bfloat16", "augment": augment})
    assert len(seen) > 6 and not any(seen)
    with torch.autocast("cpu", torch.bfloat16):
        assert learner.net.cosines(torch.rand(2, learner.net.old.shape[1])).dtype == torch.float32


ABLATIONS = [
    {"distillation": 0.0},
    {"w_margin": 0.0},
    {"w_idc": 0.0},
    {"synthesis": {"init": "noise"}},
    {"norm": "batch"},
    {"norm": "batch", "synthesis": {"class_moments": 0.0}},
    {"synthesis": {"class_moments": 0.0}},
    {"synthesis": {"w_ce": 0.0}},
    {"synthesis": {"w_f": 0.0}},
    {"synthesis": {"w_tv": 0.0, "w_l2": 0.0}},
    {"synthesis": {"statistics": "pooled"}},
    {"synthesis": {"per_class": None, "batches": [1, 2], "w_tv": [0.1, 0.01]}},
    {"idc": {"form": "per_class"}},
    {"idc": {"rho": [0.9, 0.99], "tau": [1.0, 5.0], "batch_size": 3}},
    {"imprint": False},
    {"freeze_prototypes": False},
    {"balance": "class_weights"},
    {"balance": "both", "synthetic_ratio": [0.66, 0.5]},
    {"balance": "none"},
    {"training": {"precision": "bfloat16"}},
    {"top_k": 2, "margin": 0.5},
]


PLAIN: list[NetLearner] = []  # learned once for all ablations


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_ablation_runs_and_is_another_method(learned, same, options):
    PLAIN or PLAIN.append(learned(3))
    learner = learned(3, **options)
    learner.check([2, 3, 1])
    assert all(value.isfinite().all() for value in learner.net.state_dict().values())
    assert learner.net.n_classes == 6
    assert not same(learner, PLAIN[0])


def test_switched_off_losses_leave_the_other_draws_alone(learned):
    """The impressions of the second task and the order of its batches do not depend on IdC's draws."""
    with_idc, without = learned(2), learned(2, w_idc=0.0)
    assert torch.equal(with_idc.impressions.images, without.impressions.images)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"synthetic_ratio": [0.5]}, "learner.synthetic_ratio"),
        ({"idc": {"rho": [0.9, 0.9, 0.9]}}, "learner.idc.rho"),
        ({"idc": {"tau": [1.0]}}, "learner.idc.tau"),
        ({"synthesis": {"w_tv": [0.1]}}, "learner.synthesis.w_tv"),
        ({"synthesis": {"per_class": None, "batches": [16]}}, "learner.synthesis.batches"),
    ],
)
def test_lists_of_the_wrong_length_name_their_key(make, options, key):
    with pytest.raises(UserError, match=rf"{key}=.*one for each of the 2 tasks after the first"):
        make(**options).check([2, 3, 1])
    make(**options).check([1] * (4 if key == "learner.idc.rho" else 2))
