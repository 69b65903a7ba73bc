"""The secant slope of a smooth function from a fixed point, and lines above and below it.

Rounding: the formulas of the slope have no cancellation, also where z is close to z0. A line above
    is found among
chords between points of a grid; its offset is the largest height at the grid plus `M w^2 / 8` for
cells of width w on which |s''| <= M and s is not known to be convex, so it holds everywhere. With
phi''' bounded, s''(z), the mean of t^2 phi'''(z0 + t (z - z0)) over t in [0, 1], is at most a third
of it; away from z0, s'' = (phi'' - 2 s') / (z - z0) with s' = (phi' - s) / (z - z0).

Shapes: all tensors broadcast; each entry alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..boxes import Box
from ..rounding import SECOND_DERIVATIVE, least, roundings
from ..rounding import narrow as narrow_width
from .piecewise import Line

# of the grid, half of them on each side of the point where the slope bends most; odd, so that
# places
CELLS = 26
# such as the middle are not at a point of it
EXCHANGES = 8  # at most so many exchanges of a supporting point
Two = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Smooth:
    """A smooth increasing function phi, as far as its secant slopes are concerned.

    Args:
        value: (z, z0) -> the slope s, without cancellation; phi'(z) at z = z0. What `error` adds is
            left out.
        slope: phi', which rises, or rises up to 0 and then falls.
        middle: z0 -> where s is largest if it is not monotone; else a point near which it bends
            most. Between the two ends of any interval and this point s is monotone.
        bell: whether phi' falls again.
        third: (lo, hi) -> a bound of |phi'''| on [lo, hi].
        second: (t, right) -> phi'', at a jump on that side of it.
        most: (lo, hi) -> a bound of |phi''| on [lo, hi].
        bends: where phi''' changes its sign, ascending; left of the first it is positive.
        first: a bound of |phi' - s|.
        error: (lo, hi, z0, eps) -> what is to be added to s on [lo, hi], between two numbers; or
            None.
        straight: beyond it phi(t) = t.
    """

    value: Two
    slope: Callable[[Tensor], Tensor]
    middle: Callable[[Tensor], Tensor]
    bell: bool
    third: Two
    second: Callable[[Tensor, bool], Tensor]
    most: Two
    bends: tuple[float, ...]
    first: float
    error: Callable[[Tensor, Tensor, Tensor, float], Box] | None = None
    straight: float = math.inf


def smooth_range(f: Smooth, lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> Box:
    """Range of the slope for z in [lo, hi], where it is phi'(z) at |z - z0| < eps.

    Example:
        >>> low, high = smooth_range(SIGMOID, *map(torch.tensor, (-1.0, 1.0, 0.0)), 1e-10)
        >>> round(low.item(), 3), high.item()
        (0.231, 0.25)
    """
    at_lo, at_hi = f.value(lo, z0), f.value(hi, z0)
    low, high = torch.minimum(at_lo, at_hi), torch.maximum(at_lo, at_hi)
    if f.bell:
        high = torch.maximum(high, f.value(f.middle(z0).clamp(lo, hi), z0))
    near, least, most, _, _ = _window(f, lo, hi, z0, eps)
    low, high = (torch.where(near, torch.minimum(low, least), low),
                 torch.where(near, torch.maximum(high, most), high))
    inside = _inside(lo, hi, z0, eps)
    low, high = torch.where(inside, least, low), torch.where(inside, most, high)
    if f.error is None:
        return Box(low, high)
    less, more = f.error(lo, hi, z0, eps)
    straight = _straight(f, lo, z0)
    return Box(torch.where(straight, 1.0, low + less), torch.where(straight, 1.0, high + more))


def smooth_lines(f: Smooth, lo: Tensor, hi: Tensor, z0: Tensor, eps: float,
                 place: float = 0.5) -> tuple[Line, Line]:
    """Lines below and above the slope on [lo, hi], nearly the best there are at one place of it,
    from 0 to 1.

    Example:
        >>> (kl, bl), (ku, bu) = smooth_lines(TANH, *map(torch.tensor, (0.0, 1.0, 1.0)), 1e-10)
        >>> value = TANH.value(torch.tensor(0.5), torch.tensor(1.0))
        >>> bool(kl * 0.5 + bl <= value <= ku * 0.5 + bu)
        True
    """
    lo, hi, z0 = torch.broadcast_tensors(lo, hi, z0)
    middle = f.middle(z0).clamp(lo, hi)
    share = torch.linspace(0, 1, CELLS // 2 + 1, dtype=lo.dtype,
                           device=lo.device).reshape(-1, *[1] * lo.ndim)
    z = torch.cat([torch.lerp(lo, middle, share), torch.lerp(middle, hi, share[1:])])
    z = torch.minimum(torch.maximum(z, lo), hi)
    s = f.value(z, z0)
    a, b = z[:-1], z[1:]
    slack = _curvature(f, a, b, z0) * (b - a).square() / 8
    slacks = [torch.where(known, 0.0, slack) for known in _signs(f, a, b, z0)]
    low, high = smooth_range(f, lo, hi, z0, eps)
    x = torch.lerp(lo, hi, place)
    near, least, most, start, stop = _window(f, lo, hi, z0, eps)
    less, more = (f.error(lo, hi, z0, eps)
                  if f.error else (torch.zeros_like(lo), torch.zeros_like(lo)))
    sides = []
    for sign, end, window, by in ((-1, -low, -least, -less), (1, high, most, more)):
        k, c = _above(z, sign * s, slacks[sign > 0], x)
        c = torch.where(near, torch.maximum(c, window - torch.minimum(k * start, k * stop)), c) + by
        flat = ~(k * x + c < end) | _straight(f, lo, z0) | _inside(lo, hi, z0, eps)
        k, c = torch.where(flat, 0.0, k), torch.where(flat, end, c)
        sides.append((sign * k, sign * c))
    return sides[0], sides[1]


def _window(f: Smooth, lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Whether [lo, hi] reaches points at which s is phi', the range of phi' there, and where they
    begin and end.
    """
    start, stop = torch.maximum(lo, z0 - eps), torch.minimum(hi, z0 + eps)
    near = (start <= stop) & (eps > 0)
    start, stop = torch.minimum(start, hi), torch.maximum(stop, lo)
    ends = f.slope(start), f.slope(stop)
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    if f.bell:
        most = torch.maximum(
            most, f.slope(torch.zeros_like(start).clamp(start, torch.maximum(start, stop))))
    return near, least, most, start, stop


def _inside(lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> Tensor:
    """Whether the slope is phi' on all of [lo, hi]."""
    return (lo > z0 - eps) & (hi < z0 + eps)


def _straight(f: Smooth, lo: Tensor, z0: Tensor) -> Tensor:
    return (lo > f.straight) & (z0 > f.straight)


def _curvature(f: Smooth, a: Tensor, b: Tensor, z0: Tensor) -> Tensor:
    """A bound of |s''| on [a, b]; both of its formulas hold."""
    third = f.third(torch.minimum(a, z0), torch.maximum(b, z0)) / 3
    distance = torch.maximum(a - z0, z0 - b)
    away = distance > 0
    distance = torch.where(away, distance, 1.0)
    return torch.where(
        away, torch.minimum(third, (f.most(a, b) + 2 * f.first / distance) / distance), third)


@torch.no_grad()
def _signs(f: Smooth, a: Tensor, b: Tensor, z0: Tensor) -> tuple[Tensor, Tensor]:
    """Whether s is known to be concave on [a, b], and whether it is known to be convex.

    Where phi''' has one sign between z, for all z of [a, b], and z0, s'' has that sign. Where it
    has one sign on [a, b] alone and z0 is outside, (z - z0)^3 s'' is monotone, so s'' has the sign
    that it has at both ends, if that is the same; rounding is allowed for.
    """

    def one_sign(lo: Tensor, hi: Tensor) -> list[Tensor]:
        """Where phi''' is negative on all of [lo, hi], and where it is positive."""
        found = [torch.zeros_like(lo, dtype=torch.bool), torch.zeros_like(lo, dtype=torch.bool)]
        for i, (start, stop) in enumerate(zip((-math.inf, *f.bends), (*f.bends, math.inf),
                                              strict=True)):
            found[1 - i % 2] |= (lo >= start) & (hi <= stop)
        return found

    concave, convex = one_sign(torch.minimum(a, z0), torch.maximum(b, z0))
    negative, positive = one_sign(a, b)
    apart = (negative | positive) & ((a > z0) | (b < z0))
    rises, falls = apart, apart
    for z, right in ((a, True), (b, False)):
        run = torch.where(apart, z - z0, 1.0)
        bend = f.second(z, right)
        second = (bend - 2 * (f.slope(z) - f.value(z, z0)) / run) / run
        error = roundings(SECOND_DERIVATIVE,
                          z.dtype) * (bend.abs() + run.abs().reciprocal()) / run.abs()
        rises, falls = rises & (second > error), falls & (second < -error)
    return concave | falls, convex | rises


def _above(z: Tensor, s: Tensor, slack: Tensor, x: Tensor) -> Line:
    """The line above a function, known at points z (n, *S), that is nearly the lowest one at x.

    The lowest is that which supports the concave envelope there: the chord of a point left of x and
    one right of it, found by exchanging one of them for the highest point.
    """
    with torch.no_grad():
        left = torch.zeros_like(x, dtype=torch.long)[None]
        right = left + len(z) - 1
        for _ in range(EXCHANGES):
            highest = (s - _chord(z, s, left, right)[None] * (z - x)).argmax(0, keepdim=True)
            before = z.gather(0, highest) <= x
            new_left, new_right = (torch.where(before, highest, left),
                                   torch.where(before, right, highest))
            if torch.equal(new_left, left) and torch.equal(new_right, right):
                break
            left, right = new_left, new_right
    k = _chord(z, s, left, right)
    drop = k * z
    at = s - drop
    curved = torch.maximum(at[:-1], at[1:]) + slack
    monotone = torch.maximum(s[:-1], s[1:]) - torch.minimum(drop[:-1], drop[1:])
    return k, torch.minimum(curved, monotone).amax(0)


def _chord(z: Tensor, s: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Slope of the chord between two points by their indices (1, *S); 0 where rounding would spoil
    it.
    """
    width, rise = (part.gather(0, right)[0] - part.gather(0, left)[0] for part in (z, s))
    narrow = width <= narrow_width(z.dtype, 2 / 3) * (1 + z[0].abs())
    return torch.where(narrow, 0.0, rise / torch.where(narrow, 1.0, width))


# The functions


def _decay(t: Tensor) -> Tensor:
    """(1 - exp(-t)) / t for t >= 0, the mean of exp(-x) for x in [0, t]."""
    small = t < 0.02
    near, far = torch.where(small, t, 0.0), torch.where(small, 1.0, t)
    series = 1 - near / 2 * (1 - near / 3
                             * (1 - near / 4 * (1 - near / 5 * (1 - near / 6 * (1 - near / 7)))))
    return torch.where(small, series, -torch.expm1(-far) / far)


def _sigmoid_secant(z: Tensor, z0: Tensor) -> Tensor:
    """sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), here with a >= b."""
    a, b = torch.maximum(z, z0), torch.minimum(z, z0)
    return torch.sigmoid(a) * torch.sigmoid(-b) * _decay(a - b)


def _bump(t: Tensor) -> Tensor:
    return torch.sigmoid(t) * torch.sigmoid(-t)


def _highest(lo: Tensor, hi: Tensor) -> Tensor:
    """The largest derivative of sigmoid between two points."""
    return _bump(torch.zeros_like(lo).clamp(lo, hi))


@torch.no_grad()
def _sigmoid_peak(z0: Tensor) -> Tensor:
    """Where sigmoid's secant slope from z0 is largest: z on the other side of 0 with phi'(z) =
    s(z).

    For z0 > 0 there phi' - s changes from negative to positive; |z| <= |z0| / 2, and it grows as
    log |z0| only.
    """
    far = z0.abs()
    left, right = -torch.minimum(far / 2, 2 + 2 * torch.log1p(far)) * 1.01, torch.zeros_like(far)
    for _ in range(28):
        middle = (left + right) / 2
        rising = _bump(middle) < _sigmoid_secant(middle, far)
        left, right = torch.where(rising, middle, left), torch.where(rising, right, middle)
    return torch.where(z0 > 0, left, -left)


def _sigmoid_third(lo: Tensor, hi: Tensor) -> Tensor:
    """|phi'''| = phi' |1 - 6 phi'| <= min(1 / 8, phi')."""
    return _highest(lo, hi).clamp(max=1 / 8)


def _sigmoid_second(t: Tensor, right: bool = True) -> Tensor:
    return -torch.tanh(t / 2) * _bump(t)


INFLECTION = math.log(2 + math.sqrt(3))  # of sigmoid's derivative
SIGMOID = Smooth(_sigmoid_secant, _bump, _sigmoid_peak, True, _sigmoid_third, _sigmoid_second,
                 lambda lo, hi: _highest(lo, hi).clamp(max=0.0963), (-INFLECTION, INFLECTION), 0.25)
TANH = Smooth(lambda z, z0: 4 * _sigmoid_secant(2 * z, 2 * z0), lambda t: 4 * _bump(2 * t),
              lambda z0: _sigmoid_peak(2 * z0) / 2, True, lambda lo,
              hi: 16 * _sigmoid_third(2 * lo, 2 * hi), lambda t, right: 8 * _sigmoid_second(2 * t),
              lambda lo, hi: 8 * _highest(2 * lo, 2 * hi).clamp(max=0.0963),
              (-INFLECTION / 2, INFLECTION / 2), 1.0)
"""tanh(t) = 2 sigmoid(2 t) - 1."""


@lru_cache(maxsize=64)
def EXPONENTIAL(rate: float) -> Smooth:
    """`(exp(rate t) - 1) / rate` for t < 0, t for t > 0: both have the slope 1 at 0."""

    def value(z: Tensor, z0: Tensor) -> Tensor:
        a, b = torch.maximum(z, z0), torch.minimum(z, z0)
        a_left, b_left = a.clamp(max=0), b.clamp(max=0)
        left = torch.exp(rate * a_left) * _decay(rate * (a_left - b_left))
        mixed = (a > 0) & (b < 0)
        run = torch.where(mixed, a - b, 1.0)
        across = (a - torch.expm1(rate * b_left) / rate) / run
        return torch.where(mixed, across, torch.where(b >= 0, 1.0, left))

    def third(lo: Tensor, hi: Tensor) -> Tensor:
        """Phi'' jumps at 0, so across 0 there is none."""
        bound = rate**2 * torch.exp(rate * hi.clamp(max=0))
        return torch.where(lo >= 0, 0.0, torch.where(hi > 0, torch.inf, bound))

    def second(t: Tensor, right: bool) -> Tensor:
        return torch.where((t >= 0) if right else (t > 0), 0.0,
                           rate * torch.exp(rate * t.clamp(max=0)))

    return Smooth(value, lambda t: torch.exp(rate * t.clamp(max=0)), torch.zeros_like, False, third,
                  second,
                  lambda lo, hi: torch.where(lo >= 0, 0.0,
                                             rate * torch.exp(rate * hi.clamp(max=0))), (0.0,), 1.0)


@lru_cache(maxsize=64)
def SOFTPLUS(beta: float, threshold: float) -> Smooth:
    """`log(1 + exp(beta t)) / beta`, from which torch's function falls to t where `beta t >
    threshold`.

    Raises:
        ValueError: `beta` is not positive.
    """
    if not beta > 0:
        raise ValueError(f"softplus is bounded for beta > 0 only, got beta={beta}")
    limit = threshold / beta

    def value(z: Tensor, z0: Tensor) -> Tensor:
        a, b = beta * torch.maximum(z, z0), beta * torch.minimum(z, z0)
        run = a - b
        close = run < 1
        t = torch.where(close, run, 0.0)
        # softplus(a) - softplus(b) = -log(1 - w) with w = sigmoid(a) (1 - exp(b - a)) = sigmoid(a)
        # t decay(t)
        w = torch.sigmoid(a) * t * _decay(t)
        near = torch.sigmoid(a) * _decay(t) * _log_ratio(w)
        far = (F.softplus(a, threshold=50.0) - F.softplus(b, threshold=50.0)) / torch.where(
            close, 1.0, run)
        return torch.where(close, near, far)

    def highest(lo: Tensor, hi: Tensor) -> Tensor:
        return _highest(beta * lo, beta * hi)

    def rest(t: Tensor) -> Tensor:
        """How far phi falls at the limit, if it does so at t."""
        return F.softplus(-beta * t, threshold=50.0) / beta

    def error(lo: Tensor, hi: Tensor, z0: Tensor, eps: float) -> Box:
        """For z beyond the limit alone -rest(z) / (z - z0), for z0 alone -rest(z0) / (z0 - z); both
        rise with |z|.
        """
        tiny, zero = least(lo.dtype), torch.zeros_like(lo + z0)
        first, last = (torch.where(z0 > limit, hi.clamp(max=limit), lo.clamp(min=limit)),
                       torch.where(z0 > limit, lo, hi))

        def fall(z: Tensor) -> Tensor:
            return -rest(torch.where(z0 > limit, z0, z)) / (z - z0).abs().clamp(min=tiny)

        across = torch.where(z0 > limit, lo <= limit, hi > limit)
        only = torch.where(z0 > limit, hi <= limit, lo > limit) & ((z0 - limit).abs() > eps)
        up = torch.where((hi > limit) & (z0 >= limit - eps), torch.sigmoid(zero - threshold), 0.0)
        return Box(torch.where(across, fall(first), 0.0), torch.where(only, fall(last), up))

    return Smooth(value, lambda t: torch.sigmoid(beta * t), torch.zeros_like, False,
                  lambda lo, hi: beta**2 * highest(lo, hi).clamp(max=0.0963), lambda t,
                  right: beta * _bump(beta * t),
                  lambda lo, hi: beta * highest(lo, hi), (0.0,), 1.0, error, limit)


def _log_ratio(w: Tensor) -> Tensor:
    """-log(1 - w) / w for 0 <= w < 1; 1 at 0."""
    small = w < 1e-3
    v, far = torch.where(small, w, 0.0), torch.where(small, 0.5, w)
    series = 1 + v * (1 / 2 + v * (1 / 3 + v * (1 / 4 + v * (1 / 5 + v * (1 / 6 + v / 7)))))
    return torch.where(small, series, -torch.log1p(-far) / far)
