"""Lines above and below a function of one variable on an interval.

One construction serves every function. The offset of a line of slope `k` above `f` on `[lo, hi]` is
the exact maximum of `h(t) = f(t) - k t`, which lies at an end, at a break of `f` or, where `f` is
concave, at `f'(t) = k`. So ANY slope gives a sound line and only its tightness depends on `k`. A
function is declared as data (`Function`).

Shapes: `lo`, `hi` and everything returned have one common shape `(*S)`; all operations are
    elementwise.
Rounding is not directed outward: bounds hold up to a few units in the last place of `|f| + |k t| +
|b|`.
"""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..boxes import Box
from ..rounding import at_a_jump
from .declaration import Function
from .piecewise import Line
from .search import line_above, peak

Family = tuple[Tensor, Tensor]  # slopes (K, *S), offsets (K, *S)

# where in its interval each line of a family is lowest, the first one `lines`'
PLACES = (0.5, 0.0, 0.25, 0.75, 1.0)


def range_of(f: Function, lo: Tensor, hi: Tensor) -> Box:
    """Smallest and largest value of a function on an interval.

    `min, max of f(t) over t in {lo, hi, both sides of the breaks and the extrema between them}`:
    exact, and once differentiable.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`.

    Returns:
        The minimum `(*S)` and the maximum `(*S)`; infinite where `f` is not defined on the whole
        interval.

    Source:
        A differentiable function takes its extremes at an end or where its slope changes sign.

    Example:
        >>> from lirpa_explain.relaxations.functions import tanh
        >>> low, high = range_of(tanh().derivative, torch.tensor([-1.0, 0.0]),
        ...                      torch.tensor([2.0, 0.0]))
        >>> high.tolist()
        [1.0, 1.0]
    """
    return Box(*_extremes(f, lo, hi)[:2] if f.trend else _Range.apply(f, lo, hi))


class _Range(torch.autograd.Function):
    """Range of a function: a smallest or largest value moves with an end of the interval or not at
    all.

    Written out, because in training by intervals smooth nets spend most of their time here and in
    `product_range`.
    """

    @staticmethod
    def forward(ctx: Any, f: Function, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        f = ctx.f = f.within(lo, hi)
        if f.monotone:
            ctx.save_for_backward(lo, hi)
            return _monotone_range(f, lo, hi)
        low, high, at_lo, at_hi = _extremes(f, lo, hi)
        low_at_lo, high_at_hi = low == at_lo, high == at_hi
        ctx.save_for_backward(lo, hi, low_at_lo, (high == at_lo) > high_at_hi,
                              (low == at_hi) > low_at_lo, high_at_hi)
        return low, high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, low: Tensor, high: Tensor) -> tuple[None, Tensor, Tensor]:
        lo, hi, *at = ctx.saved_tensors
        if not at:
            from_lo, from_hi = (low, high) if ctx.f.monotone > 0 else (high, low)
            return None, from_lo * ctx.f.slope(lo), from_hi * ctx.f.slope(hi)

        def along(end: Tensor, low_here: Tensor, high_here: Tensor) -> Tensor:
            gradient = torch.where(low_here, low, 0.0) + torch.where(high_here, high, 0.0)
            moved = gradient * ctx.f.slope(end)
            return moved if ctx.f.is_total else torch.where(low_here | high_here, moved, 0.0)

        return None, along(lo, *at[:2]), along(hi, *at[2:])


def _monotone_range(f: Function, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Range of a monotone function: its values at the ends, or beyond a break that roundings of an
    end may reach.
    """
    if f.monotone < 0:
        low, high = _monotone_range(f.negative, lo, hi)
        return -high, -low
    if not f.breaks:
        return f.pieces[0].value(lo), f.pieces[0].value(hi)
    by, sides = at_a_jump(lo, hi), []
    for end, reached, left in ((lo, lo - by, True), (hi, hi + by, False)):
        values = f.of_pieces([piece.value for piece in f.pieces], end)
        for i, (before, after) in enumerate(f.jumps):
            if after < before and left:
                values[i] = values[i].clamp(max=after)
            elif after < before:
                values[i + 1] = values[i + 1].clamp(min=before)
        sides.append(f.select(values, reached, left))
    return sides[0], sides[1]


def _extremes(f: Function, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest and largest value on an interval, and the values at its ends."""
    defined = _defined(f, lo, hi)
    lo, hi = _inside(f, defined, lo, hi)
    lows, highs, ends = [], [], []
    for i, piece in enumerate(f.pieces):
        a, b = f.clamp(i, lo), f.clamp(i, hi)
        at_a, at_b = piece.value(a), piece.value(b)
        low, high = torch.minimum(at_a, at_b), torch.maximum(at_a, at_b)
        for point, extreme, by, kind in _extrema(f, i, lo, hi):
            inside = (a < point + by) & (point - by < b)
            if kind <= 0:
                low = torch.where(inside, torch.minimum(low, extreme), low)
            if kind >= 0:
                high = torch.where(inside, torch.maximum(high, extreme), high)
        reached = f.reached(i, lo, hi)
        lows.append(low if reached is None else torch.where(reached, low, math.inf))
        highs.append(high if reached is None else torch.where(reached, high, -math.inf))
        ends.append((at_a, at_b))
    low, high = reduce(torch.minimum, lows), reduce(torch.maximum, highs)
    if f.period:
        wide, rises = _wide(f, lo, hi), (f.trend * lo, f.trend * hi)
        low = torch.where(wide, torch.minimum(*rises) - peak(f.negative), low)
        high = torch.where(wide, torch.maximum(*rises) + peak(f), high)
    at_lo, at_hi = (f.select([values[side] for values in ends], end)
                    for side, end in enumerate((lo, hi)))
    if defined is None:
        return low, high, at_lo, at_hi
    return torch.where(defined, low, -math.inf), torch.where(defined, high, math.inf), at_lo, at_hi


def lines(f: Function, lo: Tensor, hi: Tensor) -> tuple[Line, Line]:
    """Lines below and above a function on an interval.

    `kl t + bl <= f(t) <= ku t + bu` for every `t` in `[lo, hi]`, each with the least area between
    line and function, nearly. Where `lo == hi` and `f` is smooth both are the tangent at that
    point. Differentiable in `lo` and `hi` wherever the choice among the slopes tried does not
    change.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`, finite.

    Returns:
        The lower line `(kl, bl)` and the upper line `(ku, bu)`, all of shape `(*S)`; of slope 0 and
        infinite where `f` is not defined on the whole interval.

    Source:
        The least of all lines above `f` supports its concave envelope at the midpoint. It is found
        by exchanging one of two supporting points: Kelley, The cutting-plane method, 1960, in one
        dimension.

    Example:
        >>> from lirpa_explain.relaxations.functions import tanh
        >>> lo, hi = torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 0.5])
        >>> (kl, bl), (ku, bu) = lines(tanh().function, lo, hi)
        >>> bool(kl[0] * 0.3 + bl[0] <= math.tanh(0.3) <= ku[0] * 0.3 + bu[0])
        True
        >>> bool(kl[1] == ku[1]) and bool(bl[1] == bu[1])
        True
    """
    return _both(f, lo, hi, 0.5)


def line_family(f: Function, lo: Tensor, hi: Tensor) -> tuple[Family, Family]:
    """Several lines below and above a function on an interval.

    The first are those of `lines`. The others are each lowest at another place of the interval
    (above): at `lo`, at a quarter, at three quarters, at `hi`; the last is the constant maximum. So
    mixtures of them come near every useful line, for any downstream coefficients.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`, finite.

    Returns:
        The lower lines and the upper lines: slopes and offsets of shape `(K, *S)`.

    Example:
        >>> from lirpa_explain.relaxations.functions import tanh
        >>> (kl, bl), (ku, bu) = line_family(tanh().function, torch.tensor(-1.0), torch.tensor(2.0))
        >>> bool((kl * 0.3 + bl <= math.tanh(0.3)).all()
        ...      and (math.tanh(0.3) <= ku * 0.3 + bu).all())
        True
    """
    places = torch.tensor(PLACES, dtype=lo.dtype, device=lo.device).reshape(-1, *[1] * lo.ndim)
    shape = (len(PLACES), *lo.shape)
    below, above = _both(f, lo.expand(shape), hi.expand(shape), places)
    constant = torch.zeros_like(lo)[None]
    return tuple((torch.cat([k, constant]), torch.cat([b, end[None]]))  # type: ignore[return-value]
                 for (k, b), end in zip((below, above), range_of(f, lo, hi), strict=True))


def is_straight(f: Function, lo: Tensor, hi: Tensor) -> Tensor:
    """Where a function is a straight line on the interval: no smaller interval would give tighter
    lines.

    Example:
        >>> from lirpa_explain.relaxations.functions import hardtanh
        >>> is_straight(hardtanh(-1, 1).function, torch.tensor([-3.0, 0.0]),
        ...             torch.tensor([-2.0, 2.0])).tolist()
        [True, False]
    """
    inside = [(lo > start + at_a_jump(lo, hi)) & (hi < stop - at_a_jump(lo, hi))
              for start, stop in f.straight]
    return reduce(torch.logical_or, inside, lo >= hi)


# Where a function lives


def _defined(f: Function, lo: Tensor, hi: Tensor) -> Tensor | None:
    """Where the function is defined on the whole interval; None if everywhere."""
    if f.is_total:
        return None
    inside = (lo >= f.domain[0]) & (hi <= f.domain[1])
    return reduce(torch.logical_and, [(lo > pole) | (hi < pole) for pole in f.poles], inside)


def _inside(f: Function, usable: Tensor | None, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """The interval, or a point of the domain where it cannot be used."""
    if usable is None:
        return lo, hi
    point = next(p for p in (0.0, 1.0, f.domain[0] + 1, f.domain[1] - 1, sum(f.domain) / 2)
                 if f.domain[0] <= p <= f.domain[1] and p not in f.poles)
    return torch.where(usable, lo, point), torch.where(usable, hi, point)


def _wide(f: Function, lo: Tensor, hi: Tensor) -> Tensor:
    """Where an interval is longer than two periods, or rounding has lost its place within one."""
    return (hi - lo >= 2 * f.period) | (16 * at_a_jump(lo, hi) > f.period)


def _extrema(f: Function, i: int, lo: Tensor, hi: Tensor
             ) -> Iterator[tuple[Tensor | float, Tensor, Tensor | float, int]]:
    """Extrema of a piece, the values there, how far rounding may have moved them, and of which kind
    they are.
    """
    piece = f.pieces[i]
    for point, kind in zip(piece.extrema, f.kinds[i], strict=True):
        extreme = piece.value(lo.new_tensor(point))
        if not f.period:
            yield point, extreme, 0.0, kind
            continue
        for shift in f.shifts(lo.detach()):
            yield point + shift, extreme + f.trend * shift, at_a_jump(lo, hi), 0


# The construction


def _both(f: Function, lo: Tensor, hi: Tensor, place: Tensor | float) -> tuple[Line, Line]:
    """The lines below and above that are lowest (below: highest) at that place of the interval,
    from 0 to 1.
    """
    low, high = range_of(f, lo, hi)
    usable = low.isfinite() & high.isfinite()
    known = None if usable.all() else usable
    a, b = _inside(f, known, lo, hi)
    sides = []
    for g, end, sign in ((f.negative, -low, -1), (f, high, 1)):
        k, offset = line_above(g, a, b, torch.where(usable, end, 0.0).detach(), place)
        if f.period:
            wide = _wide(f, a, b)
            k, offset = torch.where(wide, g.trend, k), torch.where(wide, peak(g), offset)
        if known is not None:
            k, offset = torch.where(usable, k, 0.0), torch.where(usable, offset, end)
        sides.append((sign * k, sign * offset))
    return sides[0], sides[1]
