"""Streams, stages and per-task values: the small pieces that everything leans on."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccsi.checks import per_task
from ccsi.rng import Streams
from ccsi.stage import Stage, Stages

keys = st.tuples(st.integers(0, 9), st.sampled_from(["synthesis", "batches"]), st.lists(st.integers(0, 99), max_size=3))


def draw(key: tuple) -> list[float]:
    seed, purpose, rest = key
    return torch.rand(4, generator=Streams(seed).generator(purpose, *rest)).tolist()


@given(keys, keys)
def test_a_stream_is_its_name_and_nothing_else(a, b):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = draw(a)
    assert (first == draw(b)) == (a == b)  # drawing b in between does not move a
    assert draw(a) == first
    assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is nobody's


def test_streams_do_not_run_in_parallel():
    rows = torch.tensor([draw((0, "synthesis", [task, group])) for task in range(20) for group in range(20)])
    assert rows.flatten().unique().numel() > 0.99 * rows.numel()
    assert rows.mean().item() == pytest.approx(0.5, abs=0.03)


def test_per_task_values_start_at_the_second_task():
    assert [per_task([0.1, 0.2, 0.3], task) for task in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert per_task(0.5, 1) == per_task(0.5, 7) == 0.5


class StopError(Exception):
    pass


def sums(stage: Stage) -> dict:
    """Adds 0 … 9, offering after each step."""
    state = stage.state or {"i": 0, "total": torch.zeros(1)}
    i, total = state["i"], state["total"].clone()
    while i < 10:
        total, i = total + i, i + 1
        stage.log(i, 10, {"total": total.item()})
        stage.maybe_checkpoint(lambda i=i, total=total: {"i": i, "total": total})
    return {"total": total}


@pytest.mark.parametrize("at", range(1, 21))
def test_stages_left_at_any_offer_end_alike(at):
    offers, saved, work = 0, None, []

    def save(state):
        nonlocal offers, saved
        offers += 1
        if offers == at:
            file = io.BytesIO()
            torch.save(state, file)
            saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
            raise StopError

    def go(stages: Stages) -> float:
        first = stages.run("synthesis", sums)
        return float(first["total"]) + 2 * float(stages.run("training", sums)["total"])

    with pytest.raises(StopError):
        go(Stages(None, lambda: True, save))
    assert go(Stages(saved, log=lambda name, *rest: work.append((name, rest[0])))) == 45 + 2 * 45
    left = [("synthesis", i) for i in range(1, 11)] + [("training", i) for i in range(1, 11)]
    assert work == left[at:]  # nothing is done twice


def test_the_clock_runs_around_a_stages_work_alone():
    from contextlib import contextmanager

    told = []

    @contextmanager
    def clock(name: str):
        told.append(f"{name} on")
        yield
        told.append(f"{name} off")

    stages = Stages(clock=clock)
    stages.run("training", lambda stage: told.append("work"))
    stages.run("training", lambda stage: told.append("again"))  # done: its result is at hand
    assert told == ["training on", "work", "training off"]
