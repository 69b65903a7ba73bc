"""Secant slopes of a function from a fixed point: their ranges, and lines above and below.

For a function phi and a fixed point z0 the secant slope is s(z) = (phi(z) - phi(z0)) / (z - z0),
the mean of phi' between z0 and z. Within `eps` of z0 it is phi'(z) instead. A function is declared
as a sum

    phi(t) = constant t + kink max(t, 0) + weight smooth(t),

and so is its secant slope, because that is linear in phi. Each part is bounded alone; the sum is
exact where only one part is not constant.

Shapes: lo, hi, z0 and all results are (*S), each entry alone; z0 may be broadcast.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Box
from .kink_secant import kink_secant, kink_secant_lines, kink_secant_range
from .piecewise import Line
from .smooth_secant import EXPONENTIAL, SIGMOID, SOFTPLUS, TANH, Smooth, smooth_lines, smooth_range

# where each line of a family is lowest (above) or highest (below)
PLACES = (0.5, 0.0, 0.25, 0.75, 1.0)


@dataclass(frozen=True)
class Secant:
    """A function as the sum above."""

    constant: float = 0.0
    kink: float = 0.0
    weight: float = 0.0
    smooth: Smooth | None = None


# Functions, each of the settings of the operator of that name


def kink(slope: float) -> Secant:
    """`t` for `t > 0`, `slope t` elsewhere."""
    return Secant(slope, 1.0 - slope)


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Secant:
    """`scale t` for `t > 0`, `scale alpha (exp(input_scale t) - 1)` for `t < 0`."""
    left = alpha * scale * input_scale
    return Secant(0.0, scale - left, left, EXPONENTIAL(input_scale))


def sigmoid() -> Secant:
    """`1 / (1 + exp(-t))`."""
    return Secant(weight=1.0, smooth=SIGMOID)


def tanh() -> Secant:
    """Hyperbolic tangent."""
    return Secant(weight=1.0, smooth=TANH)


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Secant:
    """`log(1 + exp(beta t)) / beta`, but `t` where `beta t > threshold`."""
    return Secant(weight=1.0, smooth=SOFTPLUS(beta, threshold))


# Their secant slopes


def secant(f: Secant, z: Tensor, z0: Tensor) -> Tensor:
    """The secant slope; at z = z0 the derivative, but where that jumps any value between those of
    both sides.

    Example:
        >>> secant(kink(slope=0.0), torch.tensor([-1.0, 3.0]), torch.tensor(-1.0)).tolist()
        [0.0, 0.75]
    """
    total = torch.full_like(z + z0, f.constant)
    if f.kink:
        total = total + f.kink * kink_secant(z, z0)
    if f.smooth:
        slope = f.smooth.value(z, z0)
        if f.smooth.error:
            slope = torch.where((z > f.smooth.straight) & (z0 > f.smooth.straight), 1.0,
                                slope + f.smooth.error(z, z, z0, 0.0)[0])
        total = total + f.weight * slope
    return total


def secant_range(f: Secant, lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> Box:
    """Smallest and largest secant slope for z in [lo, hi].

    Args:
        f: the function.
        lo: lower ends.
        hi: upper ends, hi >= lo.
        z0: the fixed points, anywhere.
        eps: at |z - z0| < eps the slope is the derivative, eps >= 0.

    Returns:
        (low, high).

    Example:
        >>> low, high = secant_range(tanh(), *map(torch.tensor, (-1.0, 2.0, 0.0)), 1e-10)
        >>> round(low.item(), 3), high.item()
        (0.482, 1.0)
    """
    low = high = torch.full_like(lo + z0, f.constant)
    parts = []
    if f.kink:
        parts.append((f.kink, kink_secant_range(lo, hi, z0, eps)))
    if f.smooth:
        parts.append((f.weight, smooth_range(f.smooth, lo, hi, z0, eps)))
    for weight, (least, most) in parts:
        least, most = (least, most) if weight >= 0 else (most, least)
        low, high = low + weight * least, high + weight * most
    return Box(low, high)


def secant_lines(f: Secant, lo: Tensor, hi: Tensor, z0: Tensor, eps: float,
                 place: float = 0.5) -> tuple[Line, Line]:
    """Lines below and above the secant slope for z in [lo, hi].

    Args:
        f: the function.
        lo: lower ends.
        hi: upper ends, hi >= lo, finite.
        z0: the fixed points, anywhere.
        eps: at |z - z0| < eps the slope is the derivative, eps >= 0.
        place: where in the interval, from 0 to 1, the line above is lowest of all lines above, and
            likewise below.

    Returns:
        (lower line, upper line).

    Example:
        >>> (kl, bl), (ku, bu) = secant_lines(kink(slope=0.0),
        ...                                   *map(torch.tensor, (-4.0, 2.0, -1.0)), 0.0)
        >>> kl.item(), bl.item(), round(ku.item(), 4), round(bu.item(), 4)
        (0.0, 0.0, 0.1111, 0.4444)
    """
    zero = torch.zeros_like(lo + z0)
    below = above = zero, zero + f.constant
    parts = []
    if f.kink:
        parts.append((f.kink, kink_secant_lines(lo, hi, z0, eps, place)))
    if f.smooth:
        parts.append((f.weight, smooth_lines(f.smooth, lo, hi, z0, eps, place)))
    for weight, (lower, upper) in parts:
        lower, upper = (lower, upper) if weight >= 0 else (upper, lower)
        below = below[0] + weight * lower[0], below[1] + weight * lower[1]
        above = above[0] + weight * upper[0], above[1] + weight * upper[1]
    return below, above


def secant_family(f: Secant, lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> tuple[Line, Line]:
    """Several lines below and several above: those of every place, then the range; each tensor is
    (K, *S).
    """
    lines = [secant_lines(f, lo, hi, z0, eps, place) for place in PLACES]
    low, high = secant_range(f, lo, hi, z0, eps)
    lines.append(((torch.zeros_like(low), low), (torch.zeros_like(high), high)))
    below, above = (tuple(torch.stack(part) for part in zip(*side, strict=True))
                    for side in zip(*lines, strict=True))
    return (below[0], below[1]), (above[0], above[1])
