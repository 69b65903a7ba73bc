"""Lines around functions with one kink at 0, and around the steps that are their derivatives.

A line is a pair (slope, offset): t -> slope * t + offset. All functions work entry by entry.
"""

import torch
from torch import Tensor

Line = tuple[Tensor, Tensor]


def kink_lines(lo: Tensor, hi: Tensor, slope: float) -> tuple[Line, Line]:
    """Lines below and above t -> t for t >= 0, slope * t for t < 0, on [lo, hi].

    On one side of the chord the chord itself; on the other the piece that leaves the smaller area (CROWN's adaptive
    choice).

    Args:
        lo: lower ends.
        hi: upper ends, hi >= lo.
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
    crossing = (lo < 0) & (hi > 0)
    width = torch.where(crossing, hi - lo, torch.ones_like(hi))
    piece = torch.where(lo >= 0, torch.ones_like(lo), torch.full_like(lo, slope))
    chord = torch.where(crossing, (hi - slope * lo) / width, piece)
    offset = torch.where(crossing, hi - chord * hi, torch.zeros_like(hi))
    supporting = torch.where(crossing, torch.where(hi > -lo, torch.ones_like(hi), torch.full_like(hi, slope)), piece)
    zero = torch.zeros_like(hi)
    lines = (supporting, zero), (chord, offset)
    return lines if slope <= 1 else lines[::-1]


def step_range(lo: Tensor, hi: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Range of the derivative of `kink_lines`' function on [lo, hi]; at 0 it is the interval between both sides.

    A bound of a sum of n products is off by some roundings, and the derivative jumps: an end as close to 0 as
    rounding could have moved it counts as reaching 0.

    Example:
        >>> low, high = step_range(torch.tensor([-2., -1., 0.]), torch.tensor([-1., 1., 1.]), 0.1)
        >>> low.tolist() == [.1] * 3 or [round(v, 1) for v in low.tolist()], high.round(decimals=1).tolist()
        ([0.1, 0.1, 0.1], [0.1..., 1.0, 1.0])
    """
    margin = 16 * torch.finfo(lo.dtype).eps * torch.maximum(lo.abs(), hi.abs())
    one, left = torch.ones_like(lo), torch.full_like(lo, slope)
    low = torch.where(lo > margin, one, left)
    high = torch.where(hi < -margin, left, one)
    return torch.minimum(low, high), torch.maximum(low, high)
