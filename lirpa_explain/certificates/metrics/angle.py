"""The smallest cosine between a fixed direction and the points of a box: two one-dimensional
searches.

With P(a) = <a, n>, |n| = 1, and S(a) = |a - c|^2 (c = 0 for the cosine, the mean of a for
correlation), the smallest cos(a) = P(a) / sqrt(S(a)) is looked for. Its sign is that of min P,
which the ends of the box give.

* min P > 0: cos >= t if P - t sqrt(S) >= 0 all over the box. -sqrt(s) = max over mu of -(mu s + 1 /
  (4 mu)) makes this sum_i min(a_i n_i - nu (a_i - c)^2) >= t^2 / (4 nu) for some nu = t mu and c,
  the terms being concave in a_i and so smallest at an end. Hence t^2 = max over nu and c of 4 nu
  h(nu, c) with h that sum: any nu and c are sound. h is concave in (nu, nu c), so that the search
  finds the best. The gap to the true minimum is that of the convex hull of the points (P, S); it
  shrinks as the number of features grows.
* min P < 0: P + |t| sqrt(S) is convex, so the minimum over the box is where its gradient says: a =
  clip(c - k n) for a k >= 0 with k = S / -P. k (-P) - S rises in k, and the bound is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...rounding import DIRECTION, roundings

_GOLDEN = (5**0.5 - 1) / 2
_NU_STEPS, _K_STEPS, _CENTRE_STEPS = 56, 60, 44
# multipliers are looked for from 2^-40 to 2^40, with |n| = 1 and the box scaled to 1
_OCTAVES = 40.0


def least_cosine(lower: Tensor, upper: Tensor, direction: Tensor, centered: bool = False) -> Tensor:
    """A lower bound of the cosine between a direction and every point of a box.

    Differentiable: where the search ends, the bound has a maximum, and its own derivative does not
        count. The cosine
    with a zero vector is 0, as in torch; so is, with `centered`, that with a constant one.

    Args:
        lower: (N, D), finite.
        upper: (N, D), finite, upper >= lower.
        direction: (N, D), finite.
        centered: whether means are taken off first, which makes it Pearson's correlation.

    Returns:
        (N,), float64, from -1 to 1; exact where negative.

    Example:
        >>> box = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> round(least_cosine(*box, torch.tensor([[1.0, 0.0]])).item(), 6)
        0.707107
    """
    low, high, n = (t.double() for t in (lower, upper, direction))
    size = n.detach().abs().amax(1, keepdim=True)
    n = n / torch.where(size == 0, 1.0, size)
    if centered:
        n = n - n.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(n, dim=1, keepdim=True)
    # A constant direction leaves rounding when it is centred.
    has_direction = length[:, 0] > roundings(DIRECTION, n.dtype) * n.shape[1] ** 0.5
    n = n / torch.where(length == 0, 1.0, length)
    scale = torch.maximum(low.abs(), high.abs()).detach().amax(1, keepdim=True)
    scale = torch.where(scale == 0, 1.0, scale)
    low, high = low / scale, high / scale
    least = torch.minimum(low * n, high * n).sum(1)
    undefined = low.amax(1) <= high.amin(1) if centered else ((low <= 0) & (high >= 0)).all(1)
    result = torch.zeros_like(least)
    positive, negative = has_direction & ~undefined & (least > 0), has_direction & (least < 0)
    for rows, search in ((positive, _smallest_positive), (negative, _smallest_negative)):
        if rows.any():
            result[rows] = search(low[rows], high[rows], n[rows], centered)
    return result.clamp(-1, 1)


def _smallest_positive(low: Tensor, high: Tensor, n: Tensor, centered: bool) -> Tensor:
    """The root of the largest 4 nu h(nu, c), by golden section on the logarithm of nu."""

    def squared(log_nu: Tensor) -> Tensor:
        nu = torch.exp2(log_nu)[:, None]

        def ends(c: Tensor) -> tuple[Tensor, Tensor]:
            return low * n - nu * (low - c).square(), high * n - nu * (high - c).square()

        def nearest(c: Tensor) -> Tensor:
            at_low, at_high = ends(c)
            return torch.where(at_low <= at_high, low, high)

        c = _center(nearest, low, high) if centered else torch.zeros_like(nu)
        return 4 * nu[:, 0] * torch.minimum(*ends(c)).sum(1)

    with torch.no_grad():
        left, right = (low.new_full((len(low),), side * _OCTAVES) for side in (-1, 1))
        step = _GOLDEN * (right - left)
        inner, outer = right - step, left + step
        at_inner, at_outer = squared(inner), squared(outer)
        for _ in range(_NU_STEPS):
            go_right = at_outer > at_inner
            left, right = torch.where(go_right, inner, left), torch.where(go_right, right, outer)
            step = _GOLDEN * (right - left)
            new = torch.where(go_right, left + step, right - step)
            at_new = squared(new)
            inner, outer = torch.where(go_right, outer, new), torch.where(go_right, new, inner)
            at_inner, at_outer = (torch.where(go_right, at_outer, at_new),
                                  torch.where(go_right, at_new, at_inner))
    found = torch.maximum(at_inner, at_outer)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (low, high, n)):
        found = found + _without_value(squared, left, right)
    return torch.where(found > 0, torch.where(found > 0, found, 1.0).sqrt(), 0.0)


def _without_value(function: Callable[[Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """Zero, with the derivative of a concave function's maximum, found between left and right.

    Its terms change sides at the maximum as a rule, a kink: the derivative is that mixture of both
    sides' in which the slopes cancel.
    """
    slopes = []
    for side in (left, right):
        with torch.enable_grad():
            place = side.detach().requires_grad_()
            slopes.append(torch.autograd.grad(function(place).sum(), place)[0])
    fall = slopes[0] - slopes[1]
    share = torch.where(fall > 0, -slopes[1] / torch.where(fall > 0, fall, 1.0), 0.5).clamp(0, 1)
    mixed = share * function(left) + (1 - share) * function(right)
    return mixed - mixed.detach()


def _smallest_negative(low: Tensor, high: Tensor, n: Tensor, centered: bool) -> Tensor:
    """P / sqrt(S) at the k where k = S / -P, by bisection on the logarithm of k."""

    def at(log_k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = torch.exp2(log_k)[:, None]

        def nearest(c: Tensor) -> Tensor:
            return torch.minimum(torch.maximum(c - k * n, low), high)

        a = nearest(_center(nearest, low, high) if centered else torch.zeros_like(k))
        if centered:
            a = a - a.mean(1, keepdim=True)
        return k[:, 0], (a * n).sum(1), a.square().sum(1)

    left, right = (low.new_full((len(low),), side * _OCTAVES) for side in (-1, 1))
    with torch.no_grad():
        for _ in range(_K_STEPS):
            middle = (left + right) / 2
            k, p, s = at(middle)
            rises = k * -p < s
            left, right = torch.where(rises, middle, left), torch.where(rises, right, middle)
    (_, p, s), (_, q, r) = at(left), at(right)
    return torch.minimum(p / torch.where(s == 0, 1.0, s).sqrt(),
                         q / torch.where(r == 0, 1.0, r).sqrt())


@torch.no_grad()
def _center(nearest: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Offset c, (N, 1), with c = mean(nearest(c)), by bisection: the residual sum(nearest(c) - c)
    falls in c.
    """
    left, right = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    for _ in range(_CENTRE_STEPS):
        middle = (left + right) / 2
        rises = (nearest(middle) - middle).sum(1, keepdim=True) > 0
        left, right = torch.where(rises, middle, left), torch.where(rises, right, middle)
    return (left + right) / 2
