"""Ranges of, and lines around, staircases such as floor and round, and what they leave of their
argument.

A line is a pair (slope, offset): t -> slope * t + offset. All functions work entry by entry.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import at_a_jump
from .piecewise import Line

STAIRS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "floor": (torch.floor, -1.0, 0.0),
    "ceil": (torch.ceil, 0.0, 1.0),
    "trunc": (torch.trunc, -1.0, 1.0),
    "round": (torch.round, -0.5, 0.5),
}
"""Kind -> the function, and the least and most that it differs from its argument by."""


def stair_range(lo: Tensor, hi: Tensor, kind: str) -> Box:
    """Smallest and largest value; an end as close to a jump as rounding could have moved it is on
    both sides of it.

    Example:
        >>> import torch
        >>> low, high = stair_range(torch.tensor([0.2, 1.0]), torch.tensor([0.8, 2.5]), "floor")
        >>> low.tolist(), high.tolist()
        ([0.0, 0.0], [0.0, 2.0])
    """
    function, by = STAIRS[kind][0], at_a_jump(lo, hi)
    return Box(function(lo - by), function(hi + by))


def stair_family(lo: Tensor, hi: Tensor, kind: str) -> tuple[Line, Line]:
    """Several lines below and several above; each tensor is (3, *S): that of the two which is
    nearer, and both.

    They are the constant ends of the range, and the argument itself moved by the most it differs.
    """
    sides = []
    for end, offset, sign in zip(stair_range(lo, hi, kind), STAIRS[kind][1:], (1.0, -1.0),
                                 strict=True):
        steep = sign * ((lo + hi) / 2 + offset - end) > 0
        slope, zero = torch.ones_like(end), torch.zeros_like(end)
        slopes = torch.stack([steep.to(end), zero, slope])
        offsets = torch.stack([torch.where(steep, offset, end), end, torch.full_like(end, offset)])
        sides.append((slopes, offsets))
    return sides[0], sides[1]


def stair_lines(lo: Tensor, hi: Tensor, kind: str) -> tuple[Line, Line]:
    """Lines below and above: the first of `stair_family`."""
    below, above = stair_family(lo, hi, kind)
    return (below[0][0], below[1][0]), (above[0][0], above[1][0])


def stair_open(lo: Tensor, hi: Tensor, kind: str) -> Tensor:
    """Where there may be a jump."""
    low, high = stair_range(lo, hi, kind)
    return low < high


def rest_range(lo: Tensor, hi: Tensor, divisor: float, kind: str) -> Box:
    """Of t - divisor * stairs(t / divisor): within one step as wide as the argument's, else all
    that can be left.

    Example:
        >>> import torch
        >>> low, high = rest_range(torch.tensor([2.25, 1.5]), torch.tensor([2.5, 2.5]), 1.0,
        ...                        "floor")
        >>> low.tolist(), high.tolist()
        ([0.25, -0.0], [0.5, 1.0])
    """
    steps, *ends = _steps(lo, hi, divisor, kind)
    known = steps.lower == steps.upper
    least, most = (torch.full_like(lo, end) for end in ends)
    if kind == "trunc":  # what is left has the sign of the argument
        least, most = torch.where(lo >= 0, 0.0, least), torch.where(hi <= 0, 0.0, most)
    moved = divisor * steps.lower
    return Box(torch.where(known, lo - moved, least), torch.where(known, hi - moved, most))


def rest_lines(lo: Tensor, hi: Tensor, divisor: float, kind: str) -> tuple[Line, Line]:
    """Lines below and above: the argument less what is known to be taken off, or the range."""
    steps, _, _ = _steps(lo, hi, divisor, kind)
    known = steps.lower == steps.upper
    low, high = rest_range(lo, hi, divisor, kind)
    moved, slope = -divisor * steps.lower, known.to(lo)
    return (slope, torch.where(known, moved, low)), (slope, torch.where(known, moved, high))


def rest_family(lo: Tensor, hi: Tensor, divisor: float, kind: str) -> tuple[Line, Line]:
    """`rest_lines`, alone in a family (1, *S)."""
    below, above = rest_lines(lo, hi, divisor, kind)
    return (below[0][None], below[1][None]), (above[0][None], above[1][None])


def rest_open(lo: Tensor, hi: Tensor, divisor: float, kind: str) -> Tensor:
    """Where there may be a jump."""
    steps, _, _ = _steps(lo, hi, divisor, kind)
    return steps.lower < steps.upper


def _steps(lo: Tensor, hi: Tensor, divisor: float, kind: str) -> tuple[Box, float, float]:
    """Range of the stairs of t / divisor, and the least and the most that is left of t."""
    steps = stair_range(*Box(lo / divisor, hi / divisor).ordered(), kind)
    least, most = sorted(-divisor * end for end in STAIRS[kind][1:])
    return steps, least, most
