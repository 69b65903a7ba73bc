"""Lines around functions with one kink at 0, and around the steps that are their derivatives.

A line is a pair (slope, offset): t -> slope * t + offset. All functions work entry by entry.
"""

import torch
from torch import Tensor

Line = tuple[Tensor, Tensor]


def kink_lines(l: Tensor, u: Tensor, slope: float) -> tuple[Line, Line]:
    """Lines below and above t -> t for t >= 0, slope * t for t < 0, on [l, u].

    On one side of the chord the chord itself; on the other the piece that leaves the smaller area (CROWN's adaptive
    choice).

    Args:
        l: lower ends.
        u: upper ends, u >= l.
        slope: slope left of 0, any real number.

    Returns:
        (lower line, upper line).

    Source: Zhang et al., Efficient Neural Network Robustness Certification with General Activation Functions,
    NeurIPS 2018, section 3.

    Example:
        >>> (kl, bl), (ku, bu) = kink_lines(torch.tensor(-1.), torch.tensor(3.), 0.)
        >>> float(kl), float(bl), float(ku), float(bu)
        (1.0, 0.0, 0.75, 0.75)
    """
    crossing = (l < 0) & (u > 0)
    width = torch.where(crossing, u - l, torch.ones_like(u))
    piece = torch.where(l >= 0, torch.ones_like(l), torch.full_like(l, slope))
    chord = torch.where(crossing, (u - slope * l) / width, piece)
    offset = torch.where(crossing, u - chord * u, torch.zeros_like(u))
    supporting = torch.where(crossing, torch.where(u > -l, torch.ones_like(u), torch.full_like(u, slope)), piece)
    zero = torch.zeros_like(u)
    lines = (supporting, zero), (chord, offset)
    return lines if slope <= 1 else lines[::-1]


def step_range(l: Tensor, u: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Range of the derivative of `kink_lines`' function on [l, u]; at 0 it is the interval between both sides.

    A bound of a sum of n products is off by some roundings, and the derivative jumps: an end as close to 0 as
    rounding could have moved it counts as reaching 0.

    Example:
        >>> low, high = step_range(torch.tensor([-2., -1., 0.]), torch.tensor([-1., 1., 1.]), 0.1)
        >>> low.tolist() == [.1] * 3 or [round(v, 1) for v in low.tolist()], high.round(decimals=1).tolist()
        ([0.1, 0.1, 0.1], [0.1..., 1.0, 1.0])
    """
    margin = 16 * torch.finfo(l.dtype).eps * torch.maximum(l.abs(), u.abs())
    one, left = torch.ones_like(l), torch.full_like(l, slope)
    low = torch.where(l > margin, one, left)
    high = torch.where(u < -margin, left, one)
    return torch.minimum(low, high), torch.maximum(low, high)
