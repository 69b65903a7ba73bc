"""Functions of one variable as data: formulas with their derivatives, and the points where they
change.

`Function` is what `univariate` bounds. `declare` makes a function and its derivative from formulas.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..rounding import at_a_jump

Elementwise = Callable[[Tensor], Tensor]
TINY = 1e-8
"""A jump that is not there mathematically: torch's softplus has one of 2e-9 where it goes on as a
line."""


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

    Between consecutive breaks it follows one piece. At a break it may have a kink or jump; bounds
    then hold for the values of both sides.

    Args:
        pieces: the formulas, one more than there are breaks.
        breaks: where one formula ends and the next begins, ascending.
        domain: ends of the interval on which the function is defined, both included.
        poles: points at which it is not defined. Bounds on intervals that leave the domain, or
            contain a pole, are infinite.
        period: `f(t + period) = f(t) + trend * period`; 0 if there is none. Otherwise there is one
            piece, and its extrema and turns are those of one period, which begins at its first
            turn.
        trend: the mean slope of a function with a period.
        at_breaks: its values at the breaks, between those of both sides; by default the left
            piece's.
        ends: between which it is used: where the first piece begins and the last one ends.
    """

    pieces: tuple[Piece, ...]
    breaks: tuple[float, ...] = ()
    domain: tuple[float, float] = (-math.inf, math.inf)
    poles: tuple[float, ...] = ()
    period: float = 0.0
    trend: float = 0.0
    at_breaks: tuple[float, ...] = ()
    ends: tuple[float, float] = (-math.inf, math.inf)

    @property
    def is_total(self) -> bool:
        """Whether it is defined everywhere."""
        return self.domain == (-math.inf, math.inf) and not self.poles

    def value(self, t: Tensor) -> Tensor:
        """The function."""
        result = self.select(self.of_pieces([piece.value for piece in self.pieces], t), t)
        for point, value in zip(self.breaks, self.at_breaks, strict=False):
            result = torch.where(t == point, value, result)
        return result

    def slope(self, t: Tensor) -> Tensor:
        """Its derivative; at a break the left one."""
        return self.select(self.of_pieces([piece.slope for piece in self.pieces], t), t)

    def of_pieces(self, formulas: list[Elementwise], t: Tensor) -> list[Tensor]:
        """What a formula for each piece is at the point of that piece nearest to t."""
        return [formula(self.clamp(i, t)) for i, formula in enumerate(formulas)]

    def select(self, values: list[Tensor], t: Tensor, left: bool = True) -> Tensor:
        """Of values for each piece those of the piece in which t lies; at a break the left one, or
        the right one.
        """
        result = values[-1]
        for stop, value in zip(reversed(self.breaks), reversed(values[:-1]), strict=True):
            result = torch.where(t <= stop if left else t < stop, value, result)
        return result

    def of_piece(self, index: Tensor, t: Tensor) -> Tensor:
        """Value at t of the piece of that index."""
        result = self.pieces[0].value(self.clamp(0, t))
        for i, piece in enumerate(self.pieces[1:], 1):
            result = torch.where(index == i, piece.value(self.clamp(i, t)), result)
        return result

    def part(self, i: int) -> tuple[float, float]:
        """The interval of piece i."""
        return ((self.ends[0], *self.breaks)[i], (*self.breaks, self.ends[1])[i])

    def clamp(self, i: int, t: Tensor) -> Tensor:
        """The point of the closed piece i nearest to t."""
        if not self.breaks:
            return t
        start, stop = self.part(i)
        return t.clamp(None if start == -math.inf else start, None if stop == math.inf else stop)

    def reached(self, i: int, lo: Tensor, hi: Tensor) -> Tensor | None:
        """Where an interval reaches piece i; None if there is no other."""
        if not self.breaks:
            return None
        (start, stop), by = self.part(i), at_a_jump(lo, hi)
        return (lo <= stop + by) & (hi >= start - by)

    def within(self, lo: Tensor, hi: Tensor) -> "Function":
        """The pieces that some of these intervals reach."""
        if not self.breaks or not lo.numel():
            return self
        by = at_a_jump(lo, hi).max()
        least, largest = (lo.min() - by).item(), (hi.max() + by).item()
        first, last = bisect_left(self.breaks, least), bisect_right(self.breaks, largest)
        return self if last - first == len(self.breaks) else _some_pieces(self, first, last)

    def shifts(self, lo: Tensor) -> list[Tensor]:
        """Multiples of the period: with `start` the first turn, `start + shift` is lo or before,
        then 1 and 2 on.
        """
        first = torch.floor((lo - self.pieces[0].turns[0]) / self.period)
        return [(first + copy) * self.period for copy in range(3)]

    @cached_property
    def negative(self) -> "Function":
        """The function times -1."""
        pieces = tuple(replace(p, value=_minus(p.value), slope=_minus(p.slope))
                       for p in self.pieces)
        return replace(self, pieces=pieces, trend=-self.trend,
                       at_breaks=tuple(-v for v in self.at_breaks))

    @cached_property
    def jumps(self) -> tuple[tuple[float, float], ...]:
        """The values of the pieces on both sides of each break."""
        points = [torch.tensor(point, dtype=torch.float64) for point in self.breaks]
        return tuple((left.value(t).item(), right.value(t).item())
                     for t, left, right in zip(points, self.pieces, self.pieces[1:], strict=False))

    @cached_property
    def monotone(self) -> int:
        """1 if it never falls, -1 if it never rises, but for a tiny jump at an only break; 0
        otherwise or unknown.
        """
        if not self.is_total or self.period or any(piece.extrema for piece in self.pieces):
            return 0
        signs = set().union(*(span.directions for span in self._spans()))
        tiny = TINY if len(self.breaks) == 1 else 0.0
        signs |= {1 if right > left else -1
                  for left, right in self.jumps if abs(right - left) > tiny}
        return 0 if {1, -1} <= signs else min(signs) or max(signs) or 1

    @cached_property
    def concave(self) -> "tuple[Span, ...]":
        """Where the slope falls."""
        return tuple(span for span in self._spans() if span.curvature < 0)

    @cached_property
    def straight(self) -> tuple[tuple[float, float], ...]:
        """Where the slope is constant."""
        return tuple((span.start, span.stop) for span in self._spans() if span.curvature == 0)

    @cached_property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        """Of the extrema of each piece 1 for a maximum, -1 for a minimum, 0 where that is not
        known.
        """
        found = []
        for i, piece in enumerate(self.pieces):
            start, stop = self._ends(i)
            knots = [start, *piece.extrema, stop]
            signs = [Span(i, piece, a, b).directions if a < b else {0}
                     for a, b in zip(knots, knots[1:], strict=False)]
            found.append(tuple((left == {1} and right == {-1}) - (left == {-1} and right == {1})
                               for left, right in zip(signs, signs[1:], strict=False)))
        return tuple(found)

    def _ends(self, i: int) -> tuple[float, float]:
        """Of piece i, within the domain."""
        return max(self.part(i)[0], self.domain[0]), min(self.part(i)[1], self.domain[1])

    def _spans(self) -> "Iterator[Span]":
        for i, piece in enumerate(self.pieces):
            start, stop = self._ends(i)
            knots = [start, *piece.turns, stop]
            if self.period:
                knots = [*piece.turns, piece.turns[0] + self.period]
            for a, b in zip(knots, knots[1:], strict=False):
                yield Span(i, piece, a, b)


@lru_cache(maxsize=256)
def _some_pieces(f: Function, first: int, last: int) -> Function:
    return replace(f, pieces=f.pieces[first:last + 1], breaks=f.breaks[first:last],
                   at_breaks=f.at_breaks[first:last], ends=(f.part(first)[0], f.part(last)[1]))


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
    def _grid(self) -> tuple[Tensor, Tensor]:
        """Points of the span, dense near finite ends, and these, ascending, and the slopes there,
        all finite (N).
        """
        near = torch.logspace(-6, 6, 481, dtype=torch.float64)
        a, b = self.start, self.stop
        if a > -math.inf and b < math.inf:
            near = near[near <= 1] / 2 * (b - a)
        left = a + near if a > -math.inf else (b if b < math.inf else 0.0) - near
        right = b - near if b < math.inf else (a if a > -math.inf else 0.0) + near
        ends = near.new_tensor([end for end in (a, b) if math.isfinite(end)])
        points = torch.cat([left, right, ends]).unique()
        slopes = self.piece.slope(points)
        return points[slopes.isfinite()], slopes[slopes.isfinite()]

    @cached_property
    def directions(self) -> set[int]:
        """The signs of its slopes but for roundings, which are next to an extremum; 0 if there are
        no others.
        """
        slopes = self._grid[1]
        rounding = 1e-9 * slopes.abs().max()
        return {sign for sign in (1, -1) if bool((sign * slopes > rounding).any())} or {0}

    @cached_property
    def curvature(self) -> float:
        """Sign of the change of the slope, from end to end: a steep function may be flat on most of
        the span.
        """
        slopes = self._grid[1]
        change = (slopes[-1] - slopes[0]).item()
        return math.copysign(1.0, change) if change else 0.0

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Points of the span from end to end (N + 2), and minus the slopes at the inner ones,
        ascending (N).
        """
        points, slopes = self._grid
        inner = (points > self.start) & (points < self.stop)
        return (torch.cat([points.new_tensor([self.start]), points[inner],
                           points.new_tensor([self.stop])]), (-slopes[inner]).cummax(0).values)

    def bracket(self, k: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbouring points of the span between which its slope, that falls, becomes less than
        k.
        """
        points, keys = (x.to(k) for x in self._table)
        index = torch.searchsorted(keys, -k)
        a, b = points[index], points[index + 1]
        return (a, b) if shift is None else (a + shift, b + shift)


Zeros = tuple[float, ...]


@dataclass(frozen=True)
class Formula:
    """A formula with its derivatives.

    Args:
        value: the formula, finite wherever it is used, also under autograd.
        first: its derivative, likewise.
        second: the derivative of that, likewise.
        zeros: where the first, second and third derivative change sign, ascending. Points where
            they do not do no harm; one left out makes bounds wrong.
    """

    value: Elementwise
    first: Elementwise
    second: Elementwise
    zeros: tuple[Zeros, Zeros, Zeros] = ((), (), ())


@dataclass(frozen=True)
class Differentiable:
    """A function of one variable and its derivative."""

    function: Function
    derivative: Function


def declare(*formulas: Formula, breaks: tuple[float, ...] = (),
            domain: tuple[float, float] = (-math.inf, math.inf),
            poles: tuple[float, ...] = (), period: float = 0.0, trend: float = 0.0,
            values: tuple[float, ...] = (), slopes: tuple[float, ...] = ()) -> Differentiable:
    """A function and its derivative from formulas.

    Args:
        formulas: one more than there are breaks.
        breaks: where one formula ends and the next begins: kinks and jumps are allowed there.
        domain: see `univariate.Function`; so the following.
        poles: where it is not defined.
        period: after how much it repeats, but for the trend; its zeros are then those of one
            period.
        trend: the mean slope of a function with a period.
        values: what the function is at the breaks, between the values of both sides; by default
            that of the left one.
        slopes: what the derivative is there, likewise.

    Returns:
        Both, as data.

    Example:
        >>> absolute = declare(line(-1, 0), line(1, 0), breaks=(0,))
        >>> absolute.function.value(torch.tensor([-2.0, 3.0])).tolist()
        [2.0, 3.0]
    """
    def extrema(zeros: Zeros, turns: Zeros) -> Zeros:
        """Within the period that begins at the first turn."""
        return tuple(sorted(turns[0] + (t - turns[0]) % period for t in zeros)) if period else zeros

    value = tuple(Piece(f.value, f.first, extrema(*f.zeros[:2]), f.zeros[1]) for f in formulas)
    slope = tuple(Piece(f.first, f.second, extrema(*f.zeros[1:]), f.zeros[2]) for f in formulas)
    return Differentiable(Function(value, breaks, domain, poles, period, trend, values),
                          Function(slope, breaks, domain, poles, period, 0.0, slopes))


def line(slope: float, offset: float) -> Formula:
    """The formula of a straight line."""
    return Formula(lambda t: slope * t + offset, lambda t: torch.full_like(t, slope),
                   torch.zeros_like)
