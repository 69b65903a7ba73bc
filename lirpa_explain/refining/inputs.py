"""Domains that are smaller boxes of the inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor

from .domains import INPUT, Decision, Domain, Limits


def smaller(values: tuple[Tensor, ...], balls: tuple[Any, ...], domains: Sequence[Domain]
            ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """The engine's inputs and their boxes, cut to what domains have decided of inputs, one domain a
    row.
    """
    start, moved, cut = 0, list(values), list(balls)
    limits = Limits.of(domains, INPUT, values[0])
    sizes = [0 if ball is None else x[0].numel() for x, ball in zip(values, balls, strict=False)]
    box = limits.box(sum(sizes))
    for i, ball in enumerate(balls):
        if ball is None:
            continue
        low, high = (side[:, start:start + sizes[i]].reshape(values[i].shape) for side in box)
        start += sizes[i]
        low, high = torch.maximum(ball.x_L, low), torch.minimum(ball.x_U, high)
        moved[i] = torch.minimum(torch.maximum(values[i], low), high)
        cut[i] = PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high)
    return tuple(moved), tuple(cut)


def pieces(center: Tensor, radius: Tensor, count: int) -> list[frozenset[Decision]]:
    """About so many boxes that a box is cut into, along its longest sides most often."""
    cuts = [1] * len(center)
    while math.prod(cuts) * 2 <= count and bool((radius > 0).any()):
        longest = max(range(len(cuts)), key=lambda j: float(radius[j]) / cuts[j])
        cuts[longest] *= 2
    sides = []
    for j, number in enumerate(cuts):
        places = [float(center[j] - radius[j] + 2 * radius[j] * i / number)
                  for i in range(number + 1)]
        sides.append([[Decision(INPUT, j, places[i], 1)] * (i > 0)
                      + [Decision(INPUT, j, places[i + 1], -1)] * (i + 1 < number)
                      for i in range(number)])
    return [frozenset(itertools.chain(*chosen)) for chosen in itertools.product(*sides)]
