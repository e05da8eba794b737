"""The estimate of the time that is left: by a clock of the test's own, and of real runs."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_run import composed, run_tiny, tiny

import ccsi.config
from ccsi.experiment.forecast import Forecast, TaskSize, Timed, task_sizes
from ccsi.experiment.run import validate
from ccsi.learners import all_learners
from ccsi.synthesis import Synthesis
from ccsi.tracking import Progress, TaskEnd

SIZES = [TaskSize(n, n // 3, 40 * (k + 1), 2 * k, 2) for k, n in enumerate((120, 90, 120, 60, 120))]
PER_CLASS = 20


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def seconds_of(task: int, learner: str) -> dict[str, float]:
    """What the phases of a task really take."""
    size = SIZES[task]
    training = {"training": 0.1 * size.n_train * (1 if task == 0 else 2.3)}
    if learner == "ccsi":
        return ({"synthesis": 0.5 * PER_CLASS * size.n_old} if task else {}) | training
    return training if task == 0 else {}  # learns from a fixed net's features


@pytest.mark.parametrize("probed", [0.8, 1.0, 1.2, None])
@pytest.mark.parametrize("learner", ["ccsi", "acil"])
def test_by_a_clock_of_our_own(learner: str, probed: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """probed: how far the measurement on noise is off; None: there was none."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    synthesis = Synthesis(per_class=PER_CLASS) if learner == "ccsi" else None
    forecast, began = Forecast(SIZES, SimpleNamespace(synthesis=synthesis)), clock.now  # type: ignore[arg-type]
    for task in (0, 1) if probed is not None else ():
        for stage, seconds in seconds_of(task, learner).items():
            if stage == "training":
                forecast.replayed[stage] = 0.0
            forecast.learn_cost(stage, task, probed * seconds)
        forecast.later_known |= task > 0
    other, scoring = (0.05 if learner == "acil" else 0.001), 0.01
    if probed is None:
        forecast.replayed["training"] = 0.0
    estimates: list[tuple[int, float]] = []  # tasks learned, and seconds of the whole run
    for task, size in enumerate(SIZES):
        forecast.start_task(task, whole=True)
        for stage, seconds in seconds_of(task, learner).items():
            for step in range(50, 1001, 50):
                clock.now += seconds / 20
                left = forecast.progress(stage, step, 1000)
                if left is not None:
                    estimates.append((task, clock.now - began + left))
        clock.now += other * size.n_train + scoring * size.n_scored
        forecast.end_task(seconds_of(task, learner), scoring * size.n_scored)
        left = forecast.left(task + 1)
        if left is not None:
            estimates.append((task + 1, clock.now - began + left))
    total = clock.now - began
    assert estimates[-1] == (5, pytest.approx(total)) and forecast.left(5) == 0.0
    first = 1 if probed is not None else 2
    assert {done for done, _ in estimates} == set(range(0 if probed is not None else 2, 6))
    later = [(done, seconds) for done, seconds in estimates if done >= first]
    assert len(later) >= 4
    for done, seconds in later:
        assert seconds == pytest.approx(total, rel=0.25 if done == 1 else 0.05), (done, seconds, total)


def test_a_task_from_the_middle_of_a_checkpoint_teaches_nothing_but_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    forecast = Forecast(SIZES, SimpleNamespace())  # type: ignore[arg-type]
    forecast.replayed["training"] = 0.0
    forecast.learn_cost("training", 1, 90.0)
    forecast.later_known = True
    forecast.start_task(1, whole=False)
    assert forecast.progress("training", 500, 1000) == pytest.approx(45 + 120 + 60 + 120)
    clock.now += 50
    assert forecast.progress("training", 1000, 1000) == pytest.approx((120 + 60 + 120) * 100 / 90)
    forecast.end_task({"training": 50.0}, 0.0)  # the seconds of half the steps
    assert forecast.left(2) == pytest.approx((120 + 60 + 120) * 100 / 90)


def test_kept_images_grow_with_the_classes_unless_their_total_is_fixed() -> None:
    for total, expected in ((None, [120, 94, 128]), (10, [122, 92, 122])):
        forecast = Forecast(SIZES, SimpleNamespace(budget=SimpleNamespace(total=total)))  # type: ignore[arg-type]
        forecast.replayed["training"] = 2.0
        assert [forecast.weight("training", task) for task in range(3)] == expected


def test_steps_are_timed_after_a_warm_up_and_until_there_are_enough() -> None:
    timed = Timed(torch.device("cpu"))
    for stamp in (0.0, 5.0, 5.1, 5.2, 5.3, 6.0, 6.1, 6.2):  # an import, and an epoch's end
        assert not timed.measured()
        timed.stamps.append(stamp)
    timed.stamps.append(6.3)
    assert timed.measured() and timed.step() == pytest.approx(0.1)


def test_sizes() -> None:
    from ccsi.data import Dataset, Labelled

    def part(*labels: int) -> Labelled:
        return Labelled(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels))

    data = Dataset("x", ("a", "b", "c"), part(0, 0, 0, 1, 1, 2), part(0, 1, 2, 2), part(0, 1, 1, 2), checksum="")
    plan = [[2], [0, 1]]
    assert task_sizes(data, plan, False, ["val", "test"]) == [TaskSize(1, 2, 3, 0, 1), TaskSize(5, 2, 8, 1, 2)]
    assert task_sizes(data, plan, True, ["val"]) == [TaskSize(1, 2, 2, 0, 1), TaskSize(6, 4, 4, 1, 2)]


def watched(folder: Path, learner: str, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[Any, list[Forecast]]:
    """A run that shows the time; its figures, and what its forecast was after each probe."""
    probe, probed = Forecast.probe, list[Forecast]()

    def remember(self: Forecast, *arguments: Any) -> None:
        before = torch.get_rng_state()
        probe(self, *arguments)
        assert torch.equal(torch.get_rng_state(), before)
        probed.append(copy.deepcopy(self))

    with monkeypatch.context() as patch:
        patch.setattr(Forecast, "probe", remember)
        patch.setattr("ccsi.tracking.Trackers.shows_time", True)
        return run_tiny(folder, f"learner={learner}", *overrides, base=tiny(learner)), probed


SLOW = [name for name in all_learners() if name not in ("ccsi", "er", "acil", "abd")]


@pytest.mark.parametrize(
    "learner", ["ccsi", "er", "acil", "abd", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_the_probe_works_with_every_learner_and_changes_no_bit(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, probed = watched(tmp_path / "shown", learner, monkeypatch)
    plain = run_tiny(tmp_path / "plain", f"learner={learner}", base=tiny(learner))
    for key in ("weights_sha256", "impressions_sha256", "val", "test", "stored"):
        assert shown[key] == plain[key]
    assert len(probed) == 2 and all(forecast.later_known for forecast in probed)
    frozen = ("acil", "ds_al", "fecam", "fetril", "ncm")  # their later tasks have no stage
    phases = set() if learner in frozen else {"training"}
    extra = {"ccsi": {"synthesis"}, "abd": {"generation"}}.get(learner, set())
    assert probed[0].rates[False].keys() >= phases | extra and probed[0].rates[True].keys() >= {"training"}
    assert all(rate > 0 for forecast in probed for own in forecast.rates.values() for rate in own.values())


def test_a_learner_that_fails_on_noise_costs_the_estimate_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Forecast, twin: Any, *arguments: Any) -> None:
        raise ValueError("no noise, please")

    monkeypatch.setattr(Forecast, "probe_task", fails)
    _, probed = watched(tmp_path / "run", "finetune", monkeypatch)
    assert [forecast.left(1) for forecast in probed] == [None, None]


@pytest.mark.parametrize("when", ["always", "in training"])
def test_a_slow_net_is_not_probed_for_long(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass takes 20 ms an image, or only in training, where the first look does not see it."""
    setup = validate(**ccsi.config.build(composed(*tiny("finetune"), "learner=finetune")).keywords)
    backbone = type(setup.learner.net.backbone)
    forward, passes = backbone.forward, list[int]()

    def slow(self: Any, x: torch.Tensor, *arguments: Any) -> Any:
        if when == "always" or self.training:
            passes.append(len(x))
            time.sleep(0.02 * len(x))
        return forward(self, x, *arguments)

    monkeypatch.setattr(backbone, "forward", slow)
    monkeypatch.setattr("ccsi.experiment.forecast.BUDGET", 0.5)
    shape = setup.data.train.images.shape[1:]
    forecast = Forecast(task_sizes(setup.data, setup.plan, False, ["val"]), setup.learner)
    for _ in range(2):
        began = time.monotonic()
        forecast.probe(setup.learner, 0, shape)
        assert time.monotonic() - began < 3
        assert forecast.left(1) is None and forecast.too_slow
    assert sum(passes) < 60 and setup.learner.net.n_classes == 0


def test_of_slow_steps_two_are_enough() -> None:
    timed = Timed(torch.device("cpu"), stamps=[0.0, 0.4])
    assert not timed.measured()
    timed.stamps.append(0.6)
    assert timed.measured() and timed.step() == pytest.approx(0.2)


def estimates_of(learner: str, folder: Path, *overrides: str) -> tuple[list[tuple[int, float]], float]:
    """(tasks learned, estimate of the whole run's seconds) at every event of a run, and what it took."""
    estimates, began = list[tuple[int, float]](), time.monotonic()

    def seen(done: Callable[[Any], int]) -> Callable[[Any, Any], None]:
        def event(self: Any, event: Progress | TaskEnd) -> None:
            if event.left is not None:
                estimates.append((done(event), time.monotonic() - began + event.left))

        return event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccsi.tracking.Trackers.shows_time", True)
        patch.setattr("ccsi.tracking.Console.progress", seen(lambda event: event.task))
        patch.setattr("ccsi.tracking.Console.task_end", seen(lambda event: event.task + 1))
        arguments = ["experiment=quick/digits", f"learner={learner}", "device=cpu", "report=false", *overrides]
        ccsi.config.build(ccsi.config.load([*arguments, f"run_dir={folder}"]))()
    return estimates, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.alone  # it compares times
@pytest.mark.parametrize("learner", ["ccsi", "acil", "er"])
def test_from_the_first_task_on_a_real_run_ends_when_it_said(learner: str, tmp_path: Path) -> None:
    few = ["learner.synthesis.iterations=100", "learner.synthesis.per_class=20"] if learner == "ccsi" else []
    estimates, total = estimates_of(learner, tmp_path / "run", *few, "tracking.console.quiet=true")
    later = [estimate for done, estimate in estimates if done >= 1]
    print(learner, total, estimates)
    assert len(later) >= 5 and estimates[0][0] == 0
    assert later == [pytest.approx(total, rel=0.25)] * len(later)
