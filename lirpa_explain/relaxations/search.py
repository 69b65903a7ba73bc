"""The search for the line above a function that is lowest at one place of an interval, and for its
exact offset.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ..rounding import narrow as narrow_width
from ..rounding import roundings
from .declaration import Elementwise, Function, Span
from .piecewise import Line

EXCHANGES = 5  # at most so many exchanges of a supporting point in the search for the best slope
GAP = 1e-6  # of the best height, at which the search ends
# steps to a stationary point; what they leave open is added to the offset: tightness only
ROUGH, FINE = 3, 6


def line_above(f: Function, lo: Tensor, hi: Tensor, high: Tensor, place: Tensor | float) -> Line:
    """The line above `f` on `[lo, hi]` that is lowest at one place of it; `high` is the maximum of
    `f` there.
    """
    x = torch.lerp(lo, hi, place)
    with torch.no_grad():
        above = Above(f, lo.reshape(-1), hi.reshape(-1))
        kind, left, right = _supports(above, x.reshape(-1), high.expand(lo.shape).reshape(-1))
        left, right = _polished(above, x.reshape(-1), kind, left, right)
        kind = kind.reshape(lo.shape)

    def seen(end: Point) -> Point:
        """For autograd a touching point is a constant: rightly, the chord has no slope by it
        there.
        """
        t, index = _moving(end[0].reshape(lo.shape), lo, hi), end[2].reshape(lo.shape)
        return t, f.of_piece(index, t), index

    chord = _slope_between(f, seen(left), seen(right))
    k = torch.where(kind == CONSTANT, 0.0, torch.where(kind == TANGENT, _finite(f.slope(x)), chord))
    t, index, slack = (part.reshape(lo.shape) for part in above.touching(k.detach().reshape(-1)))
    # a maximiser at an end moves with it; one between counts in second order only: h' = 0 (envelope
    # theorem)
    t = _moving(t, lo, hi)
    return k, f.of_piece(index, t) - k * t + slack


Point = tuple[Tensor, Tensor, Tensor]  # place, value, index of the piece
TANGENT, CHORD, CONSTANT = 0, 1, 2


def _supports(above: "Above", x: Tensor, high: Tensor) -> tuple[Tensor, Point, Point]:
    """The kind of the line that is lowest at x, and the two points that it is the chord of.

    The height `H(k)` at x of the line of slope `k` is convex in `k`, and any point of the graph
    right (left) of x bounds it from below by a line in `k` that falls (rises). The next slope tried
    is where the best two of them meet: that of the chord between the two points. One of them is
    then exchanged for the highest point.
    """
    f, todo = above.f, torch.arange(len(x), device=x.device)
    left, right = above.end(above.lo), above.end(above.hi)
    best_left, best_right, at_x = left, right, f.value(x)
    best, kind = torch.full_like(x, math.inf), torch.zeros_like(todo)
    k, size = _finite(f.slope(x)), high - torch.minimum(left[1], right[1])
    gap = max(GAP, roundings(1e3, x.dtype))
    bulge = at_x - torch.lerp(left[1], right[1],
                              (x - above.lo) / (above.hi - above.lo).clamp(min=1e-30))
    for step in range(EXCHANGES):
        t, index, slack = above.highest(k, ROUGH)
        value = f.of_piece(index, t)
        height = value + slack + k * (x - t)
        lower = height < best[todo]
        won = todo[lower]
        best[todo] = torch.minimum(height, best[todo])
        kind[won] = TANGENT if step == 0 else CHORD
        if step:
            best_left, best_right = (_put(best_end, won, _pick(end, lower))
                                     for best_end, end in ((best_left, left), (best_right, right)))
        before = t <= x
        left, right = (_where(before, (t, value, index), left),
                       _where(before, right, (t, value, index)))
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
            left, right = _pick(left, open_), _pick(right, open_)
    kind[high < best] = CONSTANT
    return kind, best_left, best_right


def _polished(above: "Above", x: Tensor, kind: Tensor, left: Point,
              right: Point) -> tuple[Point, Point]:
    """The supporting points of chords once more, to the last digit: autograd takes them as
    given.
    """
    index = (kind == CHORD).nonzero()[:, 0]
    if len(index) == 0:
        return left, right
    part = above.pick(index)
    a, b = _pick(left, index), _pick(right, index)
    t, piece, _ = part.highest(_slope_between(above.f, a, b), FINE)
    new = t, above.f.of_piece(piece, t), piece
    inside = (t > part.lo) & (t < part.hi)
    a, b = _where(inside & (t <= x[index]), new, a), _where(inside & (t > x[index]), new, b)
    return _put(left, index, a), _put(right, index, b)


def _pick(point: Point, index: Tensor) -> Point:
    return point[0][index], point[1][index], point[2][index]


def _put(point: Point, index: Tensor, new: Point) -> Point:
    return (point[0].index_put((index,), new[0]), point[1].index_put((index,), new[1]),
            point[2].index_put((index,), new[2]))


def _where(mask: Tensor, one: Point, other: Point) -> Point:
    parts = (torch.where(mask, a, b) for a, b in zip(one, other, strict=True))
    return tuple(parts)  # type: ignore[return-value]


def _moving(t: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return torch.where(t == lo, lo, torch.where(t == hi, hi, t))


def _finite(k: Tensor) -> Tensor:
    return torch.where(k.isfinite(), k, 0.0)


def _slope_between(f: Function, a: Point, b: Point) -> Tensor:
    """Slope of the chord; where rounding would spoil it the slope in the middle, equal to second
    order.
    """
    width = b[0] - a[0]
    narrow = width <= narrow_width(width.dtype, 1 / 3) * (1 + a[0].abs())
    chord = (b[1] - a[1]) / torch.where(narrow, 1.0, width)
    if narrow.any():
        chord = torch.where(narrow, f.slope(torch.lerp(a[0], b[0], 0.5)), chord)
    return _finite(chord)


class Above:
    """The problem `max over t in [lo, hi] of f(t) - k t` for any slopes k, on flat tensors
    `(N)`.
    """

    def __init__(self, f: Function, lo: Tensor, hi: Tensor) -> None:
        self.f, self.lo, self.hi = f, lo.detach(), hi.detach()
        self.first = f.shifts(self.lo) if f.period else [torch.zeros_like(self.lo)]
        self.ends = []
        for i, piece in enumerate(f.pieces):
            reached = f.reached(i, self.lo, self.hi)
            for t in (f.clamp(i, self.lo), f.clamp(i, self.hi)):
                value = piece.value(t)
                self.ends.append((t, value
                                  if reached is None else torch.where(reached, value, -math.inf)))

    def pick(self, index: Tensor) -> "Above":
        """The same problem at some of the entries."""
        part = object.__new__(Above)
        part.f, part.lo, part.hi = self.f, self.lo[index], self.hi[index]
        part.first = [shift[index] for shift in self.first]
        part.ends = [(t[index], value[index]) for t, value in self.ends]
        return part

    def end(self, t: Tensor) -> Point:
        """An end as a point."""
        index = sum(((t > b).long() for b in self.f.breaks), torch.zeros_like(t, dtype=torch.long))
        return t, self.f.value(t), index

    def highest(self, k: Tensor, steps: int) -> Point:
        """A point `t` of piece `index`, and a slack, with `h(x) = f(x) - k x <= h(t) + slack` on
        the interval.

        On a bracket `[a, b]` in a concave span `h(x) <= h(a) + max(h'(a), 0) (b - a)`, and likewise
        from `b`; `h` is lower left of `a` and right of `b`. So the bound is rigorous after any
        number of steps. A span without a stationary point is left out: `h` has its maximum over the
        span at an end that leads to a higher point.

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
                best[index], best_t[index], best_slack[index] = (
                    height[higher], t[higher], slack[higher])
                best_index[index] = span.index
        return best_t, best_index, best_slack

    def touching(self, k: Tensor) -> Point:
        """As `highest`, to the last digit, and of points equally high the one that rounding makes
        the highest.
        """
        best_t, best_index, best_slack = self.highest(k, FINE)
        best = self.f.of_piece(best_index, best_t) - k * best_t + best_slack
        for i, (t, value) in enumerate(self.ends):
            offset = value - k * t
            higher = offset > best
            best, best_t = torch.maximum(best, offset), torch.where(higher, t, best_t)
            best_index, best_slack = (torch.where(higher, i // 2, best_index),
                                      torch.where(higher, 0.0, best_slack))
        return best_t, best_index, best_slack

    def _stationary(self, span: Span, shift: Tensor, k: Tensor,
                    steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Entries with a stationary point in a span: their index, and there a point, the value and
        the slack.
        """
        a, b = span.bracket(k, shift if self.f.period else None)
        start, stop = span.start + shift, span.stop + shift
        a, b = (torch.maximum(torch.maximum(a, start), self.lo),
                torch.minimum(torch.minimum(b, stop), self.hi))
        index = (b > a).nonzero()[:, 0]
        a, b, k = a[index], b[index], k[index]
        value, slope = span.piece.value, span.piece.slope
        a, b = _narrow(lambda t: slope(t) - k, a, b, steps)
        width = b - a
        slack_a, slack_b = (slope(a) - k).relu() * width, (k - slope(b)).relu() * width
        at_a, at_b = value(a), value(b)
        from_a = ~(at_a + k * width + slack_a > at_b + slack_b)
        from_a = from_a & slack_a.isfinite()
        return (index, torch.where(from_a, a, b), torch.where(from_a, at_a, at_b),
                torch.where(from_a, slack_a, slack_b))


def _narrow(g: Elementwise, a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Narrow the bracket of where g, falling, becomes negative: regula falsi in Illinois' variant.

    Source: Dowell and Jarratt, A modified regula falsi method for computing the root of an
        equation, 1971.
    """
    at_a, at_b = g(a), g(b)
    last = torch.zeros_like(a)
    for _ in range(steps):
        share = at_a / (at_a - at_b)
        # also where both are infinite, or 0
        share = torch.where((share > 0) & (share < 1), share, 0.5)
        t = torch.lerp(a, b, share)
        at_t = g(t)
        right = at_t > 0
        side = right.to(a.dtype) * 2 - 1
        again = torch.where(side == last, 0.5, 1.0)
        a, at_a, at_b = torch.where(right, t, a), torch.where(right, at_t, at_a * again), \
            torch.where(right, at_b * again, at_t)
        b, last = torch.where(right, b, t), side
    return a, b


@lru_cache(maxsize=256)
def peak(f: Function) -> float:
    """Largest value of `f(t) - trend t`, for a function with a period."""
    start = torch.tensor([f.pieces[0].turns[0]], dtype=torch.float64)
    k = torch.full_like(start, f.trend)
    t, _, slack = Above(f, start, start + f.period).highest(k, 2 * FINE)
    return (f.value(t) - k * t + slack).item()
