"""The update rules against torch.optim's classes, and what they exist for."""

import subprocess
import sys

import pytest
import torch

from ccsi.optim import SGD, Adam

LRS = [0.1, 0.05, 0.2, 0.01]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.detach(), b.detach())


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.01)])
def test_sgd_takes_torch_optims_steps_and_goes_on_from_its_state(momentum: float, weight_decay: float) -> None:
    start = [torch.randn(3, 4), torch.randn(5), torch.randn(2)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    optimizer = SGD(ours, momentum=momentum, weight_decay=weight_decay)
    oracle = torch.optim.SGD(theirs, 1.0, momentum=momentum, weight_decay=weight_decay)
    for number, lr in enumerate(LRS):
        if number == 2:  # from here on another object, as after a crash
            state = optimizer.state_dict()
            optimizer = SGD(ours, momentum=momentum, weight_decay=weight_decay)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        oracle.zero_grad()
        for params in (ours, theirs):  # the last one gets no gradient
            ((params[0] ** 2).sum() + (params[1] ** 3).sum()).backward()
        oracle.param_groups[0]["lr"] = lr
        optimizer.step(lr)
        oracle.step()
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    assert same(ours[2], start[2]) and not same(ours[1], start[1])


def test_adam_takes_torch_optims_steps_and_goes_on_from_its_state() -> None:
    start = torch.randn(4, 3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer, oracle = Adam(ours, beta1=0.5, beta2=0.9), torch.optim.Adam([theirs], 1.0, betas=(0.5, 0.9))
    for number, lr in enumerate(LRS):
        if number == 2:
            state = optimizer.state_dict()
            optimizer = Adam(ours, beta1=0.5, beta2=0.9)
            optimizer.load_state_dict(state)
        theirs.grad = 2 * theirs.detach() ** 3
        oracle.param_groups[0]["lr"] = lr
        oracle.step()
        optimizer.step(2 * ours.detach() ** 3, lr)
        assert same(ours, theirs)
    assert not same(ours, start)


def test_a_step_does_not_import_dynamo() -> None:
    code = (
        "import sys, torch; from ccsi.optim import SGD, Adam; p = torch.nn.Parameter(torch.ones(2));"
        "p.grad = p.detach(); SGD([p]).step(0.1); Adam(p, beta1=0.5, beta2=0.9).step(p.detach(), 0.1);"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
