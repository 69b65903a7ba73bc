"""Softmax along one dimension: its logarithm, and the weighted means in its gradient."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..boxes import Box
from ..relaxations.ranges import product_range
from ..relaxations.softmax import log_softmax_range, log_sum_exp_planes
from ..rounding import least
from .bound import BoundOperator, both_sides, box_of, flat_functions, value_of, weighted_sum
from .expansion import Expansion, reach
from .planes import halfway
from .registry import Operator, register

Plane = tuple[Tensor, Tensor]
"""Slopes, and what is added."""


class BoundAlong(BoundOperator):
    """An operator whose entries depend on those of their own line along a dimension."""

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        lines = [size.sum(self.settings["dim"], keepdim=True) for size in sizes if size is not None]
        return functools.reduce(torch.add, lines).expand(-1, *self.output_shape[1:])


def log_sum_exp(box: Box, dim: int) -> tuple[Plane, Plane]:
    """Planes below and above log sum_j exp(x_j) along a dimension, counted from the end."""
    below, above = log_sum_exp_planes(*box.map(lambda side: side.movedim(dim, -1)))
    return (below[0].movedim(-1, dim), below[1].movedim(-1, dim)), (above[0].movedim(-1, dim),
                                                                    above[1].movedim(-1, dim))


def halfway_log_sum_exp(box: Box, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes, offset and error of what lies halfway between these planes."""
    (slope,), offset, error = halfway(*log_sum_exp(box, dim), [box],
                                      total=lambda x: x.sum(dim, keepdim=True))
    return slope, offset, error


class BoundLogSoftmax(BoundAlong):
    """l_i = x_i - L with L = log sum_j exp(x_j) between two planes, the same for all i."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[0][1] > boxes[0][0]

    def bound_interval(self, *boxes: Box) -> Box:
        dim = self.settings["dim"]
        box = log_softmax_range(*boxes[0].map(lambda side: side.movedim(dim, -1)))
        return box.map(lambda side: side.movedim(-1, dim))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = box_of(nodes[0])
        dim = self.settings["dim"] - box[0].ndim
        below, above = log_sum_exp(box, dim)

        def side(for_positive: Plane, for_negative: Plane
                 ) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            """Bound A * (x - L), by one plane of L where A > 0 and the other elsewhere."""

            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                positive, negative = (A.clamp(min=0).sum(dim, keepdim=True),
                                      A.clamp(max=0).sum(dim, keepdim=True))
                offsets = positive * for_positive[1] + negative * for_negative[1]
                return ([A - positive * for_positive[0] - negative * for_negative[0]],
                        -flat_functions(offsets).sum(2))

            return bound

        return both_sides(last_lower, last_upper, side(above, below), side(below, above))

    def expansion(self, *at: Tensor) -> Expansion:
        x, dim = at[0], self.settings["dim"] - at[0].ndim
        slope, offset, error = halfway_log_sum_exp(box_of(self.inputs[0]), dim)

        def linear(change: Tensor) -> Tensor:
            return change - (slope * change).sum(dim, keepdim=True)

        def magnitude(size: Tensor) -> Tensor:
            others = (slope.abs() * size).sum(dim, keepdim=True) - slope.abs() * size
            return (1 - slope).abs() * size + others

        return Expansion(linear(x) - offset, linear, magnitude, error.expand_as(x))


class BoundLogSumExp(BoundAlong):
    """L = log sum_j exp(x_j) along a dimension, between planes; it increases in all x_j."""

    def relaxed_inputs(self) -> list[int]:
        return [0]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        return boxes[0][1] > boxes[0][0]

    def bound_interval(self, *boxes: Box) -> Box:
        return boxes[0].map(self.forward)

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        box = box_of(nodes[0])
        dim = self.settings["dim"] - box[0].ndim
        below, above = log_sum_exp(box, dim)

        def side(for_positive: Plane, for_negative: Plane
                 ) -> Callable[[Tensor], tuple[list[Tensor | None], Tensor]]:
            def bound(A: Tensor) -> tuple[list[Tensor | None], Tensor]:
                positive, negative = A.clamp(min=0), A.clamp(max=0)
                offsets = positive * for_positive[1] + negative * for_negative[1]
                return ([positive * for_positive[0] + negative * for_negative[0]],
                        flat_functions(offsets).sum(2))

            return bound

        return both_sides(last_lower, last_upper, side(below, above), side(above, below))

    def expansion(self, *at: Tensor) -> Expansion:
        dim = self.settings["dim"] - at[0].ndim
        slope, offset, error = halfway_log_sum_exp(box_of(self.inputs[0]), dim)

        def linear(change: Tensor, slope: Tensor = slope) -> Tensor:
            return (slope * change).sum(dim, keepdim=True)

        return Expansion(linear(at[0]) + offset, linear,
                         functools.partial(linear, slope=slope.abs()), error)


class BoundWeightedCenter(BoundAlong):
    """h_i = sum_j p_j (g_i - g_j) = g_i sum_j p_j - sum_j p_j g_j.

    With the setting `total` the p_j are known to add up to it, whatever their intervals say.
    """

    def relaxed_inputs(self) -> list[int]:
        return [0, 1]

    def open_entries(self, index: int, *boxes: Box) -> Tensor:
        lower, upper = boxes[1 - index]
        return (upper > lower).any(self.settings["dim"], keepdim=True).expand_as(lower)

    def bound_interval(self, *boxes: Box) -> Box:
        dim, total = self.settings["dim"], self.settings["total"]
        (gl, gu), (pl, pu) = ([side.movedim(dim, -1) for side in box] for box in boxes)
        other = ~torch.eye(gl.shape[-1], dtype=torch.bool, device=gl.device)
        # Differences g_i - g_j, at [..., i, j]; none between an entry and itself.
        low, high = ((gl[..., None] - gu[..., None, :]) * other,
                     (gu[..., None] - gl[..., None, :]) * other)
        pl, pu = pl[..., None, :], pu[..., None, :]
        if total is None:
            box = product_range(Box(pl, pu), Box(low, high)).map(lambda side: side.sum(-1))
        else:
            box = Box(-largest_average(-low, pl, pu, total), largest_average(high, pl, pu, total))
        return box.map(lambda side: side.movedim(-1, dim))

    def bound_linear(self, last_lower: Tensor | None, last_upper: Tensor | None,
                     *nodes: Any) -> Any:
        (g, g_radius), (p, p_radius) = (box_of(node).around for node in nodes)
        dim, total = self.settings["dim"] - p.ndim, self.settings["total"]
        sums, sums_radius = p.sum(dim, keepdim=True), p_radius.sum(dim, keepdim=True)
        constant = (p * g).sum(dim, keepdim=True)
        error = (p_radius * g_radius).sum(dim, keepdim=True)
        if total is not None:
            mean = weighted_mean(g, p, dim)
            g = g - mean
            constant = (p * g).sum(dim, keepdim=True) - mean * (total - sums)
            sums = torch.full_like(sums, total)

        def bound(A: Tensor, side: int) -> tuple[list[Tensor | None], Tensor]:
            """Tangents of all products at the centres, and their errors, radius by radius."""
            added = A.sum(dim, keepdim=True)
            of_g, of_p = A * sums - added * p, -added * g
            bias = weighted_sum(added, constant) + side * weighted_sum(added.abs(), error)
            if total is None:
                of_p = of_p + (A * g).sum(dim, keepdim=True)
                bias = bias + side * weighted_sum(A.abs(), sums_radius * g_radius)
                bias = bias - weighted_sum(A, sums * g)
            coefficients: list[Tensor | None] = []
            for coefficient, node in zip((of_g, of_p), nodes, strict=True):
                if not node.perturbed:
                    bias = bias + weighted_sum(coefficient, value_of(node))
                coefficients.append(coefficient if node.perturbed else None)
            return coefficients, bias

        return both_sides(last_lower, last_upper, functools.partial(bound, side=-1),
                          functools.partial(bound, side=1))

    def dependence(self, *sizes: Tensor | None) -> Tensor:
        g, p = sizes
        return super().dependence(g, None if p is None else p * self.live(0).amax(
            self.settings["dim"], keepdim=True))

    def expansion(self, *at: Tensor) -> Expansion:
        (g, p), dim, total = at, self.settings["dim"] - at[0].ndim, self.settings["total"]
        r, s = (reach(box_of(node), x) for node, x in zip(self.inputs, at, strict=True))
        error = (r * s).sum(dim, keepdim=True).expand_as(g)
        whole = p.sum(dim, keepdim=True) if total is None else torch.full_like(p, total)
        if total is None:
            error = error + r * s.sum(dim, keepdim=True)
        else:
            g = g - weighted_mean(g, p, dim)
        of_changes = None if total is None else 0.0  # what changes of p add up to

        def linear(dg: Tensor | None, dp: Tensor | None) -> Tensor:
            parts = [] if dg is None else [_weighted_center(dg, p, dim, total)]
            parts += [] if dp is None else [_weighted_center(g, dp, dim, of_changes)]
            return functools.reduce(torch.add, parts)

        def magnitude(dg: Tensor | None, dp: Tensor | None) -> Tensor:
            result = torch.zeros_like(g)
            if dg is not None:
                of_all = (p.abs() * dg).sum(dim, keepdim=True)
                result = result + (whole - p).abs() * dg + of_all - p.abs() * dg
            if dp is not None:
                result = result + (g.abs() * dp).sum(dim, keepdim=True)
                if total is None:
                    result = result + g.abs() * dp.sum(dim, keepdim=True)
            return result

        return Expansion(_weighted_center(g, p, dim, total), linear, magnitude, error)


def weighted_mean(g: Tensor, p: Tensor, dim: int) -> Tensor:
    """The mean that is taken from g where p adds up to what is known: h is the same, and p counts
    least.
    """
    weights = p.clamp(min=least(p.dtype))
    return (weights * g).sum(dim, keepdim=True) / weights.sum(dim, keepdim=True)


def largest_average(values: Tensor, low: Tensor, high: Tensor, total: float) -> Tensor:
    """Largest sum_j p_j v_j over p in [low, high] that add up to `total`; along the last dimension.

    What the lower bounds leave of the total goes to the largest values first, to each as much as
    its upper bound allows: exact.

    Example:
        >>> p = torch.tensor([0.2, 0.1, 0.]), torch.tensor([0.5, 0.6, 1.])
        >>> round(float(largest_average(torch.tensor([3., 2., 1.]), *p, 1.)), 6)
        2.5
    """
    values, order = values.sort(-1, descending=True)
    low, high = (side.expand_as(values).gather(-1, order) for side in (low, high))
    room = high - low
    rest = (total - low.sum(-1, keepdim=True)).clamp(min=0)
    given = torch.minimum((rest - (room.cumsum(-1) - room)).clamp(min=0), room)
    return ((low + given) * values).sum(-1)


def _weighted_center(g: Tensor, p: Tensor, dim: int, total: float | None) -> Tensor:
    mean = (p * g).sum(dim, keepdim=True)
    return g * (p.sum(dim, keepdim=True) if total is None else total) - mean


ROWS = [
    Operator("log_softmax", lambda x, dim: x.log_softmax(dim), BoundLogSoftmax, "nn.LogSoftmax, "
             "nn.Softmax, attention", auto_lirpa="0.3: no linear bounds; 0.7.1: no gradient"),
    Operator("log_sum_exp", lambda x, dim: x.logsumexp(dim, keepdim=True), BoundLogSumExp,
             "torch.logsumexp"),
    Operator("weighted_center", _weighted_center, BoundWeightedCenter, "gradient of nn.Softmax and "
             "attention"),
]
for row in ROWS:
    register(row)
