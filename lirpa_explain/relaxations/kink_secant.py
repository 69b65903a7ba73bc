"""The secant slope of max(t, 0) from a fixed point z0, and lines above and below it.

s(z) = (max(z, 0) - max(z0, 0)) / (z - z0), nondecreasing in z. For z0 < 0 it is 0 up to z = 0 and
then the concave z / (z - z0); for z0 > 0 it is 1 - s(-z) from -z0. At z0 = 0 it is a step, from 0
to 1 at z = 0.

Shapes: lo, hi and z0 broadcast; each entry alone.
"""

import torch
from torch import Tensor

from ..boxes import Box
from ..rounding import at_a_jump
from .piecewise import Line


def kink_secant(z: Tensor, z0: Tensor) -> Tensor:
    """The slope; where z = z0 it is 1 for z > 0, else 0.

    Example:
        >>> kink_secant(torch.tensor([-1.0, 1.0, -1.0]), torch.tensor([-2.0, -1.0, 3.0])).tolist()
        [0.0, 0.5, 0.75]
    """
    top, run = z.clamp(min=0) - z0.clamp(min=0), z - z0
    same = run == 0
    return torch.where(same, (z + 0 * z0 > 0).to(top.dtype), top / torch.where(same, 1.0, run))


def kink_secant_range(lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> Box:
    """Range of the slope for z in [lo, hi], where it is 0 or 1, that of the kink's side, at |z -
    z0| < eps.

    An end, or z0, as close to 0 as rounding could have moved it counts as 0, and at a step both
    sides count.

    Example:
        >>> low, high = kink_secant_range(torch.tensor(-1.0), torch.tensor(2.0), torch.tensor(-2.0),
        ...                               1e-10)
        >>> low.item(), high.item()
        (0.0, 0.5)
    """
    low, high = kink_secant(lo, z0), kink_secant(hi, z0)
    by = at_a_jump(lo, hi)
    steps = z0.abs() <= by
    low, high = (torch.where(steps & (lo <= 2 * by), 0.0, low),
                 torch.where(steps & (hi >= -2 * by), 1.0, high))
    mirror = z0 > 0
    reached, inside = _raised(torch.where(mirror, -hi, lo), torch.where(mirror, -lo, hi), -z0.abs(),
                              eps)
    low, high = torch.where(reached & mirror, 0.0, low), torch.where(reached & ~mirror, 1.0, high)
    return Box(torch.where(inside & ~mirror, 1.0, low), torch.where(inside & mirror, 0.0, high))


def kink_secant_lines(lo: Tensor, hi: Tensor, z0: Tensor, eps: float,
                      place: float = 0.5) -> tuple[Line, Line]:
    """Lines below and above the slope on [lo, hi], the best there are at one place of the interval.

    For z0 < 0 the concave envelope is the tangent from (lo, 0), which touches at z = sqrt(lo z0),
    and the curve right of it; the convex envelope is 0 up to z = 0, and the chord from there to the
    right end.

    Args:
        lo: lower ends.
        hi: upper ends, hi >= lo.
        z0: the fixed points.
        eps: at |z - z0| < eps the slope is 0 or 1.
        place: the place, from 0 to 1.

    Returns:
        (lower line, upper line).

    Example:
        >>> (kl, bl), (ku, bu) = kink_secant_lines(*map(torch.tensor, (1.0, 3.0, -1.0)), 0.0)
        >>> round(kl.item(), 4), round(ku.item(), 4)
        (0.125, 0.1111)
    """
    mirror = z0 > 0
    a, b = torch.where(mirror, -hi, lo), torch.where(mirror, -lo, hi)
    x = torch.where(mirror, torch.lerp(a, b, 1 - place), torch.lerp(a, b, place))
    below, above = _left_lines(a, b, -z0.abs(), x, eps)
    # s(z) = 1 - s(-z): the line k (-z) + c above is the line k z + 1 - c below
    lower = tuple(torch.where(mirror, u, v)
                  for u, v in ((above[0], below[0]), (1 - above[1], below[1])))
    upper = tuple(torch.where(mirror, u, v)
                  for u, v in ((below[0], above[0]), (1 - below[1], above[1])))
    return (lower[0], lower[1]), (upper[0], upper[1])


def _raised(lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """For z0 <= 0: whether the slope is 1 instead, for |z - z0| < eps and z >= 0, somewhere; and
    whether everywhere.
    """
    stop = z0 + eps
    reached = (stop > 0) & (lo < stop) & (hi >= -at_a_jump(lo, hi))
    return reached, reached & (lo > 0) & (hi < stop)


def _left_lines(lo: Tensor, hi: Tensor, z0: Tensor, x: Tensor, eps: float) -> tuple[Line, Line]:
    """The lines for z0 <= 0 that are best at x."""
    by = at_a_jump(lo, hi)
    rounded = z0.abs() <= by  # rounding may have moved z0 and z over the kink
    reached, inside = _raised(lo, hi, z0, eps)
    steps, reach = rounded | reached, torch.where(rounded, by, 0.0)
    zero, one = torch.zeros_like(x), torch.ones_like(x)

    def quotient(p: Tensor, q: Tensor, otherwise: Tensor) -> Tensor:
        usable = q > 0
        return torch.where(usable, p / torch.where(usable, q, 1.0), otherwise)

    def curve(z: Tensor) -> Tensor:
        """Value for z >= 0."""
        return quotient(z, z - z0, one)

    # below: 0, or the chord from where the curve leaves 0 (in [lo, hi]) to hi
    start = torch.where(rounded & (lo <= 2 * reach), zero, lo.clamp(min=0))
    at_start = torch.where(start > 0, curve(start), zero)
    right = (hi > 2 * reach) & (x >= start)
    narrow = hi - start <= 0
    tangent_at_end = quotient(-z0, (hi - z0).square(), zero)
    slope = torch.where(narrow, tangent_at_end, quotient(curve(hi) - at_start, hi - start, zero))
    slope = torch.where(right, slope, zero)
    offset = torch.where(start > 0, at_start - slope * start, zero)
    below = torch.where(inside, zero, slope), torch.where(inside, one, offset)

    # above: the line from (lo, 0) that touches the curve, or the tangent at x; (0, 1) is the
    # curve's end at a step
    crossing = lo < -2 * reach
    touch = torch.where(crossing & ~steps, _root(lo, z0), zero)
    touch = torch.minimum(touch, hi.clamp(min=0))
    height = torch.where(steps, one, curve(touch))
    from_left = crossing & (x <= touch)
    tangent = quotient(-z0, (x.clamp(min=0) - z0).square(), zero)
    k = torch.where(from_left, quotient(height, touch - lo, zero),
                    torch.where(steps, zero, tangent))
    c = torch.where(from_left, -k * lo,
                    torch.where(steps, one, curve(x.clamp(min=0)) - tangent * x.clamp(min=0)))
    stays = ~reached & torch.where(rounded, hi < -2 * reach, hi <= 0)  # left of the kink
    return below, (torch.where(stays, zero, k), torch.where(stays, zero, c))


def _root(lo: Tensor, z0: Tensor) -> Tensor:
    """sqrt(lo z0) where both are negative, without overflow, and with a finite derivative
    elsewhere.
    """
    usable = (lo < 0) & (z0 < 0)
    return torch.where(usable, torch.where(usable, -lo, 1.0).sqrt()
                       * torch.where(usable, -z0, 1.0).sqrt(), 0.0)
