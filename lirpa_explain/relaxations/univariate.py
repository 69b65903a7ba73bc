"""Lines above and below a function of one variable on an interval.

One construction serves every function. The offset of a line of slope `k` above `f` on `[lo, hi]` is the exact
maximum of `h(t) = f(t) - k t`, which lies at an end, at a break of `f` or, where `f` is concave, at `f'(t) = k`.
So ANY slope gives a sound line and only its tightness depends on `k`. A function is declared as data (`Function`).

Shapes: `lo`, `hi` and everything returned have one common shape `(*S)`; all operations are elementwise.
Rounding is not directed outward: bounds hold up to a few units in the last place of `|f| + |k t| + |b|`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from .piecewise import Line

Family = tuple[Tensor, Tensor]  # slopes (K, *S), offsets (K, *S)
Elementwise = Callable[[Tensor], Tensor]

EXCHANGES = 5  # at most so many exchanges of a supporting point in the search for the best slope
GAP = 1e-6  # of the best height, at which the search ends
ROUGH, FINE = 3, 6  # steps to a stationary point; what they leave open is added to the offset: tightness only
PLACES = (0.5, 0.0, 0.25, 0.75, 1.0)  # where in its interval each line of a family is lowest, the first one `lines`'


@dataclass(frozen=True)
class Piece:
    """A smooth formula, on the closed interval between two breaks of a function.

    Args:
        value: the formula, elementwise and finite on the interval, also under autograd.
        slope: its derivative, likewise; it may be infinite at an end.
        extrema: where `slope` changes sign inside the interval, ascending; more points do no harm.
        turns: where `slope` changes from rising to falling or back, likewise.
    """

    value: Elementwise
    slope: Elementwise
    extrema: tuple[float, ...] = ()
    turns: tuple[float, ...] = ()


@dataclass(frozen=True)
class Function:
    """A function of one variable, declared as data.

    Between consecutive breaks it follows one piece. At a break it may have a kink or jump; bounds then hold for the
    values of both sides.

    Args:
        pieces: the formulas, one more than there are breaks.
        breaks: where one formula ends and the next begins, ascending.
        domain: ends of the interval on which the function is defined, both included.
        poles: points at which it is not defined. Bounds on intervals that leave the domain, or contain a pole, are
            infinite.
        period: `f(t + period) = f(t) + trend * period`; 0 if there is none. Otherwise there is one piece, and its
            extrema and turns are those of one period, which begins at its first turn.
        trend: the mean slope of a function with a period.
        at_breaks: its values at the breaks, between those of both sides; by default the left piece's.
    """

    pieces: tuple[Piece, ...]
    breaks: tuple[float, ...] = ()
    domain: tuple[float, float] = (-math.inf, math.inf)
    poles: tuple[float, ...] = ()
    period: float = 0.0
    trend: float = 0.0
    at_breaks: tuple[float, ...] = ()

    def value(self, t: Tensor) -> Tensor:
        """The function."""
        result = self._select([piece.value for piece in self.pieces], t)
        for point, value in zip(self.breaks, self.at_breaks, strict=False):
            result = torch.where(t == point, value, result)
        return result

    def slope(self, t: Tensor) -> Tensor:
        """Its derivative; at a break the left one."""
        return self._select([piece.slope for piece in self.pieces], t)

    def _select(self, formulas: list[Elementwise], t: Tensor) -> Tensor:
        result = formulas[-1](self.clamp(-1, t))
        for i in range(len(formulas) - 2, -1, -1):
            result = torch.where(t <= self.breaks[i], formulas[i](self.clamp(i, t)), result)
        return result

    def of_piece(self, index: Tensor, t: Tensor) -> Tensor:
        """Value at t of the piece of that index."""
        result = self.pieces[0].value(self.clamp(0, t))
        for i, piece in enumerate(self.pieces[1:], 1):
            result = torch.where(index == i, piece.value(self.clamp(i, t)), result)
        return result

    def part(self, i: int) -> tuple[float, float]:
        """The interval of piece i."""
        return ((-math.inf, *self.breaks)[i], (*self.breaks, math.inf)[i])

    def clamp(self, i: int, t: Tensor) -> Tensor:
        """The point of the closed piece i nearest to t."""
        if not self.breaks:
            return t
        start, stop = self.part(i)
        return t.clamp(None if start == -math.inf else start, None if stop == math.inf else stop)

    @cached_property
    def negative(self) -> "Function":
        """The function times -1."""
        pieces = tuple(replace(p, value=_minus(p.value), slope=_minus(p.slope)) for p in self.pieces)
        return replace(self, pieces=pieces, trend=-self.trend, at_breaks=tuple(-v for v in self.at_breaks))

    @cached_property
    def concave(self) -> "tuple[Span, ...]":
        """Where the slope falls."""
        return tuple(span for span in self._spans() if span.curvature < 0)

    @cached_property
    def straight(self) -> tuple[tuple[float, float], ...]:
        """Where the slope is constant."""
        return tuple((span.start, span.stop) for span in self._spans() if span.curvature == 0)

    def _spans(self) -> "Iterator[Span]":
        for i, piece in enumerate(self.pieces):
            start, stop = (max(self.part(i)[0], self.domain[0]), min(self.part(i)[1], self.domain[1]))
            knots = [start, *piece.turns, stop]
            if self.period:
                knots = [*piece.turns, piece.turns[0] + self.period]
            for a, b in zip(knots, knots[1:], strict=False):
                yield Span(i, piece, a, b)

    @cached_property
    def peak(self) -> float:
        """Largest value of `f(t) - trend t`, for a function with a period."""
        start = torch.tensor([self.pieces[0].turns[0]], dtype=torch.float64)
        k = torch.full_like(start, self.trend)
        t, _, slack = _Above(self, start, start + self.period).highest(k, 2 * FINE)
        return (self.value(t) - k * t + slack).item()


def _minus(f: Elementwise) -> Elementwise:
    return lambda t: -f(t)


@dataclass(frozen=True)
class Span:
    """An interval on which a piece's slope rises, falls, or is constant."""

    index: int
    piece: Piece
    start: float
    stop: float

    @cached_property
    def curvature(self) -> float:
        """Sign of the change of the slope."""
        a, b = self.start, self.stop
        if a > -math.inf and b < math.inf:
            a, b = a + (b - a) / 4, b - (b - a) / 4
        else:
            a, b = (a + 0.5, a + 1) if a > -math.inf else (b - 1, b - 0.5) if b < math.inf else (-1.0, 1.0)
        left, right = self.piece.slope(torch.tensor([a, b], dtype=torch.float64)).tolist()
        return math.copysign(1.0, right - left) if right != left else 0.0

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Points of the span (N), dense near finite ends, and minus the slopes there, ascending (N - 2)."""
        near = torch.logspace(-6, 6, 481, dtype=torch.float64)
        a, b = self.start, self.stop
        if a > -math.inf and b < math.inf:
            near = near[near <= 1] / 2 * (b - a)
        left = a + near if a > -math.inf else (b if b < math.inf else 0.0) - near
        right = b - near if b < math.inf else (a if a > -math.inf else 0.0) + near
        points = torch.cat([left, right]).unique()
        slopes = self.piece.slope(points)
        points, slopes = points[slopes.isfinite()], slopes[slopes.isfinite()]
        return torch.cat([points.new_tensor([a]), points, points.new_tensor([b])]), (-slopes).cummax(0).values

    def bracket(self, k: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbouring points of the span between which its slope, that falls, becomes less than k."""
        points, keys = (x.to(k) for x in self._table)
        index = torch.searchsorted(keys, -k)
        a, b = points[index], points[index + 1]
        return (a, b) if shift is None else (a + shift, b + shift)


def range_of(f: Function, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of a function on an interval.

    `min, max of f(t) over t in {lo, hi, both sides of the breaks and the extrema between them}`: exact.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`.

    Returns:
        The minimum `(*S)` and the maximum `(*S)`; infinite where `f` is not defined on the whole interval.

    Source:
        A differentiable function takes its extremes at an end or where its slope changes sign.

    Example:
        >>> from lirpa_explain.relaxations.functions import tanh
        >>> low, high = range_of(tanh().derivative, torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.0]))
        >>> high.tolist()
        [1.0, 1.0]
    """
    defined = _defined(f, lo, hi)
    lo, hi = _inside(f, defined, lo, hi)
    lows, highs = [], []
    for i, piece in enumerate(f.pieces):
        a, b = f.clamp(i, lo), f.clamp(i, hi)
        at_a, at_b = piece.value(a), piece.value(b)
        low, high = torch.minimum(at_a, at_b), torch.maximum(at_a, at_b)
        for point, peak, margin in _extrema(f, piece, lo, hi):
            inside = (a < point + margin) & (point - margin < b)
            low = torch.where(inside, torch.minimum(low, peak), low)
            high = torch.where(inside, torch.maximum(high, peak), high)
        reached = _reached(f, i, lo, hi)
        lows.append(low if reached is None else torch.where(reached, low, math.inf))
        highs.append(high if reached is None else torch.where(reached, high, -math.inf))
    low, high = reduce(torch.minimum, lows), reduce(torch.maximum, highs)
    if f.period:
        wide, rises = _wide(f, lo, hi), (f.trend * lo, f.trend * hi)
        low = torch.where(wide, torch.minimum(*rises) - f.negative.peak, low)
        high = torch.where(wide, torch.maximum(*rises) + f.peak, high)
    if defined is None:
        return low, high
    return torch.where(defined, low, -math.inf), torch.where(defined, high, math.inf)


def lines(f: Function, lo: Tensor, hi: Tensor) -> tuple[Line, Line]:
    """Lines below and above a function on an interval.

    `kl t + bl <= f(t) <= ku t + bu` for every `t` in `[lo, hi]`, each with the least area between line and function,
    nearly. Where `lo == hi` and `f` is smooth both are the tangent at that point. Differentiable in `lo` and `hi`
    wherever the choice among the slopes tried does not change.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`, finite.

    Returns:
        The lower line `(kl, bl)` and the upper line `(ku, bu)`, all of shape `(*S)`; of slope 0 and infinite where
        `f` is not defined on the whole interval.

    Source:
        The least of all lines above `f` supports its concave envelope at the midpoint. It is found by exchanging
        one of two supporting points: Kelley, The cutting-plane method, 1960, in one dimension.

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

    The first are those of `lines`. The others are each lowest at another place of the interval (above): at `lo`, at a
    quarter, at three quarters, at `hi`; the last is the constant maximum. So mixtures of them come near every useful
    line, for any downstream coefficients.

    Args:
        f: the function.
        lo: lower ends `(*S)`.
        hi: upper ends `(*S)`, `lo <= hi`, finite.

    Returns:
        The lower lines and the upper lines: slopes and offsets of shape `(K, *S)`.

    Example:
        >>> from lirpa_explain.relaxations.functions import tanh
        >>> (kl, bl), (ku, bu) = line_family(tanh().function, torch.tensor(-1.0), torch.tensor(2.0))
        >>> bool((kl * 0.3 + bl <= math.tanh(0.3)).all() and (math.tanh(0.3) <= ku * 0.3 + bu).all())
        True
    """
    places = torch.tensor(PLACES, dtype=lo.dtype, device=lo.device).reshape(-1, *[1] * lo.ndim)
    shape = (len(PLACES), *lo.shape)
    below, above = _both(f, lo.expand(shape), hi.expand(shape), places)
    constant = torch.zeros_like(lo)[None]
    return tuple((torch.cat([k, constant]), torch.cat([b, end[None]]))  # type: ignore[return-value]
                 for (k, b), end in zip((below, above), range_of(f, lo, hi), strict=True))


def is_straight(f: Function, lo: Tensor, hi: Tensor) -> Tensor:
    """Where a function is a straight line on the interval: no smaller interval would give tighter lines.

    Example:
        >>> from lirpa_explain.relaxations.functions import hardtanh
        >>> is_straight(hardtanh(-1, 1).function, torch.tensor([-3.0, 0.0]), torch.tensor([-2.0, 2.0])).tolist()
        [True, False]
    """
    inside = [(lo > start + _margin(lo, hi)) & (hi < stop - _margin(lo, hi)) for start, stop in f.straight]
    return reduce(torch.logical_or, inside, lo >= hi)


# Where a function lives


def _margin(lo: Tensor, hi: Tensor) -> Tensor:
    """How far rounding may have moved an end: a sum of n products is off by some roundings, and functions jump."""
    return 16 * torch.finfo(lo.dtype).eps * torch.maximum(lo.abs(), hi.abs())


def _reached(f: Function, i: int, lo: Tensor, hi: Tensor) -> Tensor | None:
    """Where an interval reaches piece i; None if there is no other."""
    if not f.breaks:
        return None
    (start, stop), margin = f.part(i), _margin(lo, hi)
    return (lo <= stop + margin) & (hi >= start - margin)


def _defined(f: Function, lo: Tensor, hi: Tensor) -> Tensor | None:
    """Where the function is defined on the whole interval; None if everywhere."""
    if f.domain == (-math.inf, math.inf) and not f.poles:
        return None
    inside = (lo >= f.domain[0]) & (hi <= f.domain[1])
    return reduce(torch.logical_and, [(lo > pole) | (hi < pole) for pole in f.poles], inside)


def _inside(f: Function, usable: Tensor | None, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """The interval, or a point of the domain where it cannot be used."""
    if usable is None:
        return lo, hi
    point = next(p for p in (0.0, 1.0, f.domain[0] + 1, f.domain[1] - 1)
                 if f.domain[0] <= p <= f.domain[1] and p not in f.poles)
    return torch.where(usable, lo, point), torch.where(usable, hi, point)


def _wide(f: Function, lo: Tensor, hi: Tensor) -> Tensor:
    """Where an interval is longer than two periods, or rounding has lost its place within one."""
    return (hi - lo >= 2 * f.period) | (16 * _margin(lo, hi) > f.period)


def _shifts(f: Function, lo: Tensor) -> list[Tensor]:
    """Multiples of the period: with `start` the first turn, `start + shift` is lo or before, then once and twice on."""
    first = torch.floor((lo - f.pieces[0].turns[0]) / f.period)
    return [(first + copy) * f.period for copy in range(3)]


def _extrema(f: Function, piece: Piece, lo: Tensor, hi: Tensor) -> Iterator[tuple[Tensor | float, Tensor, Tensor]]:
    """Extrema of a piece, the values there, and how far rounding may have moved them."""
    zero = torch.zeros_like(lo)
    for point in piece.extrema:
        peak = piece.value(zero + point)
        if not f.period:
            yield point, peak, zero
            continue
        for shift in _shifts(f, lo.detach()):
            yield point + shift, peak + f.trend * shift, _margin(lo, hi)


# The construction


def _both(f: Function, lo: Tensor, hi: Tensor, place: Tensor | float) -> tuple[Line, Line]:
    """The lines below and above that are lowest (below: highest) at that place of the interval, from 0 to 1."""
    low, high = range_of(f, lo, hi)
    usable = low.isfinite() & high.isfinite()
    known = None if usable.all() else usable
    a, b = _inside(f, known, lo, hi)
    sides = []
    for g, end, sign in ((f.negative, -low, -1), (f, high, 1)):
        k, offset = _line_above(g, a, b, torch.where(usable, end, 0.0).detach(), place)
        if f.period:
            wide = _wide(f, a, b)
            k, offset = torch.where(wide, g.trend, k), torch.where(wide, g.peak, offset)
        if known is not None:
            k, offset = torch.where(usable, k, 0.0), torch.where(usable, offset, end)
        sides.append((sign * k, sign * offset))
    return sides[0], sides[1]


def _line_above(f: Function, lo: Tensor, hi: Tensor, high: Tensor, place: Tensor | float) -> Line:
    """The line above `f` on `[lo, hi]` that is lowest at one place of it; `high` is the maximum of `f` there."""
    x = torch.lerp(lo, hi, place)
    with torch.no_grad():
        above = _Above(f, lo.reshape(-1), hi.reshape(-1))
        kind, *ends = _supports(above, x.reshape(-1), high.expand(lo.shape).reshape(-1))
        ends = _polished(above, x.reshape(-1), kind, *ends)
        left, right = ([part.reshape(lo.shape) for part in end] for end in ends)
        kind = kind.reshape(lo.shape)
    # a touching point is a constant for autograd: rightly, the chord has no slope by it there
    ends = [(_moving(t, lo, hi), index) for t, _, index in (left, right)]
    chord = _slope_between(f, *((t, f.of_piece(index, t), index) for t, index in ends))
    k = torch.where(kind == CONSTANT, 0.0, torch.where(kind == TANGENT, _finite(f.slope(x)), chord))
    t, index, slack = (part.reshape(lo.shape) for part in above.touching(k.detach().reshape(-1)))
    # a maximiser at an end moves with it; one between counts in second order only: h' = 0 (envelope theorem)
    t = _moving(t, lo, hi)
    return k, f.of_piece(index, t) - k * t + slack


Point = tuple[Tensor, Tensor, Tensor]  # place, value, index of the piece
TANGENT, CHORD, CONSTANT = 0, 1, 2


def _supports(above: "_Above", x: Tensor, high: Tensor) -> tuple[Tensor, Point, Point]:
    """The kind of the line that is lowest at x, and the two points that it is the chord of.

    The height `H(k)` at x of the line of slope `k` is convex in `k`, and any point of the graph right (left) of x
    bounds it from below by a line in `k` that falls (rises). The next slope tried is where the best two of them meet:
    that of the chord between the two points. One of them is then exchanged for the highest point.
    """
    f, todo = above.f, torch.arange(len(x), device=x.device)
    left, right = above.end(above.lo), above.end(above.hi)
    best_left, best_right, at_x = left, right, f.value(x)
    best, kind = torch.full_like(x, math.inf), torch.zeros_like(todo)
    k, size = _finite(f.slope(x)), high - torch.minimum(left[1], right[1])
    gap = max(GAP, 1e3 * torch.finfo(x.dtype).eps)
    bulge = at_x - torch.lerp(left[1], right[1], (x - above.lo) / (above.hi - above.lo).clamp(min=1e-30))
    for step in range(EXCHANGES):
        t, index, slack = above.highest(k, ROUGH)
        value = f.of_piece(index, t)
        height = value + slack + k * (x - t)
        lower = height < best[todo]
        won = todo[lower]
        best[todo] = torch.minimum(height, best[todo])
        kind[won] = TANGENT if step == 0 else CHORD
        if step:
            best_left, best_right = (_put(best_end, won, [part[lower] for part in end])
                                     for best_end, end in ((best_left, left), (best_right, right)))
        before = t <= x
        left, right = _where(before, (t, value, index), left), _where(before, right, (t, value, index))
        k = _slope_between(f, left, right)
        least = torch.maximum(left[1] + k * (x - left[0]), right[1] + k * (x - right[0]))
        excess = best[todo] - at_x
        close = (best[todo] - least <= gap * excess + 1e-2 * gap * size) | (excess <= 1e-3 * bulge)
        open_ = (~close).nonzero()[:, 0]
        if len(open_) == 0:
            break
        if len(open_) < len(todo):
            above, todo = above.pick(open_), todo[open_]
            x, at_x, size, bulge, k = x[open_], at_x[open_], size[open_], bulge[open_], k[open_]
            left, right = ([part[open_] for part in end] for end in (left, right))  # type: ignore[assignment]
    kind[high < best] = CONSTANT
    return kind, best_left, best_right


def _polished(above: "_Above", x: Tensor, kind: Tensor, left: Point, right: Point) -> tuple[Point, Point]:
    """The supporting points of chords once more, to the last digit: autograd takes them as given."""
    index = (kind == CHORD).nonzero()[:, 0]
    if len(index) == 0:
        return left, right
    part = above.pick(index)
    a, b = [end[index] for end in left], [end[index] for end in right]
    t, piece, _ = part.highest(_slope_between(above.f, a, b), FINE)
    new = t, above.f.of_piece(piece, t), piece
    inside = (t > part.lo) & (t < part.hi)
    a, b = _where(inside & (t <= x[index]), new, a), _where(inside & (t > x[index]), new, b)
    return _put(left, index, a), _put(right, index, b)


def _put(point: Point, index: Tensor, new: list[Tensor]) -> Point:
    return tuple(old.index_put((index,), part) for old, part in zip(point, new, strict=True))  # type: ignore


def _where(mask: Tensor, one: Point, other: Point) -> Point:
    return tuple(torch.where(mask, a, b) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


def _moving(t: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return torch.where(t == lo, lo, torch.where(t == hi, hi, t))


def _finite(k: Tensor) -> Tensor:
    return torch.where(k.isfinite(), k, 0.0)


def _slope_between(f: Function, a: Point, b: Point) -> Tensor:
    """Slope of the chord; where rounding would spoil it the slope in the middle, equal to second order."""
    width = b[0] - a[0]
    narrow = width <= torch.finfo(width.dtype).eps ** (1 / 3) * (1 + a[0].abs())
    chord = (b[1] - a[1]) / torch.where(narrow, 1.0, width)
    if narrow.any():
        chord = torch.where(narrow, f.slope(torch.lerp(a[0], b[0], 0.5)), chord)
    return _finite(chord)


class _Above:
    """The problem `max over t in [lo, hi] of f(t) - k t` for any slopes k, on flat tensors `(N)`."""

    def __init__(self, f: Function, lo: Tensor, hi: Tensor) -> None:
        self.f, self.lo, self.hi = f, lo.detach(), hi.detach()
        self.first = _shifts(f, self.lo) if f.period else [torch.zeros_like(self.lo)]
        self.ends = []
        for i, piece in enumerate(f.pieces):
            reached = _reached(f, i, self.lo, self.hi)
            for t in (f.clamp(i, self.lo), f.clamp(i, self.hi)):
                value = piece.value(t)
                self.ends.append((t, value if reached is None else torch.where(reached, value, -math.inf)))

    def pick(self, index: Tensor) -> "_Above":
        """The same problem at some of the entries."""
        part = object.__new__(_Above)
        part.f, part.lo, part.hi = self.f, self.lo[index], self.hi[index]
        part.first = [shift[index] for shift in self.first]
        part.ends = [(t[index], value[index]) for t, value in self.ends]
        return part

    def end(self, t: Tensor) -> Point:
        """An end as a point."""
        index = sum((t > b for b in self.f.breaks), torch.zeros_like(t, dtype=torch.long))
        return t, self.f.value(t), index  # type: ignore[return-value]

    def highest(self, k: Tensor, steps: int) -> Point:
        """A point `t` of piece `index`, and a slack, with `h(x) = f(x) - k x <= h(t) + slack` on the interval.

        On a bracket `[a, b]` in a concave span `h(x) <= h(a) + max(h'(a), 0) (b - a)`, and likewise from `b`;
        `h` is lower left of `a` and right of `b`. So the bound is rigorous after any number of steps. A span without
        a stationary point is left out: `h` has its maximum over the span at an end that leads to a higher point.

        Returns:
            t, index, slack.
        """
        best_t, best = self.ends[0]
        best = best - k * (best_t - self.lo)  # not k * t: this rounds less
        best_index = torch.zeros_like(best, dtype=torch.long)
        for i, (t, value) in enumerate(self.ends[1:], 1):
            height = value - k * (t - self.lo)
            higher = height > best
            best_t, best = torch.where(higher, t, best_t), torch.maximum(height, best)
            if self.f.breaks:
                best_index = torch.where(higher, i // 2, best_index)
        best_slack = torch.zeros_like(best)
        for span in self.f.concave:
            for shift in self.first:
                index, t, value, slack = self._stationary(span, shift, k, steps)
                height = value - k[index] * (t - self.lo[index]) + slack
                higher = height > best[index]
                index = index[higher]
                best[index], best_t[index], best_slack[index] = height[higher], t[higher], slack[higher]
                best_index[index] = span.index
        return best_t, best_index, best_slack

    def touching(self, k: Tensor) -> Point:
        """As `highest`, to the last digit, and of points equally high the one that rounding makes the highest."""
        best_t, best_index, best_slack = self.highest(k, FINE)
        best = self.f.of_piece(best_index, best_t) - k * best_t + best_slack
        for i, (t, value) in enumerate(self.ends):
            offset = value - k * t
            higher = offset > best
            best, best_t = torch.maximum(best, offset), torch.where(higher, t, best_t)
            best_index, best_slack = torch.where(higher, i // 2, best_index), torch.where(higher, 0.0, best_slack)
        return best_t, best_index, best_slack

    def _stationary(self, span: Span, shift: Tensor, k: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Entries with a stationary point in a span: their index, and there a point, the value and the slack."""
        a, b = span.bracket(k, shift if self.f.period else None)
        start, stop = span.start + shift, span.stop + shift
        a, b = torch.maximum(torch.maximum(a, start), self.lo), torch.minimum(torch.minimum(b, stop), self.hi)
        index = (b > a).nonzero()[:, 0]
        a, b, k = a[index], b[index], k[index]
        value, slope = span.piece.value, span.piece.slope
        a, b = _narrow(lambda t: slope(t) - k, a, b, steps)
        width = b - a
        slack_a, slack_b = (slope(a) - k).relu() * width, (k - slope(b)).relu() * width
        at_a, at_b = value(a), value(b)
        from_a = ~(at_a + k * width + slack_a > at_b + slack_b)
        from_a = from_a & slack_a.isfinite()
        return index, *(torch.where(from_a, x, y) for x, y in ((a, b), (at_a, at_b), (slack_a, slack_b)))


def _narrow(g: Elementwise, a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Narrow the bracket of where g, falling, becomes negative: regula falsi in Illinois' variant.

    Source: Dowell and Jarratt, A modified regula falsi method for computing the root of an equation, 1971.
    """
    at_a, at_b = g(a), g(b)
    last = torch.zeros_like(a)
    for _ in range(steps):
        share = at_a / (at_a - at_b)
        share = torch.where((share > 0) & (share < 1), share, 0.5)  # also where both are infinite, or 0
        t = torch.lerp(a, b, share)
        at_t = g(t)
        right = at_t > 0
        side = right.to(a.dtype) * 2 - 1
        again = torch.where(side == last, 0.5, 1.0)
        a, at_a, at_b = torch.where(right, t, a), torch.where(right, at_t, at_a * again), \
            torch.where(right, at_b * again, at_t)
        b, last = torch.where(right, b, t), side
    return a, b


Smooth = Function
