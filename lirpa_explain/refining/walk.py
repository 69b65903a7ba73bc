"""Points at which a function may be least: walks to where kinks lie on the sides that its bounds
want.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .domains import Domain
from .ground import Ground
from .problem import Problem

STEPS = 12
"""Steps of a walk."""

FIRST = 0.5
"""Length of its first step, in radii of the ball; the last one is next to nothing."""


def walked(problem: Problem, domains: Sequence[Domain], wants: Mapping[str, Tensor]) -> Tensor:
    """Points (P, M) of the inputs that move, by steps from the middle of a ball.

    Each step goes down on the sum of how far pre-activations lie on the wrong side of their kinks,
    relative to the widths of their intervals. Decisions count as much as what is wanted most.

    Args:
        problem: whose domains they are.
        domains: P of them, of one row.
        wants: by node, (P, n): above 0 where an entry is wanted to be above 0, by how much that
            counts.
    """
    row = domains[0].row
    example, ground = problem.example(row), Ground.of(*problem.rows.take(torch.tensor([row]))[1:3])
    weights = _weights(domains, wants)
    flat = ground.center.expand(len(domains), -1)
    for i in range(STEPS):
        with torch.enable_grad():
            moved = flat.clone().requires_grad_()
            nodes = problem.nodes(row, problem.point(example, moved))
            wrong = [(-weight * nodes[name]).clamp(min=0) for name, weight in weights.items()]
            loss = torch.stack([part.sum() for part in wrong]).sum()
            slope, = torch.autograd.grad(loss, moved)
        step = FIRST * (1 - i / STEPS) * ground.ends(slope * ground.radius) * ground.radius
        flat = problem.drawn(example, flat - step)
    return flat


def _weights(domains: Sequence[Domain], wants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much it counts that an entry is above 0, or below, relative to the width of its interval:
    (P, n) by node.
    """
    most = torch.stack([want.abs().amax(1) for want in wants.values()]).amax(0).tolist()
    weights = {name: want.clone() for name, want in wants.items()}
    for i, domain in enumerate(domains):
        for name, entry, _, side in domain.decisions:
            if name in weights:
                weights[name][i, entry] = side * most[i]
    for name, weight in weights.items():
        width = torch.stack([box.width
                             for domain in domains if (box := domain.box(name)) is not None])
        weight /= width.clamp(min=torch.finfo(width.dtype).tiny ** 0.5)
    return weights
