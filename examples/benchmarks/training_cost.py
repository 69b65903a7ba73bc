"""What a training step costs with a loss on certified bounds: processor time, beside a plain step.

    python examples/benchmarks/training_cost.py [--steps 100]

Steps of all kinds take turns, on one thread and on random data, so that what else the machine does
meets them alike. A step is cross-entropy, backward pass and Adam; the others add `explanation_loss`
by intervals to it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from robust_explanations.nets import ACTIVATIONS, fully_connected, small_cnn
from torch import nn
from torch.nn import functional as F

from lirpa_explain.training import explanation_loss

LOSSES = {"plain": None, "width": {}, "width, data cut to [0, 1]": {"clip": (0, 1)},
          "signs": {"loss": "signs"}}


def nets() -> dict[str, tuple[nn.Module, tuple[int, ...], int]]:
    """Nets, shapes of a batch and numbers of classes, of Robust Explanation Constraints for Neural
    Networks.
    """
    return {
        "63-256-256-2, batch 32": (fully_connected(63, 256, 256, 2)(nn.ReLU), (32, 63), 2),
        "784-128-10, batch 100": (fully_connected(784, 128, 10)(nn.ReLU), (100, 784), 10),
        "CNN, batch 256": (small_cnn(1, 10)(nn.ReLU), (256, 1, 28, 28), 10),
        "CNN with softplus, batch 256": (small_cnn(1, 10)(ACTIVATIONS["softplus"]),
                                         (256, 1, 28, 28), 10),
    }


def steps_of(net: nn.Module, shape: tuple[int, ...], classes: int) -> dict[str, Callable[[], None]]:
    """A training step of each kind."""
    x, y = torch.rand(shape), torch.randint(classes, shape[:1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step(settings: dict | None) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        if settings is not None:
            loss = loss + 0.01 * explanation_loss(net, x, y, eps=0.01, **settings)
        loss.backward()
        optimizer.step()

    return {name: lambda settings=settings: step(settings) for name, settings in LOSSES.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table; returns the medians in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100,
                        help="of each kind; a tenth of them for the CNN")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| net | step | ms, median | least | times plain |\n| --- | --- | --- | --- | --- |")
    medians: dict[str, dict[str, float]] = {}
    for name, (net, shape, classes) in nets().items():
        steps, times = steps_of(net, shape, classes), {kind: [] for kind in LOSSES}
        for _ in range(2 + max(1, given.steps if len(shape) == 2 else given.steps // 10)):
            for kind, step in steps.items():
                started = time.process_time()
                step()
                times[kind].append(1e3 * (time.process_time() - started))
        # the first ones trace
        medians[name] = {kind: statistics.median(each[2:]) for kind, each in times.items()}
        for kind, median in medians[name].items():
            print(f"| {name} | {kind} | {median:.2f} | {min(times[kind][2:]):.2f} | "
                  f"{median / medians[name]['plain']:.2f} |", flush=True)
    return medians


if __name__ == "__main__":
    main()
