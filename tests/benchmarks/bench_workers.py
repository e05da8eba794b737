"""How much faster two workers are than one: CCSI's training on ResNet-18, 64 px, one CPU thread each.

`python tests/benchmarks/bench_workers.py`. One worker and two take turns on the same global batches; shown are the
seconds of each turn, and the median, lowest and highest ratio of neighbouring turns. Needs two idle cores.
"""

import argparse
import copy
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

from ccsi.data import Labelled, Task
from ccsi.learners import CCSI, IdC
from ccsi.learners.ccsi import Update
from ccsi.models import IncrementalNet, random_prototypes, resnet
from ccsi.rng import Streams, TaskStreams
from ccsi.stage import Stage
from ccsi.synthesis import Synthesis
from ccsi.training import Training, TrainingData

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from joined import Joined

CPU = torch.device("cpu")


def random_images(n: int, classes: range) -> Labelled:
    images = torch.randint(0, 256, (n, 3, 64, 64), generator=torch.Generator().manual_seed(n)).to(torch.uint8)
    return Labelled(images, torch.arange(n) % len(classes) + classes.start)


def train(steps: int) -> tuple[float, float]:
    """`Training.fit` on so many batches of 64, all losses on: its seconds, and a sum that tells the weights."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    net = IncrementalNet(resnet(3, g))
    for n in (2, 2):
        net.grow(random_prototypes(n, net.backbone.n_features, g))
    training = Training(epochs=1, batch_size=64, lr=0.01, momentum=0.9)
    learner = CCSI(
        model=resnet, in_channels=3, training=training, streams=Streams(0), device=CPU, synthesis=Synthesis(), idc=IdC()
    )
    half = steps * 32
    real, old, val = random_images(half, range(2, 4)), random_images(half, range(2)), random_images(16, range(2, 4))
    task, teacher = Task(1, range(2, 4), real, val), copy.deepcopy(net).eval().requires_grad_(False)
    objective = Update(learner, task, teacher)
    net.process_group.all_gather_object(None)  # they start together
    began = time.perf_counter()
    data, streams = TrainingData(real, val, old, 0.5), TaskStreams(Streams(0), 1)
    training.fit(net, data, objective, streams, Stage(), train_old_prototypes=False)
    return time.perf_counter() - began, sum(p.detach().double().abs().sum().item() for p in net.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    pair, work = Joined(), partial(train, options.steps)
    ratios = []
    try:
        train(1), pair(train, 1)  # what is done once: imports, first allocations
        for turn in range(options.turns):
            (one, weights), ((two, same), _) = work(), pair(work)
            ratios.append(one / two)
            print(
                f"turn {turn + 1}: one worker {one:.2f} s, two {two:.2f} s, {ratios[-1]:.2f} times as fast", flush=True
            )
            if abs(weights - same) > 1e-3 * weights:
                sys.exit(f"the weights differ: {weights} and {same}")
    finally:
        pair.close()
    print(
        f"two workers are {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast as one"
    )


if __name__ == "__main__":
    main()
