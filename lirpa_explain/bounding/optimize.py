"""CROWN-Optimized: choose the planes of every relaxation for each function that is bounded.

Every bound on the way is sound, whatever the mixtures, so the best of all iterations is kept, entry
by entry, and the first of them is plain CROWN's.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Box
from ..operators.planes import BoundPlanes, Mixture
from ..rounding import STEADY as STEADY_BOUNDS
from ..rounding import roundings


@dataclass(frozen=True)
class Optimization:
    """How long and how fast mixtures are optimised.

    Args:
        iterations: most steps, at least 0.
        lr: length of Adam's first steps, as a change of a weight between 0 and 1.
        decay: factor of the step length after each step.
        patience: after so many steps ...
        tolerance: ... a bound is left as it is if its width has not fallen by more than this share
            of it.
    """

    iterations: int = 20
    lr: float = 0.3
    decay: float = 0.9
    patience: int = 7
    tolerance: float = 1e-3


STEADY = 1e-3
"""Adam's eps, for gradients of widths relative to themselves: a weight that moves its bound by less
than this share has shorter steps, so that gradients which are rounding errors have none."""


def optimized(bound: Callable[[Tensor], Box], functions: Tensor, nodes: Iterable[BoundPlanes],
              options: Optimization) -> Box:
    """The tightest bounds met while the mixtures of the nodes descend the sum of the widths.

    Args:
        bound: maps functions (B, S, D) to bounds of them with the mixtures that the nodes have,
            each (B, S).
        functions: (B, S, D).
        nodes: those whose planes may be chosen.
        options: see `Optimization`.

    Returns:
        (lower, upper), each (B, S); nowhere wider than with plain planes.
    """
    keep_graph = torch.is_grad_enabled()
    best = bound(functions)
    index = torch.arange(functions.shape[1], device=functions.device)
    # each row stops by itself: a batch gives what its rows give
    active = torch.ones_like(best[0], dtype=torch.bool)
    mixed = list(nodes)
    try:
        mixtures = [mixture for node in mixed if (mixture := _start(node, len(index))) is not None]
        done = 0 if mixtures else options.iterations
        while done < options.iterations and len(index):
            steps = min(options.patience, options.iterations - done)
            met = _descend(functools.partial(bound, functions[:, index]), mixtures, steps,
                           options.lr * options.decay**done, options.decay, keep_graph)
            old = Box(best[0][:, index], best[1][:, index])
            new = Box(torch.where(active, torch.fmax(old[0], met[0]), old[0]),
                   torch.where(active, torch.fmin(old[1], met[1]), old[1]))
            best = Box(best[0].index_copy(1, index, new[0]), best[1].index_copy(1, index, new[1]))
            done += steps
            active = active & _fell(old, new, options.tolerance)
            keep = active.any(0).nonzero()[:, 0]
            index, active = index[keep], active[:, keep]
            for mixture in mixtures:
                mixture.weights = mixture.weights.detach()[:, :, keep].requires_grad_()
    finally:
        for node in mixed:
            node.mixture = None
    return best


def _fell(old: Box, new: Box, tolerance: float) -> Tensor:
    """Where a width has fallen by more than a share of it, and by more than roundings."""
    width = old[1] - old[0]
    least = roundings(STEADY_BOUNDS, width.dtype) * torch.maximum(old[0].abs(), old[1].abs())
    return width - (new[1] - new[0]) > torch.maximum(tolerance * width, least)


def _start(node: BoundPlanes, functions: int) -> Mixture | None:
    node.mixture = node.start_mixture(functions)
    return node.mixture


def _descend(bound: Callable[[], Box], mixtures: list[Mixture], steps: int, lr: float, decay: float,
             keep_graph: bool) -> Box:
    """Take so many steps, and return the best bounds met after each of them."""
    weights = [mixture.weights for mixture in mixtures]
    optimizer = torch.optim.Adam(weights, lr, eps=STEADY)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    best: Box | None = None
    for step in range(steps + 1):
        with torch.set_grad_enabled(keep_graph or step < steps):
            lower, upper = bound()
            width = upper - lower
            gap = (width / torch.where(width > 0, width, torch.ones_like(width)).detach()).sum()
            depends = step < steps and gap.requires_grad  # not if no mixture is reached
        if depends:
            gradients = torch.autograd.grad(gap, weights, allow_unused=True,
                                            retain_graph=keep_graph)
        if not keep_graph:
            lower, upper = lower.detach(), upper.detach()
        best = Box(lower, upper) if best is None else Box(torch.fmax(best[0], lower),
                                                          torch.fmin(best[1], upper))
        if not depends:
            break
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
        for weight in weights:
            _project(weight)
    assert best is not None
    return best


@torch.no_grad()
def _project(weights: Tensor) -> None:
    """Back to weights of at least 0 that sum to 1 over the planes, dimension 1."""
    weights.clamp_(min=0)
    total = weights.sum(1, keepdim=True)
    weights[:, :1] += total == 0
    weights /= torch.where(total == 0, torch.ones_like(total), total)
