"""Rules of comparisons of a value with a number, or with another value, and of what logic makes of
them.

Two values are compared by the sign of their difference, which rounds to 0 only where they are
equal.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOperation
from ..builder import Builder, Comparison, Live, Rows, Ties
from .arithmetic import add, multiply, subtract
from .shapes import sum_over
from .table import rule

aten = torch.ops.aten

HALF = 0.5
"""What tells 0 from 1."""


def _compare(low: bool, high: bool, closed: bool, inside: bool = True) -> Any:
    def lowered(b: Builder, z: Any, other: Any) -> Comparison:
        number = (None if isinstance(other, Rows | Live) or not isinstance(z, Rows)
                  else torch.as_tensor(other))
        if number is not None and number.numel() == 1:
            value = float(other)
            return _with_number(b, z, value if low else None, value if high else None, closed,
                                inside)
        if isinstance(z, Rows) and isinstance(other, Rows) and z == other:
            return Comparison(z, None, None, True, closed and inside)
        t = _difference(b, z, other)
        result = Comparison(t, 0.0 if low else None, 0.0 if high else None, closed, inside)
        return _tied(b, result, z, other) if low and high and inside else result

    return lowered


for targets, comparison in {
    (aten.ge.Scalar, aten.ge.Tensor): _compare(True, False, closed=True),
    (aten.gt.Scalar, aten.gt.Tensor): _compare(True, False, closed=False),
    (aten.le.Scalar, aten.le.Tensor): _compare(False, True, closed=True),
    (aten.lt.Scalar, aten.lt.Tensor): _compare(False, True, closed=False),
    (aten.eq.Scalar, aten.eq.Tensor): _compare(True, True, closed=True),
    (aten.ne.Scalar, aten.ne.Tensor): _compare(True, True, closed=True, inside=False),
}.items():
    rule(*targets)(comparison)


def _with_number(b: Builder, z: Rows, low: float | None, high: float | None, closed: bool,
                 inside: bool) -> Comparison:
    """With a number; an infinite one is the first beyond the largest."""
    number = high if low is None else low
    if number is None or not math.isinf(number):
        return Comparison(z, low, high, closed, inside)
    largest = math.copysign(torch.finfo(b.dtype).max, number)
    ends = (None, largest) if number > 0 else (largest, None)
    beyond = Comparison(z, ends[0], ends[1], True, False)
    if low == high:
        return replace(beyond, inside=not inside)
    towards = (low is None) == (number > 0)  # x < inf, x > -inf, and with equality
    if closed == towards:
        return Comparison(z, None, None, True, towards)
    return replace(beyond, inside=towards)


def _difference(b: Builder, x: Any, y: Any) -> Rows:
    """X - y, with a note of what it is the difference of."""
    t = subtract(b, x, y)
    b.notes["difference", t.name] = x, y
    return t


def difference_of(b: Builder, t: Rows) -> tuple[Any, Any] | None:
    """What a value that was compared with 0 is the difference of; None if it is a value itself."""
    return b.notes.get(("difference", t.name))


def _tied(b: Builder, result: Comparison, x: Any, y: Any) -> Comparison:
    """Entries compared with the largest of them are its ties."""
    for source, ranked in ((x, y), (y, x)):
        note = b.notes.get(("ranked", b.unreshaped(ranked))) if isinstance(ranked, Rows) else None
        if note is not None and note[0].x == source and ranked.ndim == source.ndim:
            return Ties(result.of, 0.0, 0.0, True, True, source, note[0].dims, b.unreshaped(ranked))
    return result


@rule(aten.isnan.default)
def _isnan(b: Builder, x: Rows) -> Comparison:
    """Bounds are of numbers."""
    return Comparison(x, None, None, True, False)


@rule(aten.isinf.default)
def _isinf(b: Builder, x: Rows) -> Comparison:
    largest = torch.finfo(b.dtype).max
    return Comparison(x, -largest, largest, True, False)


# Logic


def negation(x: Comparison) -> Comparison:
    """Where a comparison does not hold."""
    if (x.low is None) == (x.high is None):
        return Comparison(x.of, x.low, x.high, x.closed, not x.inside)
    side = Comparison(x.of, x.high, x.low, not x.closed, True)
    return side if x.inside else Comparison(x.of, x.low, x.high, x.closed, True)


def holds(b: Builder, x: Any) -> Any:
    """What is true or false as a comparison: one itself, or a value that is not 0."""
    if isinstance(x, Rows):
        return Comparison(x, 0.0, 0.0, True, False)
    if not isinstance(x, Comparison) and not isinstance(x, Tensor):
        raise UnsupportedOperation("logic of parameters")
    return x


def as_number(b: Builder, x: Any) -> Any:
    """1 where it is true, 0 elsewhere."""
    if not isinstance(x, Comparison):
        return x if isinstance(x, Rows) else x.to(b.dtype)
    if (x.low, x.high, x.closed,
        x.inside) == (HALF, None, True, True) and ("truth", x.of.name) in b.notes:
        return x.of
    return b.emit("window", x.of, low=x.low, high=x.high, closed=x.closed, inside=x.inside)


def _truth(b: Builder, number: Rows) -> Comparison:
    """A value that is 0 or 1 as a comparison."""
    b.notes["truth", number.name] = None
    return Comparison(number, HALF, None, True)


@rule(aten.logical_not.default, aten.logical_not_.default, aten.bitwise_not.default)
def _not(b: Builder, x: Any) -> Comparison:
    return negation(holds(b, x))


@rule(aten.logical_and.default, aten.logical_and_.default, aten.bitwise_and.Tensor,
      aten.bitwise_and_.Tensor)
def _and(b: Builder, x: Any, y: Any) -> Comparison:
    x, y = holds(b, x), holds(b, y)
    both = _between(x, y)
    return both if both is not None else _truth(b, multiply(b, as_number(b, x), as_number(b, y)))


@rule(aten.logical_or.default, aten.logical_or_.default, aten.bitwise_or.Tensor,
      aten.bitwise_or_.Tensor)
def _or(b: Builder, x: Any, y: Any) -> Comparison:
    x, y = holds(b, x), holds(b, y)
    for first, second in ((x, y), (y, x)):
        if isinstance(first, Comparison) and first.low is first.high is None and not first.inside:
            return second  # ties stay ties
    x, y = (~v if isinstance(v, Tensor) else negation(v) for v in (x, y))
    return negation(_and(b, x, y))


@rule(aten.logical_xor.default, aten.logical_xor_.default, aten.bitwise_xor.Tensor,
      aten.bitwise_xor_.Tensor)
def _xor(b: Builder, x: Any, y: Any) -> Comparison:
    x, y = (as_number(b, holds(b, v)) for v in (x, y))
    return _truth(b, subtract(b, add(b, x, y), multiply(b, x, y), alpha=2))


@rule(aten.any.dim, aten.any.dims)
def _any(b: Builder, x: Any, dims: Any, keepdim: bool = False) -> Comparison:
    dims = [dims] if isinstance(dims, int) else dims
    return Comparison(sum_over(b, as_number(b, holds(b, x)), dims, keepdim), HALF, None, True)


@rule(aten.all.dim, aten.all.dims)
def _all(b: Builder, x: Any, dims: Any, keepdim: bool = False) -> Comparison:
    return negation(_any(b, negation(holds(b, x)), dims, keepdim))


def _between(x: Any, y: Any) -> Comparison | None:
    """Both of two comparisons of the same value as one; None if that has another form."""
    for first, second in ((x, y), (y, x)):
        # always, or never
        if isinstance(first, Comparison) and first.low is None and first.high is None:
            return (second if first.inside and isinstance(second, Comparison) else None
                    if first.inside else first)
    halves = [m for m in (x, y) if isinstance(m, Comparison) and m.inside]
    lows = [m.low for m in halves if m.low is not None]
    highs = [m.high for m in halves if m.high is not None]
    if (len(halves) != 2 or x.of != y.of or x.closed != y.closed or len(lows) != 1
            or len(highs) != 1 or lows[0] > highs[0]):
        return None
    return Comparison(x.of, lows[0], highs[0], x.closed)
