"""Lines around functions with one kink at 0, and around the steps that are their derivatives.

A line is a pair (slope, offset): t -> slope * t + offset. All functions work entry by entry.
"""

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import JUMP, at_a_jump, roundings

Line = tuple[Tensor, Tensor]


def kink_lines(lo: Tensor, hi: Tensor, slope: float) -> tuple[Line, Line]:
    """Lines below and above t -> t for t >= 0, slope * t for t < 0, on [lo, hi].

    On one side of the chord the chord itself; on the other the piece that leaves the smaller area
    (CROWN's adaptive choice).

    Args:
        lo: lower ends.
        hi: upper ends, hi >= lo.
        slope: slope left of 0, any real number.

    Returns:
        (lower line, upper line).

    Source: Zhang et al., Efficient Neural Network Robustness Certification with General Activation
        Functions,
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
    supporting = torch.where(crossing, torch.where(hi > -lo, torch.ones_like(hi),
                                                   torch.full_like(hi, slope)), piece)
    zero = torch.zeros_like(hi)
    lines = (supporting, zero), (chord, offset)
    return lines if slope <= 1 else lines[::-1]


def kink_family(lo: Tensor, hi: Tensor, slope: float) -> tuple[Line, Line]:
    """Several lines below and several above; each tensor is (3, *S), the first those of
    `kink_lines`.

    Both pieces extended are lines on one side, and span all that pass through the kink; the chord
    is the best line on the other.
    """
    lines = kink_lines(lo, hi, slope)
    crossing, zero = (lo < 0) & (hi > 0), torch.zeros_like(hi)

    def members(line: Line, pieces: bool) -> Line:
        slopes = [torch.where(crossing, piece, line[0]) if pieces else line[0]
                  for piece in (slope, 1.0)]
        return (torch.stack([line[0], *slopes]),
                torch.stack([line[1]] + [zero if pieces else line[1]] * 2))

    return members(lines[0], slope <= 1), members(lines[1], slope > 1)


def step_lines(lo: Tensor, hi: Tensor, slope: float) -> tuple[Line, Line]:
    """Lines below and above the derivative of `kink_lines`' function: its range."""
    low, high = step_range(lo, hi, slope)
    zero = torch.zeros_like(low)
    return (zero, low), (zero, high)


def step_family(lo: Tensor, hi: Tensor, slope: float) -> tuple[Line, Line]:
    """Several lines below and several above the derivative; each tensor is (2, *S), the first those
    of `step_lines`.

    The second is that from the step to the far end of the lower piece, above, or of the upper
    piece, below: with slope < 1 the lines d <= 1 + (1 - slope) t / |lo| and d >= slope + (1 -
    slope) t / hi.

    Example:
        >>> below, above = step_family(torch.tensor(-1.), torch.tensor(2.), 0.)
        >>> below[0].tolist(), below[1].tolist(), above[0].tolist(), above[1].tolist()
        ([0.0, 0.5], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    """
    (zero, low), (_, high) = step_lines(lo, hi, slope)
    margin = at_a_jump(lo, hi)
    inside = (low < high) & (lo < -margin) & (hi > margin)
    left, right = (torch.where(inside, -lo, torch.ones_like(lo)),
                   torch.where(inside, hi, torch.ones_like(hi)))
    far, near = (left, right) if slope <= 1 else (-right, -left)
    above, below = ((high - low) / far, (high - low) / near)
    stacked = [torch.stack([zero, torch.where(inside, line, zero)]) for line in (below, above)]
    return (stacked[0], torch.stack([low, low])), (stacked[1], torch.stack([high, high]))


def step_range(lo: Tensor, hi: Tensor, slope: float) -> Box:
    """Range of the derivative of `kink_lines`' function on [lo, hi]; at 0 it is the interval
    between both sides.

    A bound of a sum of n products is off by some roundings, and the derivative jumps: an end as
    close to 0 as rounding could have moved it counts as reaching 0.

    Example:
        >>> low, high = step_range(torch.tensor([-2., -1., 0.]), torch.tensor([-1., 1., 1.]), 0.1)
        >>> (low.tolist() == [.1] * 3 or [round(v, 1) for v in low.tolist()],
        ...  high.round(decimals=1).tolist())
        ([0.1, 0.1, 0.1], [0.1..., 1.0, 1.0])
    """
    margin = roundings(JUMP, lo.dtype)
    # Where lo is above 0, hi is the larger end; floats throughout, because conversions of masks are
    # slow.
    low = torch.sub(lo, hi, alpha=margin).sign_().clamp_(min=0)
    high = torch.sub(hi, lo, alpha=margin).sign_().add_(1).clamp_(max=1)
    if slope:
        low, high = (torch.lerp(low.new_full((), slope), side.new_ones(()), side)
                     for side in (low, high))
    return Box(low, high) if slope <= 1 else Box(high, low)


def step_open(lo: Tensor, hi: Tensor, slope: float) -> Tensor:
    """Where the derivative of `kink_lines`' function may be that of either side."""
    low, high = step_range(lo, hi, slope)
    return low != high
