"""Points of domains: where all half-spaces hold by as much as possible, by a linear program."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .cuts import Cuts
from .ground import Ground


@dataclass(frozen=True)
class Inside:
    """What a linear program says of a domain.

    Args:
        point: (D,), the input at which the least slack of its half-spaces is largest; None without
            a solution.
        slack: that slack, relative to how far each half-space's value can change; below 0 if the
            domain is empty.
        multipliers: (M,), weights of the half-spaces that prove it.
    """

    point: Tensor | None
    slack: float
    multipliers: Tensor | None


def inside(ground: Ground, cuts: Cuts, row: int) -> Inside | None:
    """The point of a row's box that is farthest inside its half-spaces; None if the ball is no box.

    Args:
        ground: the balls.
        cuts: the half-spaces of all rows.
        row: the one.
    """
    if any(part.norm != math.inf for part in ground.parts):
        return None
    from scipy.optimize import linprog

    center, radius = ground.center[row], ground.radius[row]
    G, h = cuts.G[row], cuts.h[row]
    keep = (G != 0).any(1)
    G, h = G[keep] * radius, (h + cuts.G[row] @ center)[keep]
    if not len(h):
        return Inside(center, 1.0, None)
    scale = G.abs().sum(1)
    A = np.concatenate([-G.double().numpy(), scale.double().numpy()[:, None]],
                       1) / scale.double().numpy()[:, None]
    bounds = np.array([[-1.0, 1.0]] * len(center) + [[-3.0, 1.0]])
    objective = np.zeros(len(center) + 1)
    objective[-1] = -1.0
    found = linprog(objective, A_ub=A, b_ub=(h / scale).double().numpy(), bounds=bounds,
                    method="highs-ds")
    if found.status != 0:
        return None
    multipliers = h.new_zeros(len(keep))
    multipliers[keep] = torch.as_tensor(-found.ineqlin.marginals).to(h).clamp(min=0) / scale
    return Inside(center + radius * torch.as_tensor(found.x[:-1]).to(center), float(found.x[-1]),
                  multipliers)


def is_empty(ground: Ground, cuts: Cuts, row: int, multipliers: Tensor) -> bool:
    """Whether multipliers prove that no input of a row's ball satisfies all half-spaces: their sum
    is below 0.
    """
    from ..rounding import RELAXED, roundings

    one = ground.rows(torch.tensor([row]))
    G, h = multipliers @ cuts.G[row], multipliers @ cuts.h[row]
    most = G @ one.center[0] + h + one.spread((G * one.radius[0])[None])[0]
    size = multipliers @ (cuts.G[row].abs() @ (one.center[0].abs() + one.radius[0])
                          + cuts.h[row].abs())
    return bool(most < -roundings(RELAXED, G.dtype) * size)
