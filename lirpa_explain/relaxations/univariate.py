"""Lines above and below a smooth function of one variable on an interval.

One construction serves every function. The offset of a line of slope `k` above `f` on `[lo, hi]` is the exact
maximum of `h(t) = f(t) - k t`, which lies at an end or, where `f` is concave, at `f'(t) = k`. So ANY slope
gives a sound line and only its tightness depends on `k`. A function is declared as data (`Smooth`): a new one
costs one row.

Shapes: `lo`, `hi` and everything returned have one common shape `(*S)`; all operations are elementwise.
Rounding is not directed outward: bounds hold up to a few units in the last place of `|f| + |k t| + |b|`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

Line = tuple[Tensor, Tensor]  # slope (*S), offset (*S)

STEPS = 25  # bisections; what they leave open is added to the offset, so this number concerns tightness only


@dataclass(frozen=True)
class Smooth:
    """A differentiable function of one variable, declared as data.

    The function bounded is `value(t)` for `t < exact_below`, the line `tail` for `t > linear_above`, either
    of the two in between: so does torch compute softplus.

    Args:
        value: the function, elementwise and finite at every finite `t`, also under autograd.
        slope: its derivative, likewise.
        turns: where `slope` changes from rising to falling or back (inflection points of `value`), ascending.
        extrema: where `slope` changes sign (interior extrema of `value`), ascending.
        error: the largest distance of the function bounded from `value`, for `t >= exact_below`.
        exact_below: the function bounded is `value` below this point.
        linear_above: the function bounded is the line `tail` above this point.
        tail: slope and offset of that line.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    turns: tuple[float, ...] = ()
    extrema: tuple[float, ...] = ()
    error: float = 0.0
    exact_below: float = math.inf
    linear_above: float = math.inf
    tail: tuple[float, float] = (0.0, 0.0)


def range_of(f: Smooth, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of a function on an interval.

    `min, max of f(t) over t in {lo, hi, the extrema between them}`: exact, but for `f.error` on intervals
    that contain the switch to `f.tail`.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`.

    Returns:
        The minimum `(*S)` and the maximum `(*S)`.

    Source:
        A continuous function takes its extremes at an end or where its slope changes sign.

    Example:
        >>> low, high = range_of(TANH_SLOPE, torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.0]))
        >>> high.tolist()
        [1.0, 1.0]
    """
    at_lo, at_hi = f.value(lo), f.value(hi)
    low, high = torch.minimum(at_lo, at_hi), torch.maximum(at_lo, at_hi)
    for point in f.extrema:
        inside, peak = (lo < point) & (point < hi), f.value(torch.full_like(lo, point))
        low = torch.where(inside, torch.minimum(low, peak), low)
        high = torch.where(inside, torch.maximum(high, peak), high)
    k, b = f.tail
    beyond, outward = lo > f.linear_above, _outward(f, hi)
    low = torch.where(beyond, torch.minimum(k * lo, k * hi) + b, low - outward)
    high = torch.where(beyond, torch.maximum(k * lo, k * hi) + b, high + outward)
    return low, high


def lines(f: Smooth, lo: Tensor, hi: Tensor) -> tuple[Line, Line]:
    """Lines below and above a function on an interval.

    `kl t + bl <= f(t) <= ku t + bu` for every `t` in `[lo, hi]`. Where `lo == hi` both are the tangent at
    that point. Differentiable in `lo` and `hi` wherever the choice among the slopes tried does not change.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`, finite.

    Returns:
        The lower line `(kl, bl)` and the upper line `(ku, bu)`, all of shape `(*S)`.

    Source:
        Slopes tried as in CROWN (Zhang et al. 2018, arXiv:1811.00866): the chord, the tangent at the
        midpoint, tangents through an end. The offset is the module's own construction, see above.

    Example:
        >>> lo, hi = torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 0.5])
        >>> (kl, bl), (ku, bu) = lines(TANH, lo, hi)
        >>> bool(kl[0] * 0.3 + bl[0] <= math.tanh(0.3) <= ku[0] * 0.3 + bu[0])
        True
        >>> bool(kl[1] == ku[1]) and bool(bl[1] == bu[1])
        True
    """
    ku, bu = _line_above(f, lo, hi)
    kl, bl = _line_above(replace(f, value=lambda t: -f.value(t), slope=lambda t: -f.slope(t)), lo, hi)
    k, b = f.tail
    beyond, outward = lo > f.linear_above, _outward(f, hi)
    lower = torch.where(beyond, k, -kl), torch.where(beyond, b, -bl - outward)
    upper = torch.where(beyond, k, ku), torch.where(beyond, b, bu + outward)
    return lower, upper


def line_family(f: Smooth, lo: Tensor, hi: Tensor) -> tuple[Line, Line]:
    """Several lines below and several above, each tensor (K, *S), the first those of `lines`."""
    below, above = lines(f, lo, hi)
    return (below[0][None], below[1][None]), (above[0][None], above[1][None])


def _outward(f: Smooth, hi: Tensor) -> Tensor:
    """How far bounds of `f.value` on an interval that ends at `hi` move to hold for the function bounded."""
    return torch.where(hi >= f.exact_below, torch.full_like(hi, f.error), 0.0)


def _line_above(f: Smooth, lo: Tensor, hi: Tensor) -> Line:
    """The line above `f.value` on `[lo, hi]`: of the slopes tried, that with the least area under its line.

    The area under a line over `[lo, hi]` is `hi - lo` times its height at the midpoint `m`, so the least
    height at `m` wins. The least of all lines supports the concave envelope of `f` at `m`: it is the tangent
    there, the chord, or passes through one end and touches `f` beyond `m`. So `m`, the ends and the touching
    points suffice to compare the slopes. (Lines that touch twice are not tried: then another one wins.)
    """
    m, concave = torch.lerp(lo, hi, 0.5), _concave_pieces(f)
    left, right = _touching_points(f, concave, lo, m, hi)
    # a touching point is a constant for autograd: rightly, the secant has no slope by it there
    chords = [_secant(f, lo, t) for t in (hi, *right)] + [_secant(f, t, hi) for t in left]
    slopes = torch.stack([f.slope(m), *chords, torch.zeros_like(m)])
    with torch.no_grad():
        points = (lo, hi, m, *left, *right)
        heights = reduce(torch.maximum, [f.value(t) + slopes * (m - t) for t in points])
    k, height = slopes[0], heights[0]  # the first of equals stays, so where lo == hi the tangent
    for new_k, new_height in zip(slopes[1:], heights[1:], strict=True):
        k, height = torch.where(new_height < height, new_k, k), torch.minimum(new_height, height)
    t, slack = _highest_point(f, concave, k, lo, hi)
    # a maximiser at an end moves with it; one between counts in second order only: h' = 0 (envelope theorem)
    t = torch.where(t == lo, lo, torch.where(t == hi, hi, t))
    return k, f.value(t) - k * t + slack


def _concave_pieces(f: Smooth) -> list[tuple[float, float]]:
    """The pieces of the real line between consecutive turns on which `f.slope` falls."""
    first, last = (f.turns[0], f.turns[-1]) if f.turns else (0.0, 0.0)
    knots, probes = (-math.inf, *f.turns, math.inf), (first - 1, *f.turns, last + 1)
    slopes = f.slope(torch.tensor(probes, dtype=torch.float64)).tolist()
    return [(knots[i], knots[i + 1]) for i in range(len(knots) - 1) if slopes[i + 1] < slopes[i]]


def _secant(f: Smooth, a: Tensor, b: Tensor) -> Tensor:
    """`(f(b) - f(a)) / (b - a)`; where rounding would spoil it `f'((a + b) / 2)`, equal to second order."""
    narrow = b - a <= torch.finfo(a.dtype).eps ** (1 / 3) * (1 + a.abs())
    chord = (f.value(b) - f.value(a)) / torch.where(narrow, 1.0, b - a)
    return torch.where(narrow, f.slope(torch.lerp(a, b, 0.5)), chord)


def _clamp(point: float, a: Tensor, b: Tensor) -> Tensor:
    """The point of `[a, b]` nearest to `point`."""
    return a.clamp(min=point).minimum(b)


def _bisect(go_right: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A bracket of where `go_right` turns from true to false; if it does not, `a` or `b` itself is an end."""
    for _ in range(STEPS):
        t = torch.lerp(a, b, 0.5)
        right = go_right(t).to(t.dtype)
        a, b = torch.lerp(a, t, right), torch.lerp(t, b, right)  # `where`, bit by bit, but ten times faster
    return a, b


@torch.no_grad()
def _touching_points(
    f: Smooth, concave: list[tuple[float, float]], lo: Tensor, m: Tensor, hi: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Where lines through `(hi, f(hi))` touch `f` in `[lo, m]`, and lines through `(lo, f(lo))` in `[m, hi]`.

    On each concave piece `f'(t) - secant(t, end)` changes sign once at most; if it does not, or if the piece
    lies elsewhere, the point is some other one of that half.
    """
    if not concave:
        return [], []
    halves = [(lo, m)] * len(concave) + [(m, hi)] * len(concave)
    a = torch.stack([_clamp(start, *half) for (start, _), half in zip(concave * 2, halves, strict=True)])
    b = torch.stack([_clamp(stop, *half) for (_, stop), half in zip(concave * 2, halves, strict=True)])
    ends = torch.stack([hi] * len(concave) + [lo] * len(concave))
    at_ends = f.value(ends)
    a, b = _bisect(lambda t: f.slope(t) > (f.value(t) - at_ends) / (t - ends), a, b)
    return list(a[: len(concave)]), list(b[len(concave) :])


@torch.no_grad()
def _highest_point(
    f: Smooth, concave: list[tuple[float, float]], k: Tensor, lo: Tensor, hi: Tensor
) -> tuple[Tensor, Tensor]:
    """A point `t` and a slack such that `h(x) = f(x) - k x <= h(t) + slack` for every `x` in `[lo, hi]`.

    On a bracket `[a, b]` in a concave piece `h(x) <= h(a) + max(h'(a), 0) (b - a)`, and likewise from `b`;
    `h` is lower left of `a` and right of `b`. So the bound is rigorous after any number of bisections.
    """

    def height(t: Tensor) -> Tensor:
        return f.value(t) - k * (t - lo)  # not k * t: this rounds less

    t, slack = torch.where(height(hi) > height(lo), hi, lo), torch.zeros_like(lo)
    for start, stop in concave:
        a, b = _bisect(lambda t: f.slope(t) > k, _clamp(start, lo, hi), _clamp(stop, lo, hi))
        slack_a, slack_b = (f.slope(a) - k).relu() * (b - a), (k - f.slope(b)).relu() * (b - a)
        from_a = height(a) + slack_a <= height(b) + slack_b
        new_t, new_slack = torch.where(from_a, a, b), torch.where(from_a, slack_a, slack_b)
        higher = height(new_t) + new_slack > height(t) + slack
        t, slack = torch.where(higher, new_t, t), torch.where(higher, new_slack, slack)
    return t, slack


# The functions, as data.


def _sech2(t: Tensor) -> Tensor:
    """`1 / cosh(t)^2 = 1 - tanh(t)^2`, without overflow or cancellation."""
    return 4 * torch.sigmoid(2 * t) * torch.sigmoid(-2 * t)


def _sigmoid_slope(t: Tensor) -> Tensor:
    return torch.sigmoid(t) * torch.sigmoid(-t)


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Smooth:
    """What `torch.nn.functional.softplus` computes.

    `log(1 + exp(beta t)) / beta`, but `t` where `beta t > threshold`.

    Args:
        beta: sharpness, positive.
        threshold: where torch switches to the identity; the jump there is `log(1 + exp(-threshold)) / beta`.

    Returns:
        The function as data; `error` is that jump.

    Raises:
        ValueError: if `beta` is not positive.

    Source:
        torch 2.13, `aten/src/ATen/native/cpu/Activation.cpp`, `softplus_kernel`.

    Example:
        >>> low, high = range_of(softplus(), torch.tensor(30.0), torch.tensor(40.0))
        >>> low.item(), high.item()
        (30.0, 40.0)
    """
    start, stop = _switch(beta, threshold)
    return Smooth(
        value=lambda t: F.softplus(t, beta, threshold=50.0),  # beyond 50 equal to the identity in float64
        slope=lambda t: torch.sigmoid(beta * t),
        error=-F.logsigmoid(torch.tensor(beta * start, dtype=torch.float64)).item() / beta,
        exact_below=start,
        linear_above=stop,
        tail=(1.0, 0.0),
    )


def softplus_slope(beta: float = 1.0, threshold: float = 20.0) -> Smooth:
    """The derivative of softplus as torch's autograd computes it.

    `sigmoid(beta t)`, but `1` where `beta t > threshold`.

    Args:
        beta: as for `softplus`.
        threshold: as for `softplus`; the jump there is `sigmoid(-threshold)`.

    Returns:
        The function as data; `error` is that jump.

    Raises:
        ValueError: if `beta` is not positive.

    Source:
        torch 2.13, `aten/src/ATen/native/cpu/Activation.cpp`, `softplus_backward_kernel`.

    Example:
        >>> low, high = range_of(softplus_slope(beta=2.0), torch.tensor(0.0), torch.tensor(11.0))
        >>> low.item(), high.item()
        (0.5, 1.0)
    """
    start, stop = _switch(beta, threshold)
    return Smooth(
        value=lambda t: torch.sigmoid(beta * t),
        slope=lambda t: beta * _sigmoid_slope(beta * t),
        turns=(0.0,),
        error=torch.sigmoid(torch.tensor(-beta * start, dtype=torch.float64)).item(),
        exact_below=start,
        linear_above=stop,
        tail=(0.0, 1.0),
    )


def _switch(beta: float, threshold: float) -> tuple[float, float]:
    """The points between which rounding decides whether torch finds `beta t > threshold`."""
    if not beta > 0:
        raise ValueError(f"softplus is bounded for beta > 0 only, got beta={beta}")
    point = threshold / beta
    return point - 1e-6 * abs(point), point + 1e-6 * abs(point)


TANH = Smooth(torch.tanh, _sech2, turns=(0.0,))
TANH_SLOPE = Smooth(
    _sech2,
    lambda t: -2 * torch.tanh(t) * _sech2(t),
    turns=(-math.atanh(1 / math.sqrt(3)), math.atanh(1 / math.sqrt(3))),
    extrema=(0.0,),
)
SIGMOID = Smooth(torch.sigmoid, _sigmoid_slope, turns=(0.0,))
SIGMOID_SLOPE = Smooth(
    _sigmoid_slope,
    lambda t: -torch.tanh(t / 2) * _sigmoid_slope(t),
    turns=(-math.log(2 + math.sqrt(3)), math.log(2 + math.sqrt(3))),
    extrema=(0.0,),
)

FUNCTIONS = {
    "tanh": TANH,
    "tanh_slope": TANH_SLOPE,
    "sigmoid": SIGMOID,
    "sigmoid_slope": SIGMOID_SLOPE,
    "softplus": softplus(),
    "softplus_slope": softplus_slope(),
}
