"""What holds for every learner: it learns, goes on to the same bits, and keeps nothing it must not."""

import copy
import dataclasses
import gc
import io
import sys
from collections import Counter

import pytest
import torch
from every import EVERY
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ccsi.errors import UserError
from ccsi.learners import Joint
from ccsi.learners.frozen import FrozenLearner
from ccsi.learners.replay import ReplayLearner
from ccsi.rng import Streams
from ccsi.stage import Stages

KINDS = sorted(EVERY)


class StopError(Exception):
    pass


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def accuracy(learner, part) -> float:
    with torch.no_grad():
        return (learner.scores(part.images / 255).argmax(1) == part.labels).float().mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_its_task_and_scores_all_classes_seen(learned, tasks, kind):
    learner = learned(2, kind, training={"epochs": 12, "momentum": 0.9})
    task = tasks()[1]
    scores = learner.scores(task.val.images / 255)
    assert scores.shape == (18, 5) and not learner.net.training
    assert accuracy(learner, task.val) > 0.8
    everything = tasks(everything=True)[1].val
    if kind == "joint":
        assert accuracy(learner, everything) > 0.8
    if kind == "finetune":
        assert accuracy(learner, everything) < 0.75  # the lower bound forgets


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_base_promises_a_subclass(make, learned, tasks, kind):
    """Heads, the net as the last task left it, and hooks whose results are used."""
    learner, second = learned(2, kind), 0 if issubclass(EVERY[kind], FrozenLearner) else 1
    assert learner.heads == [range(2), range(2, 5)]
    expected = 0 if kind == "joint" or not second else learned(1, kind).net.n_classes  # joint: a new net each task
    assert learner.teacher.n_classes == expected and not any(p.requires_grad for p in learner.teacher.parameters())
    called = Counter()

    class Watched(EVERY[kind]):
        def grow(self, task):
            called["grow"] += 1
            super().grow(task)

        def training_data(self, task, stages):
            called["training_data"] += 1
            return super().training_data(task, stages)

        def objective(self, task):
            called["objective"] += 1
            return super().objective(task)

    learner = learned(second, kind)
    learner.__class__ = Watched
    learner.learn(tasks(everything=kind == "joint")[second], Stages())
    assert called == Counter(["grow", "objective", *(() if kind == "bic" else ["training_data"])])


@pytest.mark.parametrize("kind", ["abd", "r_dfcil"])
def test_a_generator_is_freed_at_the_end_of_its_task(make, learned, kind):
    assert make(kind).generator is None
    assert learned(2, kind).generator is None and learned(2, kind).draws is None


def test_an_integral_is_freed_at_the_end_of_its_task(learned):
    assert not [value for value in vars(learned(1, "si")).values() if type(value).__name__ == "PathIntegral"]


class NoDoubles(TorchDispatchMode):
    """An Apple GPU in one respect: it has no float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in pytree.tree_leaves(result)):
            raise TypeError(f"{func} has a float64 result")
        return result


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"bic", "fetril"}))  # these two call SciPy and scikit-learn
def test_a_device_without_float64_is_enough(make, tasks, monkeypatch, kind):
    for name, module in list(sys.modules.items()):
        if name.startswith("ccsi.") and hasattr(module, "float64_on"):
            monkeypatch.setattr(module, "float64_on", lambda device: torch.float32)
    with NoDoubles():
        learner = make(kind)
        for task in tasks(everything=kind == "joint")[:2]:
            learner.learn(task, Stages())
        learner.scores(tasks()[0].val.images / 255)


def test_float64_is_refused_on_a_device_without_it(make):
    one = make("finetune", training={"precision": "float64"})
    assert one.net.scale.dtype == torch.float64
    with pytest.raises(UserError, match=r"training\.precision=float64: .*expected float32"):
        dataclasses.replace(one, device=torch.device("mps"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_nothing_else(learned, same, kind):
    torch.manual_seed(1)
    first = learned(2, kind)
    torch.manual_seed(2)
    assert same(first, learned(2, kind, fresh=True)) and not same(first, learned(2, kind, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_random_choice_has_a_stream_of_its_own(learned, monkeypatch, kind):
    asked, generator = Counter(), Streams.generator

    def watched(self, purpose, *key, **options):
        asked[purpose, *key] += 1
        return generator(self, purpose, *key, **options)

    monkeypatch.setattr(Streams, "generator", watched)
    learned(2, kind, fresh=True)
    again = {"generator"} if kind in ("abd", "r_dfcil") else {"initialisation"} if kind == "joint" else set()
    # a generator's start is loaded over; each of joint training's nets starts the same
    assert {purpose for (purpose, *_), times in asked.items() if times > 1} == again


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_goes_on_from_its_state_after_a_task(make, learned, tasks, same, kind):
    whole = learned(3, kind)
    saved = through_a_file(learned(2, kind).state_dict())
    rest = make(kind)
    rest.load_state_dict(saved)
    images = tasks()[0].val.images / 255
    assert torch.equal(rest.scores(images), learned(2, kind).scores(images))
    rest.learn(tasks(everything=kind == "joint")[2], Stages())
    assert same(whole, rest) and equal(whole.state_dict(), rest.state_dict())
    assert torch.equal(rest.scores(images), whole.scores(images))
    assert rest.stored() == whole.stored()


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_goes_on_in_the_middle_of_a_task(make, learned, tasks, same, kind):
    """Anywhere in the stages of the last task that has any, the first or the second, as the spine saves them."""
    done = 0 if issubclass(EVERY[kind], FrozenLearner) else 1
    task = tasks(everything=kind == "joint")[done]
    whole, offers = learned(done, kind), list[int]()
    start = copy.deepcopy(whole.state_dict())
    whole.learn(task, Stages(None, lambda: True, offers.append))
    first, last = 1, len(offers)
    for at in (1, 8, 9, 17, 18, 26) if kind == "ccsi" else sorted({first, last // 2, 3 * last // 4, last - 1, last}):
        learner, saved, left = make(kind), None, at

        def save(state) -> None:
            nonlocal saved, left
            left -= 1
            if not left:
                saved = through_a_file({"learner": start, "stages": state})
                raise StopError

        learner.load_state_dict(copy.deepcopy(start))
        with pytest.raises(StopError):
            learner.learn(task, Stages(None, lambda: True, save))
        rest = make(kind)
        rest.load_state_dict(saved["learner"])
        rest.learn(task, Stages(saved["stages"]))
        assert same(whole, rest)
        assert equal(whole.state_dict(), rest.state_dict())
        if kind == "ccsi":
            assert torch.equal(whole.impressions.images, rest.impressions.images)


def equal(one, other) -> bool:
    """The same nested tensors, to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


DATA_FREE = [kind for kind in KINDS if not issubclass(EVERY[kind], (ReplayLearner, Joint))]


@pytest.mark.parametrize(
    "options", [*({"kind": kind} for kind in DATA_FREE), {"norm": "batch"}, {"balance": "none", "w_idc": 0.0}]
)
def test_a_data_free_learner_never_looks_back(make, tasks, same, options):
    """Each task's arrays are overwritten with noise once it is learned."""
    options = dict(options)
    kind = options.pop("kind", "ccsi")
    clean, poisoned = make(kind, **options), make(kind, **options)
    for learner, poison in ((clean, False), (poisoned, True)):
        for task in tasks():
            learner.learn(task, Stages())
            if poison:
                for part in (task.train, task.val):
                    part.images.random_(0, 256, generator=torch.Generator().manual_seed(task.index))
                    part.labels.zero_()
    assert same(clean, poisoned) and equal(clean.state_dict(), poisoned.state_dict())
    images = tasks()[1].val.images / 255
    assert torch.equal(clean.scores(images), poisoned.scores(images))
    assert clean.permissions == ()


def holders(learner, tasks) -> list[torch.Tensor]:
    """The tensors that can be reached from a learner and hold an image of a task, as pixels or as fractions."""
    images = torch.cat([part.images for task in tasks for part in (task.train, task.val)])
    known = {image.numpy().tobytes() for image in images}
    reached, seen, found = [learner], set(), []
    while reached:
        thing = reached.pop()
        if id(thing) in seen or isinstance(thing, type) or type(thing).__name__ == "module":
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor) and thing.numel() % images[0].numel() == 0:
            pixels = thing.detach() if thing.dtype == torch.uint8 else (255 * thing.detach()).round().nan_to_num(0)
            rows = pixels.clamp(0, 255).to(torch.uint8).reshape(-1, images[0].numel())
            if any(row.numpy().tobytes() in known for row in rows):
                found.append(thing)
        if callable(thing) and hasattr(thing, "__globals__"):
            reached += [cell.cell_contents for cell in thing.__closure__ or ()]
            continue
        reached += gc.get_referents(thing)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_a_learner_holds_has_an_image_of_its_tasks_but_declared_exemplars(learned, tasks, kind):
    learner, declared = learned(2, kind), 0
    if any(item.kind == "exemplars" for item in learner.stored()):
        declared = [learner.kept_images]
        assert learner.stored()[0].count == len(learner.kept_images) == 4 * 5
    assert [id(thing) for thing in holders(learner, tasks())] == [id(thing) for thing in declared or ()]


@pytest.mark.parametrize("kept", [lambda x: x[:1], lambda x: {"some": [x[3].double() / 255]}])
def test_a_learner_that_keeps_an_image_would_be_found(learned, tasks, kept):
    learner = learned(2, "finetune")
    learner.hidden = kept(tasks()[0].train.images)
    assert len(holders(learner, tasks())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_comes_alone_is_learned(learned, tasks, kind):
    """The third task has one class, whose own softmax or prototype would say nothing."""
    learner = learned(3, kind, training={"epochs": 12, "momentum": 0.9})
    assert learner.scores(tasks()[2].val.images / 255).shape[1] == 6
    if kind not in ("joint", "finetune", "er", "eeil", "bic", "ewc", "si", "lucir", "pass"):
        return
    assert accuracy(learner, tasks()[2].val) > 0.8


@pytest.mark.parametrize("kind", ["lwf", "abd", "r_dfcil"])
def test_local_cross_entropy_of_one_class_is_over_all(learned, tasks, kind):
    learner = learned(2, kind)
    before = [p.clone() for p in learner.net.backbone.parameters()]
    told = []
    learner.learn(tasks()[2], Stages(None, log=lambda name, step, n, values: told.append(values)))
    assert any(values.get("loss_ce", 0) > 0.01 for values in told)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.net.backbone.parameters(), strict=True))


def test_finetune_and_joint_store_nothing(learned):
    assert learned(1, "finetune").stored() == [] and learned(1, "joint").stored() == []


def test_joint_is_a_fresh_net_on_all_tasks_by_permission(learned, make, tasks, same):
    whole = learned(3, "joint")
    assert whole.permissions == ("all_tasks",) and make("finetune").permissions == ()
    last_only = make("joint")
    last_only.learn(tasks(everything=True)[2], Stages())
    assert same(whole, last_only)  # nothing of the first two nets is left in it


def test_joints_tasks_hold_all_classes_so_far(tasks):
    assert tasks(everything=True)[1].train.labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert tasks()[1].train.labels.unique().tolist() == [2, 3, 4]


def test_joint_has_the_first_tasks_budget_in_every_task(make, tasks):
    """Each of its nets starts at random; another learner's second task does not."""
    steps = {}
    for kind in ("joint", "finetune"):
        learner = make(kind, training={"epochs": 1, "first_epochs": 3})
        for task in tasks(everything=kind == "joint")[:2]:
            told = []
            learner.learn(task, Stages(None, log=lambda name, step, n, values, told=told: told.append(values)))
            steps[kind, task.index] = sum("val_accuracy" in values for values in told)
    assert steps == {("joint", 0): 3, ("joint", 1): 3, ("finetune", 0): 3, ("finetune", 1): 1}


def test_what_is_remembered_comes_back_to_the_learners_device(learned, make):
    state = through_a_file(learned(2).state_dict())
    learner = make("ccsi")
    learner.device = torch.device("meta")  # stands for a GPU
    learner.load_state_dict(state)
    memory = learner.memory
    held = [memory.means, *memory.group_means, *memory.group_vars]
    assert len(held) > 2 and {tensor.device.type for tensor in held} == {"meta"}


def test_names(make):
    assert [make(kind).name for kind in KINDS] == KINDS
    assert make("ccsi", name="ci").name == "ci"
