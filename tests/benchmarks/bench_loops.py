"""How fast the two loops are, each against a bare one in this process: `make bench`, or `… --quick`.

Repetitions alternate, so that whatever else the machine does falls on all alike; on one CPU thread the clock is
this process's own time. Shown: medians, and the median, lowest and highest ratio of neighbouring repetitions.
"""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ccsi.data import Labelled, Task
from ccsi.learners import CCSI, IdC
from ccsi.learners.ccsi import Update
from ccsi.losses import class_centroids, distillation, intra_domain_conservative, margin, moving_centroids
from ccsi.models import IncrementalNet, ccsi_small, random_prototypes
from ccsi.rng import Streams, TaskStreams
from ccsi.stage import Stage
from ccsi.synthesis import Synthesis, remember
from ccsi.synthesis.inversion import total_variation
from ccsi.synthesis.moments import (
    batch_norm_distance,
    group_moments,
    map_moments,
    moment_distance,
    normalized_moments,
)
from ccsi.training import Training, TrainingData

Timed = Callable[[], None]


def random_images(n: int, classes: range, device: torch.device) -> Labelled:
    g = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=g).to(torch.uint8)
    return Labelled(images.to(device), (torch.arange(n) % len(classes) + classes.start).to(device))


def net_of(n_old: int, n_new: int, device: torch.device) -> IncrementalNet:
    g = torch.Generator().manual_seed(0)
    net = IncrementalNet(ccsi_small(3, g))
    for n in (n_old, n_new):
        net.grow(random_prototypes(n, 256, g))
    return net.to(device)


def training_loops(device: torch.device, steps: int) -> tuple[Timed, Timed]:
    """One epoch of `Training.fit` with all of CCSI's losses and its val pass, and the same steps written out."""
    half = steps * 20
    real, synthetic = random_images(half, range(2, 4), device), random_images(half, range(2), device)
    val = random_images(steps * 4, range(2, 4), device)  # a tenth
    training = Training(epochs=1, batch_size=40, lr=0.01)
    learner = CCSI(
        model=ccsi_small, in_channels=3, training=training, streams=Streams(0), device=device,
        synthesis=Synthesis(), idc=IdC(),
    )  # fmt: skip
    task = Task(1, range(2, 4), real, val)
    start, teacher = net_of(2, 2, device), net_of(2, 2, device).eval().requires_grad_(False)
    net = copy.deepcopy(start)

    def ours() -> None:
        net.load_state_dict(start.state_dict())
        objective = Update(learner, task, teacher)
        data, streams = TrainingData(real, val, synthetic, 0.5), TaskStreams(Streams(0), 1)
        training.fit(net, data, objective, streams, Stage(), train_old_prototypes=False)

    bare_net = copy.deepcopy(start)
    x_all = torch.cat([real.images, synthetic.images]).float() / 255
    y_all = torch.cat([real.labels, synthetic.labels])
    x_real = real.images.float() / 255

    def bare() -> None:
        bare_net.load_state_dict(start.state_dict())
        bare_net.train()
        optimizer = torch.optim.SGD([p for p in bare_net.parameters() if p is not bare_net.old], 0.01)
        order = torch.randperm(len(y_all), device=device)
        source, seen = torch.zeros(4, 4, device=device), torch.zeros(4, dtype=torch.bool, device=device)
        for i in range(steps):
            chosen = order[40 * i : 40 * i + 40]
            x, y = x_all[chosen], y_all[chosen]
            features = bare_net.features(x)
            cosines = bare_net.cosines(features)
            with torch.no_grad():
                old_features = teacher.features(x)
            target = x_real[torch.randint(len(x_real), (40,), device=device)]
            scores = bare_net.cosines(bare_net.features(target, moving=0))
            batch, present = class_centroids(cosines, y, 4)
            moved, seen = moving_centroids(source, seen, batch, present, 0.9)
            source = moved.detach()
            centroids, found = class_centroids(scores, scores.argmax(1), 4)
            loss = (
                F.cross_entropy(bare_net.scale * cosines, y)
                + 5 * distillation(features, old_features)
                + margin(cosines, y, 2)
                + intra_domain_conservative(centroids, moved, seen & found, 1.0)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return ours, bare


def synthesis_loops(device: torch.device, steps: int) -> tuple[Timed, Timed]:
    """`Synthesis.invert` of one group of 40, and the same steps written out."""
    net = net_of(2, 2, device).eval().requires_grad_(False)
    memory = remember(net, random_images(160, range(4), device), range(4))
    synthesis = Synthesis(iterations=steps, warmup=0)
    y = (torch.arange(40) % 4).to(device)
    draws = [synthesis.draw(memory, y.cpu(), 1, 0, Streams(0))]
    weights = {"w_ce": 1.0, "w_f": 1.0, "w_tv": 0.01, "w_l2": 0.1}
    start, shifts, flips = draws[0]

    def ours() -> None:
        synthesis.invert(net, memory, y[None], draws, weights)

    def bare() -> None:
        x = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([x], 0.05, (0.5, 0.9))
        for i, ((dy, dx), flip) in enumerate(zip(shifts.tolist(), flips.tolist(), strict=True)):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * i / steps))
            seen = x.roll((dy, dx), (-2, -1))
            seen = seen.flip(-1) if flip else seen
            taps: list = []
            z = net.scale * net.cosines(net.features(seen, taps))
            far: Tensor | float = 0.0
            for layer, tap in enumerate(taps):
                first, second = map_moments(tap.input)
                of_class = memory.group_means[layer][y], memory.group_vars[layer][y]
                r = moment_distance(*group_moments(first, second, 8), *of_class).mean()
                r = r + batch_norm_distance(tap.norm, *normalized_moments(first, second, 8, 1e-5), 1)[0]
                far = far + (10.0 if layer == 0 else 1.0) * r
            l2 = seen.flatten(1).norm(dim=1).mean()
            loss = F.cross_entropy(z, y) + far + 0.01 * total_variation(seen[None])[0] + 0.1 * l2
            (x.grad,) = torch.autograd.grad(loss, x)
            optimizer.step()
            with torch.no_grad():
                x.clamp_(0, 1)

    return ours, bare


def grouped(device: torch.device, steps: int, groups: int, choices: list[int | Literal["auto"]]) -> list[Timed]:
    """`Synthesis.run` of so many groups of 40, with each number of groups that go together."""
    net = net_of(2, 2, device).eval().requires_grad_(False)
    memory = remember(net, random_images(160, range(4), device), range(4))

    def made(groups_at_once: int | Literal["auto"]) -> Timed:
        synthesis = Synthesis(iterations=steps, per_class=None, batches=groups, groups_at_once=groups_at_once)
        return lambda: synthesis.run(net, memory, 1, Streams(0), Stage()) and None

    return [made(choice) for choice in choices]


def in_turn(loops: list[Timed], repetitions: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each repetition of each loop; one repetition before does not count."""
    seconds: list[list[float]] = [[] for _ in loops]
    for repetition in range(repetitions + 1):
        order = list(range(len(loops)))
        for number in order if repetition % 2 else reversed(order):
            begin = clock()
            loops[number]()
            if repetition:
                seconds[number].append(clock() - begin)
    return seconds


def show(name: str, seconds: list[float], base: list[float], units: int, target: float | None) -> bool:
    """Print one comparison; whether its target is met."""
    ratios = [a / b for a, b in zip(seconds, base, strict=True)]
    ratio = statistics.median(ratios)
    verdict = "" if target is None else f"   (at most {target:.2f}: {'met' if ratio <= target else 'MISSED'})"
    print(
        f"{name:44} {1e3 * statistics.median(seconds) / units:8.2f} {1e3 * statistics.median(base) / units:8.2f} "
        f"{ratio:6.3f}  {min(ratios):.3f} to {max(ratios):.3f}{verdict}",
        flush=True,
    )
    return target is None or ratio <= target


def main() -> int:
    """The exit code: 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps a repetition")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.process_time() if not on_gpu and arguments.threads == 1 else time.perf_counter()

    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {arguments.threads} thread(s)"
    print(
        f"{where}, torch {torch.__version__}, {arguments.repetitions} repetitions in turn; ccsi_small, 32 px, 40 images"
    )
    print(f"{'':44} {'ms/step':>8} {'against':>8} {'ratio':>6}  lowest to highest")
    steps = 8 if arguments.quick else 30
    ours, bare = in_turn(list(training_loops(device, steps)), arguments.repetitions, clock)
    met = show("training step, against a bare loop", ours, bare, steps, 1.15)
    ours, bare = in_turn(list(synthesis_loops(device, steps)), arguments.repetitions, clock)
    met &= show("synthesis step, against a bare loop", ours, bare, steps, 1.10)
    groups = 16 if on_gpu else 4
    steps = 50 if on_gpu else 4 if arguments.quick else 10
    choices: list[int | str] = [1, "auto", 2, 4] + ([16] if on_gpu else [])
    loop, *others = in_turn(grouped(device, steps, groups, choices), arguments.repetitions, clock)
    for choice, seconds in zip(choices[1:], others, strict=True):
        # on a CPU `auto` is one by one (more leave the cache): there this shows the noise of the clock
        target = 1.05 if choice == "auto" else None
        met &= show(f"{groups} groups, {choice} at once, against one by one", seconds, loop, steps * groups, target)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
