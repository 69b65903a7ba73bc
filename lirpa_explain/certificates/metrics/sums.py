"""Metrics that follow from sums of convex functions of the entries, bounded as functions of the
model.

Over a box a convex function lies below its chord, and above every line that touches it. So

    sum_i  g_i a_i + w_i phi(a_i - c_i)

lies between linear functions of a, whose coefficients the box gives. Propagation bounds each of
these as a whole: what entries have in common counts then, which the box forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lirpa_explain.boxes import Box

from ...rounding import OWN, least, rounded

Bounder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps linear functions (N, K, D) of attributions to bounds of them, each (N, K)."""

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares at which those of a region are compared: from that at the nominal to that of the box."""

FINE = 2.0**12
"""Such a share is a multiple of 1 / FINE, so that 1 less it does not round."""

NEAR = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0, 1.01, 1.02, 1.05, 1.1, 1.3)
"""Multipliers of the squared length, relative to that at which the middle of the box does not
matter: there the bound bends most."""


class Convex(NamedTuple):
    """A convex function of one variable t."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    """One of those that it has at t."""
    conjugate: Callable[[Tensor], Tensor]
    """For a slope s that it has anywhere: max over t of s t - phi(t)."""


CONVEX: dict[str, Convex] = {
    "zero": Convex(torch.zeros_like, torch.zeros_like, torch.zeros_like),
    "absolute": Convex(torch.abs, torch.sign, torch.zeros_like),
    "positive": Convex(lambda t: t.clamp(min=0), lambda t: (t > 0).to(t), torch.zeros_like),
    "square": Convex(torch.square, lambda t: 2 * t, lambda s: s.square() / 4),
}


class Line(NamedTuple):
    """Linear functions of a, all of which lie on one side of a sum: functions (N, K, D), and (N, K)
    constants that are added to them, with the sizes of what they are sums of.
    """

    functions: Tensor
    constants: Tensor
    sizes: Tensor


class Whole(Protocol):
    """What a metric is, so that linear functions of the attribution bound it."""

    def bound(self, bounder: Bounder, box: Box, value: Tensor, above: bool) -> Tensor:
        """A bound of the metric from above, or from below, (N,).

        Args:
            bounder: of linear functions.
            box: bounds of the attributions, (N, D) each, finite.
            value: what the box alone says, (N,).
            above: which side.
        """


@dataclass(frozen=True)
class Sum:
    """then(sum_i g_i a_i + w_i phi(a_i - c_i)), for a function `then` that does not fall.

    Args:
        phi: a key of `CONVEX`.
        weights: w, (N, D), of any sign.
        center: c, (N, D).
        linear: g, (N, D); None for 0.
        then: maps sums (N,) to the metric.
    """

    phi: str
    weights: Tensor
    center: Tensor
    linear: Tensor | None = None
    then: Callable[[Tensor], Tensor] = lambda total: total

    def lines(self, box: Box, above: bool) -> Line:
        """Linear functions above the sum for every point of a box, or below: two candidates.

        Slopes are rounded to the attribution's type first, and constants made for these.
        """
        convex, low, high = CONVEX[self.phi], *(s.double() - self.center.double() for s in box)
        weights = self.weights.double()
        linear = torch.zeros_like(weights) if self.linear is None else self.linear.double()
        with torch.no_grad():
            steep = (convex.slope(low), convex.slope(high))
            middle, width = convex.slope((low + high) / 2), high - low
            rise = (convex.value(high) - convex.value(low)) / torch.where(width > 0, width, 1.0)
            chord = torch.where(width > 0, rise.clamp(*steep), middle)
            is_chord = weights >= 0 if above else weights <= 0
            slopes = torch.stack([chord, torch.where(is_chord, chord, middle)], 1)
            slopes = slopes[:, :1] if bool(is_chord.all()) else slopes
            wide = (weights != 0)[:, None]
            functions = (linear[:, None] + weights[:, None] * slopes).to(self.weights.dtype)
            slopes = (functions.double() - linear[:, None]) / torch.where(
                wide, weights[:, None], 1.0)
            slopes = torch.where(wide, slopes, 0.0)
        ends = (convex.value(t)[:, None] - slopes * t[:, None] for t in (low, high))
        offset = torch.where(is_chord[:, None], torch.maximum(*ends), -convex.conjugate(slopes))
        most, center = box.size.double()[:, None], self.center.double()[:, None]
        sizes = weights.abs()[:, None] * (offset.abs() + slopes.abs() * (center.abs() + most))
        constants = weights[:, None] * (offset - slopes * center)
        return Line(functions, constants.sum(2), (sizes + linear.abs()[:, None] * most).sum(2))

    def bound(self, bounder: Bounder, box: Box, value: Tensor, above: bool) -> Tensor:
        """As of `Whole`."""
        line = self.lines(box, above)
        low, high = bounded(bounder, line)
        return self.then((high.amin(1) if above else low.amax(1)).to(value))


@dataclass(frozen=True)
class Share:
    """sum_i m_i phi(a_i) / sum_i phi(a_i), 0 where that is 0 / 0, for a set m and phi >= 0.

    With s the share, F_t = sum_i (m_i - t) phi(a_i) is (s - t) sum_i phi(a_i): bounds of F_t and
    of the whole sum are a bound of s, for every t.

    Args:
        phi: "absolute" or "positive".
        mask: m, (N, D), 0 and 1.
        nominal: the share of the nominal attribution, (N,).
    """

    phi: str
    mask: Tensor
    nominal: Tensor

    def bound(self, bounder: Bounder, box: Box, value: Tensor, above: bool) -> Tensor:
        """As of `Whole`."""
        start, end = (torch.as_tensor(t).to(self.mask) for t in (self.nominal, value.detach()))
        levels = [((start + share * (end - start)) * FINE).round() / FINE for share in LEVELS]
        center = torch.zeros_like(self.mask)
        lines = [Sum(self.phi, self.mask - t[:, None], center).lines(box, above) for t in levels]
        total = [Sum(self.phi, torch.ones_like(self.mask), center).lines(box, side)
                 for side in (False, True)]
        low, high = bounded(bounder, joined([*lines, *total]))
        counts = [line.constants.shape[1] for line in (*lines, *total)]
        *lows, least_total, _ = low.split(counts, 1)
        *highs, _, most_total = high.split(counts, 1)
        sums = Box(least_total.amax(1).clamp(min=0), most_total.amin(1).clamp(min=0))
        found = value
        for t, low_t, high_t in zip(levels, lows, highs, strict=True):
            if above:
                over = high_t.amin(1)
                new = t + over / torch.where(over > 0, sums.lower, sums.upper)
                found = torch.fmin(found, new.clamp(min=0).to(value))
            else:
                over = low_t.amax(1)
                new = t + over / torch.where(over > 0, sums.upper, sums.lower)
                found = torch.fmax(found, torch.where(over.isfinite(), new, 0.0).to(value))
        return found


@dataclass(frozen=True)
class Cosine:
    """then(cosine of a - c and n), of which a lower bound is known, for n with no mean if c is one.

    With P = <a, n>, |n| = 1, S = |a - c|^2, and h(nu) = min of P - nu S, the cosine is at least
    sqrt(4 nu h(nu)) for every nu (see `angle`). h is concave: between two nu it lies above the line
    through lower bounds of both values.

    Args:
        direction: n times any length, (N, D).
        center: c, (N, D), the same for all entries.
        then: maps the cosine to the metric, with the same sense or the opposite one.
    """

    direction: Tensor
    center: Tensor
    then: Callable[[Tensor], Tensor] = lambda cosine: cosine

    def bound(self, bounder: Bounder, box: Box, value: Tensor, above: bool) -> Tensor:
        """As of `Whole`; `above` makes no difference to the cosine."""
        n = self.direction.double()
        smallest = least(n.dtype, 0.25)
        n = n / torch.linalg.vector_norm(n, dim=1, keepdim=True).clamp(min=smallest)
        n = n.to(self.direction)
        with torch.no_grad():
            middle = box.center.double() - self.center.double()
            best = (n * middle).sum(1) / (2 * middle.square().sum(1)).clamp(min=smallest)
            nus = [(factor * best.clamp(min=0)).to(n) for factor in NEAR]
        lines = [Sum("square", -nu[:, None].expand_as(n), self.center, n).lines(box, False)
                 for nu in nus]
        counts = [line.constants.shape[1] for line in lines]
        low, _ = bounded(bounder, joined(lines))
        heights = torch.stack([part.amax(1) for part in low.split(counts, 1)], 1)
        squared = _highest(torch.stack(nus, 1).double(), heights)
        squared = squared / n.double().square().sum(1).clamp(min=0.5)
        return self.then(torch.where(squared > 0, squared.clamp(0, 1).sqrt(), -1.0).to(value))


def bounded(bounder: Bounder, line: Line) -> Box:
    """Bounds of linear functions with their constants, (N, K) each, moved outward by roundings."""
    low, high = (side.double() for side in bounder(line.functions))
    dtype = line.functions.dtype
    error = rounded(line.sizes.detach().to(dtype), OWN + line.functions.shape[2]).double()
    if dtype != torch.float64:  # constants are made in a type in which they hardly round
        error = rounded(line.sizes.detach(), OWN + line.functions.shape[2])
    return Box(low + line.constants, high + line.constants).outward(error)


def joined(lines: list[Line]) -> Line:
    """Functions of several sums as one."""
    return Line(*(torch.cat(parts, 1) for parts in zip(*lines, strict=True)))


def _highest(nu: Tensor, height: Tensor) -> Tensor:
    """The largest 4 nu h of a piecewise linear function h through (nu, height), (N, K), (N,)."""
    best = (4 * nu * height).amax(1)
    (a, b), (ha, hb) = ((t[:, :-1], t[:, 1:]) for t in (nu, height))
    fall = (ha - hb) / torch.where(b > a, b - a, 1.0)
    top = ((ha + fall * a) / (2 * torch.where(fall > 0, fall, 1.0))).clamp(a, b)
    within = 4 * top * (ha - fall * (top - a))
    return torch.maximum(best, torch.where(fall > 0, within, best[:, None]).amax(1))
